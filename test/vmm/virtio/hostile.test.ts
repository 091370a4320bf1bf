// Drivers that break the rules, by hand and at random: nothing may throw, hang, touch memory outside of the guest's, or grow.
// A failure prints its seed; DORMOUSE_FUZZ_SEED=… runs that one, DORMOUSE_FUZZ_ROUNDS=… as many as you have time for.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SYS } from "../../../src/ffi/abi/syscalls.ts";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { closeFd, pwriteAll, tryRead, tryWrite } from "../../../src/ffi/fd.ts";
import { must } from "../../../src/ffi/syscall.ts";
import { BalloonDevice } from "../../../src/vmm/devices/balloon.ts";
import { mapHeader, mapLayout } from "../../../src/block-map.ts";
import { BlockMap } from "../../../src/vmm/devices/block/block-map.ts";
import { BlockDevice } from "../../../src/vmm/devices/block/device.ts";
import { Layers } from "../../../src/vmm/devices/block/layers.ts";
import { UringIo } from "../../../src/vmm/devices/block/uring.ts";
import { ConsoleDevice } from "../../../src/vmm/devices/console/device.ts";
import { FramedPort } from "../../../src/vmm/devices/console/framed-port.ts";
import { LogSink } from "../../../src/vmm/devices/console/log-sink.ts";
import { SinkPort } from "../../../src/vmm/devices/console/port.ts";
import { NetDevice } from "../../../src/vmm/devices/net/device.ts";
import { RngDevice } from "../../../src/vmm/devices/rng.ts";
import { VsockDevice } from "../../../src/vmm/devices/vsock/device.ts";
import { BAR } from "../../../src/vmm/virtio/config-space.ts";
import type { Device } from "../../../src/vmm/virtio/device.ts";
import { Driver, MEMORY } from "../driver.ts";

const NEEDS_RESET = 0x40;
let dir = "";
let cleanup: (() => void)[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "dormouse-hostile-"));
});
afterEach(() => {
  for (const step of cleanup.splice(0).reverse()) step();
  rmSync(dir, { recursive: true });
});

function file(name: string, bytes: number): number {
  writeFileSync(join(dir, name), new Uint8Array(bytes));
  const fd = openSync(join(dir, name), "r+");
  cleanup.push(() => closeSync(fd));
  return fd;
}

const AF_UNIX = 1, SOCK_STREAM = 1, SOCK_SEQPACKET = 5, SOCK_NONBLOCK = 0o4000;
function pair(type: number): [number, number] {
  const fds = new Int32Array(2);
  must("Cannot make a socket pair", SYS.socketpair, AF_UNIX, type | SOCK_NONBLOCK, 0, fds);
  return [fds[0]!, fds[1]!];
}

interface Rig {
  readonly device: Device;
  /** The outside world does something. */
  readonly outside: () => void;
  /** Words of a header that the device may take for sound: so that the test gets past the first check. */
  readonly header?: (r: Random) => number[];
}
type Random = (below: number) => number;

/** Requests mostly within the disk, half of them of whole blocks. */
const blockHeader = (r: Random): number[] => [[0, 1, 4, 8, 11, 13, 99][r(7)]!, 0, r(10) === 0 ? r(0xffff_ffff) : r(2) === 0 ? r(256) * 8 : r(2048), 0];

