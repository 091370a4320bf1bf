import { afterEach, expect, test } from "bun:test";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { BalloonDevice, type BalloonStats } from "../../../src/vmm/devices/balloon.ts";
import { Driver } from "../driver.ts";

const PAGE = 4096, INFLATE = 0, STATS = 2, REPORTING = 3;
const cleanup: (() => void)[] = [];
afterEach(() => cleanup.splice(0).forEach((step) => step()));

function rig(): { d: Driver; device: BalloonDevice; page: number } {
  const epoll = new Epoll();
  cleanup.push(() => epoll.close());
  const device: BalloonDevice = new BalloonDevice((hva, length) => d.mapping.forget(hva - d.mapping.address, length));
  const d = new Driver(device, epoll).start();
  const page = Math.ceil(d.alloc(64 * PAGE) / PAGE) * PAGE;
  d.bytes.fill(0xaa, page, page + 16 * PAGE);
  return { d, device, page };
}

const held = (d: Driver, page: number): boolean[] => Array.from({ length: 16 }, (_, i) => d.bytes[page + i * PAGE] === 0xaa);

test("inflated pages are given to the host", () => {
  const { d, device, page } = rig();
  const first = page / PAGE;
  const pfns = new Uint32Array([first, first + 1, first + 2, first + 9, 0xffff_ffff, 0xe0_0000]);
  d.queues[INFLATE]!.add([{ gpa: d.put(new Uint8Array(pfns.buffer)), length: pfns.byteLength }]);
  d.queues[INFLATE]!.kick();
  d.settle();
  expect(held(d, page)).toEqual(Array.from({ length: 16 }, (_, i) => ![0, 1, 2, 9].includes(i)));
  expect(device.discardedBytes).toBe(4 * PAGE);
});

test("reported pages are given to the host, whole ones only", () => {
  const { d, page } = rig();
  d.queues[REPORTING]!.add([{ gpa: page + PAGE, length: 4 * PAGE, write: true }, { gpa: page + 7 * PAGE + 1, length: 2 * PAGE, write: true }]);
  d.queues[REPORTING]!.kick();
  d.settle();
  expect(held(d, page)).toEqual(Array.from({ length: 16 }, (_, i) => ![1, 2, 3, 4, 8].includes(i)));
  expect(d.queues[REPORTING]!.takeUsed()).toHaveLength(1);
});

test("the target reaches the guest and its answer us", () => {
  const { d, device } = rig();
  device.setTarget(10 * PAGE);
  expect(d.platform.took(104)).toBe(true);
  expect(d.pci.barRead(0, 0x2000, 4)).toBe(10);
  d.pci.barWrite(0, 0x2004, 4, 7);
  expect(device.actual).toBe(7 * PAGE);
});

test("statistics come when they are asked for", () => {
  const { d, device } = rig();
  const got: BalloonStats[] = [];
  const stats = new DataView(new ArrayBuffer(20));
  stats.setUint16(0, 4, true);
  stats.setBigUint64(2, 1234n, true);
  stats.setUint16(10, 5, true);
  stats.setBigUint64(12, 99_999_999_999n, true);
  const gpa = d.put(new Uint8Array(stats.buffer));
  expect(device.requestStats((s) => void got.push(s))).toBe(false);
  const head = d.queues[STATS]!.add([{ gpa, length: 20 }]);
  d.queues[STATS]!.kick();
  d.settle();
  expect(d.queues[STATS]!.takeUsed()).toEqual([]);
  expect(device.requestStats((s) => void got.push(s))).toBe(true);
  expect(d.queues[STATS]!.takeUsed()).toEqual([{ id: head, length: 0 }]);
  d.queues[STATS]!.publish(head);
  d.queues[STATS]!.kick();
  d.settle();
  expect(got).toMatchObject([{ freeBytes: 1234, totalBytes: 99_999_999_999, availableBytes: null }]);
});
