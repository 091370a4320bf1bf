// Drivers that break the rules at random: nothing may throw, hang, touch memory outside of the guest's, or grow.
// A failure prints its seed; DORMOUSE_FUZZ_SEED=… runs that one, DORMOUSE_FUZZ_ROUNDS=… as many as you have time for.
import { afterEach, describe, expect, test } from "bun:test";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { BAR } from "../../../src/vmm/virtio/config-space.ts";
import { Driver, MEMORY, NEEDS_RESET } from "../driver.ts";
import { cleanUp, cleanup, rigs, type Random } from "./rigs.ts";

afterEach(cleanUp);

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

describe.each(Object.keys(rigs))("%s", (name) => {
  test("survives random rings", () => {
    for (const seed of seeds()) {
      const r = random(seed);
      const epoll = new Epoll();
      cleanup.push(() => epoll.close());
      const { device, outside, header } = rigs[name]!(epoll);
      const d = new Driver(device, epoll).start();
      try {
        for (let round = 0; round < 60; round++) {
          const queue = r(device.queueSizes.length);
          if (r(3) === 0) scribble(d, queue, r);
          else offerSound(d, queue, r, header ?? ((some) => [some(256), 0, 0]));
          if (r(3) === 0) outside();
          if (d.platform.ioEvents.size > 0) d.queues[queue]!.kick();
          d.settle();
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
      const { device, outside } = rigs[name]!(epoll);
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
            d.settle();
          }
          if (i % 400 === 0) restartIfBroken(d);
        }
        d.settle();
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
    const d = new Driver(rigs[name]!(epoll).device, epoll);
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