const devices: Record<string, (epoll: Epoll) => Rig> = {
  block: (epoll) => {
    const io = UringIo.create(epoll)!;
    cleanup.push(() => io.close());
    const device = new BlockDevice({ name: "disk0", readonly: false, serial: "s", backing: { fd: file("disk", 1 << 20), bytes: 1 << 20 } }, io);
    return { device, outside: () => {}, header: blockHeader };
  },
  "layered block": (epoll) => {
    const io = UringIo.create(epoll)!, bytes = 1 << 20;
    const map = file("map", mapLayout(bytes).fileBytes);
    pwriteAll(map, mapHeader(bytes), 0);
    const layers = new Layers("disk0", bytes, [{ fd: file("top", bytes), map: new BlockMap("map0", map, bytes) }, { fd: file("disk", bytes), map: null }]);
    cleanup.push(() => io.close());
    return { device: new BlockDevice({ name: "disk0", readonly: false, serial: "s", backing: layers }, io), outside: () => {}, header: blockHeader };
  },
  net: (epoll) => {
    const [tap, wire] = pair(SOCK_SEQPACKET);
    cleanup.push(() => closeFd(tap), () => closeFd(wire));
    const frame = new Uint8Array(1000), sink = new Uint8Array(70_000);
    const outside = () => {
      tryWrite(wire, frame, frame.length);
      while (tryRead(wire, sink, sink.length) > 0);
    };
    return { device: new NetDevice({ fd: tap, mac: new Uint8Array(6) }, epoll, () => {}), outside };
  },
  vsock: (epoll) => {
    const device = new VsockDevice(3, epoll);
    const open: number[] = [];
    cleanup.push(() => open.forEach((fd) => closeFd(fd)));
    device.listener = () => {
      const [ours, theirs] = pair(SOCK_STREAM);
      open.push(ours);
      return theirs;
    };
    const outside = () => {
      const [ours, theirs] = pair(SOCK_STREAM);
      open.push(ours);
      if (open.length > 20) closeFd(open.shift()!);
      device.connect(1024, theirs, () => {});
      for (const fd of open) tryWrite(fd, new Uint8Array(500), 500);
    };
    let port = 0;
    device.listener = ((listen) => (to: number) => {
      port = to;
      return listen(to);
    })(device.listener);
    const header = (r: Random) => [3, 0, 2, 0, r(4), r(3) === 0 ? port : 0x4000_0000 + r(30), r(3) === 0 ? r(70_000) : 0, (r(9) << 16) | (r(20) === 0 ? 2 : 1), r(4), r(3) * 1000, r(2000)];
    return { device, outside, header };
  },
  console: () => {
    const sink = new LogSink([file("a", 0), file("b", 0)], 1 << 20);
    const port = new FramedPort("dormouse", () => {}, () => {});
    return { device: new ConsoleDevice([new SinkPort("console", sink), port]), outside: () => void port.send(1, new Uint8Array(300)), header: (r) => [r(3), r(9) | (r(2) << 16)] };
  },
  rng: () => ({ device: new RngDevice(), outside: () => {} }),
  balloon: () => {
    const device = new BalloonDevice(() => {});
    return { device, outside: () => void device.requestStats(() => {}) };
  },
};

