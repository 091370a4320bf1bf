// Drivers that break a rule each: the device asks for a reset, says why once, and works again after it.
import { afterEach, expect, test } from "bun:test";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { RngDevice } from "../../../src/vmm/devices/rng.ts";
import { Driver, MEMORY, NEEDS_RESET } from "../driver.ts";

const cleanup: (() => void)[] = [];
afterEach(() => { for (const step of cleanup.splice(0).reverse()) step(); });

function broken(breakIt: (d: Driver) => void): Driver {
  const epoll = new Epoll();
  cleanup.push(() => epoll.close());
  const d = new Driver(new RngDevice(), epoll).start();
  d.settle();
  d.platform.took(101);
  breakIt(d);
  d.queues[0]?.kick();
  d.settle();
  return d;
}

const cases: Record<string, (d: Driver) => void> = {
  "a loop of descriptors": (d) => {
    d.queues[0]!.writeDesc(d.queues[0]!.desc, 0, 0x80_0000, 16, 3, 1);
    d.queues[0]!.writeDesc(d.queues[0]!.desc, 1, 0x80_0000, 16, 3, 0);
    d.queues[0]!.publish(0);
  },
  "a buffer outside of memory": (d) => void d.queues[0]!.add([{ gpa: MEMORY - 8, length: 16, write: true }]),
  "an address that wraps": (d) => void d.queues[0]!.add([{ gpa: 2 ** 53, length: 16, write: true }]),
  "a length of 0": (d) => void d.queues[0]!.add([{ gpa: 0x80_0000, length: 0, write: true }]),
  "a chain of more than 2 GiB": (d) => {
    const table = d.alloc(64 * 16);
    d.queues[0]!.add(Array.from({ length: 40 }, () => ({ gpa: 0, length: MEMORY, write: true })), table);
  },
  "more than 1,024 buffers": (d) => {
    const table = d.alloc(1100 * 16);
    d.queues[0]!.add(Array.from({ length: 1100 }, () => ({ gpa: 0x80_0000, length: 1, write: true })), table);
  },
  "a readable buffer after a writable one": (d) => void d.queues[0]!.add([{ gpa: 0x80_0000, length: 16, write: true }, { gpa: 0x80_0000, length: 16 }]),
  "an indirect table in an indirect table": (d) => {
    const table = d.alloc(32);
    d.queues[0]!.add([{ gpa: 0x80_0000, length: 16, write: true }], table);
    d.queues[0]!.writeDesc(table, 0, table, 16, 4, 0);
  },
  "an indirect table that goes on": (d) => {
    d.queues[0]!.writeDesc(d.queues[0]!.desc, 0, d.alloc(32), 32, 5, 1);
    d.queues[0]!.publish(0);
  },
  "an indirect table of 17 bytes": (d) => {
    d.queues[0]!.writeDesc(d.queues[0]!.desc, 0, d.alloc(32), 17, 4, 0);
    d.queues[0]!.publish(0);
  },
  "an indirect table outside of memory": (d) => {
    d.queues[0]!.writeDesc(d.queues[0]!.desc, 0, MEMORY - 16, 32, 4, 0);
    d.queues[0]!.publish(0);
  },
  "a head out of range": (d) => d.queues[0]!.publish(64),
  "a next out of range": (d) => {
    d.queues[0]!.writeDesc(d.queues[0]!.desc, 0, 0x80_0000, 16, 3, 64);
    d.queues[0]!.publish(0);
  },
  "an available index that jumps": (d) => d.view.setUint16(d.queues[0]!.avail + 2, 500, true),
};

test.each(Object.keys(cases))("%s makes the device ask for a reset", (name) => {
  const d = broken(cases[name]!);
  expect(d.status & NEEDS_RESET).toBe(NEEDS_RESET);
  expect(d.platform.took(101)).toBe(true); // the configuration's vector
  expect(d.log).toHaveLength(1);
  d.status = 0;
  d.start();
  d.queues[0]!.add([{ gpa: d.alloc(16), length: 16, write: true }]);
  d.queues[0]!.kick();
  d.settle();
  expect(d.queues[0]!.takeUsed()).toEqual([{ id: 0, length: 16 }]);
});

test.each([["descriptors", "queue_desc_hi"], ["available ring", "queue_avail_hi"], ["used ring", "queue_used_hi"]] as const)("the %s outside of memory", (_what, register) => {
  const epoll = new Epoll();
  cleanup.push(() => epoll.close());
  const d = new Driver(new RngDevice(), epoll);
  d.placeBar();
  d.negotiate(d.offered);
  d.enableMsix();
  d.writeCommon("queue_select", 0);
  d.writeCommon(register, 0xffff_ffff);
  d.setupQueue(0);
  d.status = 15;
  expect(d.status & NEEDS_RESET).toBe(NEEDS_RESET);
  expect(d.log).toHaveLength(1);
});

test("a misaligned ring is refused", () => {
  const epoll = new Epoll();
  cleanup.push(() => epoll.close());
  const d = new Driver(new RngDevice(), epoll);
  d.negotiate(d.offered);
  d.writeCommon("queue_select", 0);
  d.writeCommon("queue_desc_lo", 0x10_0008);
  d.writeCommon("queue_avail_lo", 0x20_0000);
  d.writeCommon("queue_used_lo", 0x30_0000);
  d.writeCommon("queue_enable", 1);
  d.status = 15;
  expect(d.status & NEEDS_RESET).toBe(NEEDS_RESET);
});