/** mulberry32: small, seeded, good enough to wander. */
function random(seed: number): Random {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** The main loop must come to rest by itself. */
function settle(d: Driver): void {
  for (let i = 0; i < 20_000; i++) if (d.epoll.poll(0) === 0) return;
  throw new Error("the main loop does not come to rest");
}

const seeds = (): number[] => {
  const one = process.env["DORMOUSE_FUZZ_SEED"];
  return one === undefined ? Array.from({ length: Number(process.env["DORMOUSE_FUZZ_ROUNDS"] ?? 8) }, (_, i) => i + 1) : [Number(one)];
};

function addressOf(r: Random): number {
  switch (r(12)) {
    case 0: return MEMORY - r(64);
    case 1: return 2 ** 32 - r(4096);
    case 2: return 2 ** 52 + r(1000);
    case 3: return 0x10_0000 + r(0x4_0000); // the rings themselves
    case 4: return r(2) * 0xffff_ffff;
    default: return 0x80_0000 + r(0x100_0000);
  }
}

const lengthOf = (r: Random): number => [0, 1, 12, 16, 44, 511, 512, 4096, 65_536, MEMORY, 0x7fff_ffff, 0xffff_ffff][r(12)]!;

function scribble(d: Driver, queue: number, r: Random): void {
  const q = d.queues[queue]!;
  for (let i = 0; i < q.size; i++) q.writeDesc(q.desc, i, addressOf(r), lengthOf(r), r(5) === 0 ? r(65_536) : r(4), r(3) === 0 ? r(65_536) : r(q.size));
  const table = 0x80_0000 + r(1000) * 16;
  for (let i = 0; i < 64; i++) q.writeDesc(table, i, addressOf(r), lengthOf(r), r(8), r(70));
  if (r(2) === 0) q.writeDesc(q.desc, r(q.size), table, r(2) === 0 ? 64 * 16 : r(2000), 4 + r(3), r(q.size));
  for (let i = 0; i < 0x1000; i += 4) d.view.setUint32(0x80_0000 + i * 64, r(2) === 0 ? r(20) : r(0xffff_ffff), true); // headers
  if (r(4) === 0) d.view.setUint16(q.avail + 2, r(65_536), true);
  else for (let i = r(64); i > 0; i--) q.publish(r(8) === 0 ? r(65_536) : r(q.size));
}

/** Chains that are sound as such, with contents that may be. */
function offerSound(d: Driver, queue: number, r: Random, header: (r: Random) => number[]): void {
  const q = d.queues[queue]!;
  for (let i = r(30); i > 0; i--) {
    const words = header(r), at = 0x300_0000 + i * 256;
    words.forEach((word, n) => d.view.setUint32(at + n * 4, word, true));
    const data = Array.from({ length: r(3) }, () => ({ gpa: 0x310_0000 + r(1000) * 16, length: 1 + r(3) * 511 + r(2) * 65_536, write: r(2) === 0 }));
    data.sort((a, b) => Number(a.write) - Number(b.write));
    q.add([{ gpa: at, length: words.length * 4 }, ...data, { gpa: at + 200, length: 1, write: true }]);
  }
}

function restartIfBroken(d: Driver): void {
  if ((d.status & NEEDS_RESET) === 0 && (d.status & 4) !== 0) return;
  d.status = 0;
  for (let i = 0; d.status !== 0; i++) {
    if (i > 10_000) throw new Error("reset does not end");
    d.epoll.poll(10);
  }
  d.start();
}

describe.each(Object.keys(devices))("%s", (name) => {
  test("survives random rings", () => {
    for (const seed of seeds()) {
      const r = random(seed);
      const epoll = new Epoll();
      cleanup.push(() => epoll.close());
      const { device, outside, header } = devices[name]!(epoll);
      const d = new Driver(device, epoll).start();
      try {
        for (let round = 0; round < 60; round++) {
          const queue = r(device.queueSizes.length);
          if (r(3) === 0) scribble(d, queue, r);
          else offerSound(d, queue, r, header ?? ((some) => [some(256), 0, 0]));
          if (r(3) === 0) outside();
          if (d.platform.ioEvents.size > 0) d.queues[queue]!.kick();
          settle(d);
          restartIfBroken(d);
        }
      } catch (error) {
        throw new Error(`seed ${seed}: ${error instanceof Error ? error.stack : String(error)}`, { cause: error });
      }
      expect(d.log.length).toBeLessThan(20);
      d.status = 0;
      d.run(() => d.status === 0);
      d.close();
    }
  });

  test("survives random register accesses, while it runs", () => {
    for (const seed of seeds()) {
      const r = random(seed);
      const epoll = new Epoll();
      cleanup.push(() => epoll.close());
      const { device, outside } = devices[name]!(epoll);
      const d = new Driver(device, epoll).start();
      try {
        for (let i = 0; i < 4000; i++) {
          const size = [1, 2, 4][r(3)]!, value = r(3) === 0 ? r(16) : r(0xffff_ffff);
          const where = r(10);
          if (where < 5) d.pci.barWrite(0, r(0x40), size, value);
          else if (where < 7) d.pci.barWrite(0, Math.min(r(BAR.SIZE), BAR.SIZE - size), size, value);
          else if (where < 8) d.pci.configWrite(r(257 - size), size, value);
          else expect(d.pci.barRead(0, Math.min(r(BAR.SIZE), BAR.SIZE - size), size)).toBeGreaterThanOrEqual(0);
          if (i % 50 === 0) {
            outside();
            settle(d);
          }
          if (i % 400 === 0) restartIfBroken(d);
        }
        settle(d);
      } catch (error) {
        throw new Error(`seed ${seed}: ${error instanceof Error ? error.stack : String(error)}`, { cause: error });
      }
      expect(d.log.length).toBeLessThan(30);
      d.status = 0;
      d.run(() => d.status === 0);
      d.close();
    }
  });

  test("every register takes every size", () => {
    const epoll = new Epoll();
    cleanup.push(() => epoll.close());
    const d = new Driver(devices[name]!(epoll).device, epoll);
    for (const value of [0, 1, 0xffff_ffff]) {
      for (const size of [1, 2, 4]) {
        for (let offset = 0; offset + size <= BAR.SIZE; offset += offset < 0x40 ? 1 : 61) {
          d.pci.barWrite(0, offset, size, value);
          expect(d.pci.barRead(0, offset, size)).toBeLessThanOrEqual(0xffff_ffff);
        }
        for (let offset = 0; offset + size <= 256; offset++) {
          d.pci.configWrite(offset, size, value);
          expect(d.pci.configRead(offset, size)).toBeLessThanOrEqual(0xffff_ffff);
        }
      }
    }
    d.status = 0;
    d.run(() => d.status === 0);
  });
});

// --- by hand: each breaks one rule

function broken(breakIt: (d: Driver) => void): Driver {
  const epoll = new Epoll();
  cleanup.push(() => epoll.close());
  const d = new Driver(new RngDevice(), epoll).start();
  settle(d);
  d.platform.took(101);
  breakIt(d);
  d.queues[0]?.kick();
  settle(d);
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
  settle(d);
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
