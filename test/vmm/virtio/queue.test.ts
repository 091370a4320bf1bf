// The queue alone: memory beyond the 32-bit hole and across 2 GiB, what is copied and trimmed.
import { afterEach, expect, test } from "bun:test";
import { Mapping } from "../../../src/ffi/memory.ts";
import { GuestMemory } from "../../../src/vmm/memory.ts";
import { Iovecs } from "../../../src/vmm/virtio/iovecs.ts";
import { Queue } from "../../../src/vmm/virtio/queue.ts";

const GIB = 2 ** 30, SIZE = 16;
const cleanup: (() => void)[] = [];
afterEach(() => cleanup.splice(0).forEach((step) => step()));

interface Rig { readonly queue: Queue; readonly memory: GuestMemory; readonly interrupts: () => number; offer(index: number, buffers: readonly (readonly [gpa: number, length: number, write: boolean])[]): void }

/** Rings at `base` of a guest with `size` bytes. */
function rig(size: number, base: number): Rig {
  const mapping = Mapping.anonymous(size);
  cleanup.push(() => mapping.close());
  const memory = GuestMemory.of(mapping);
  let interrupts = 0;
  const queue = new Queue(0, SIZE, memory, new Iovecs(64), { interrupt: () => void interrupts++, broken: (_i, reason) => { throw new Error(reason); } });
  Object.assign(queue, { desc: base, avail: base + 0x1000, used: base + 0x2000 });
  expect(queue.activate(true, true)).toBeNull();
  const put = (gpa: number, value: Uint8Array) => expect(memory.write(gpa, value)).toBe(true);
  let available = 0;
  return {
    queue, memory, interrupts: () => interrupts,
    offer(index, buffers) {
      buffers.forEach(([gpa, length, write], i) => {
        const d = new DataView(new ArrayBuffer(16));
        d.setBigUint64(0, BigInt(gpa), true);
        d.setUint32(8, length, true);
        d.setUint16(12, (write ? 2 : 0) | (i < buffers.length - 1 ? 1 : 0), true);
        d.setUint16(14, index + i + 1, true);
        put(base + (index + i) * 16, new Uint8Array(d.buffer));
      });
      put(base + 0x1000 + 4 + (available % SIZE) * 2, new Uint8Array([index, 0]));
      available++;
      put(base + 0x1002, new Uint8Array([available & 0xff, available >> 8]));
    },
  };
}

test("rings and buffers above 4 GiB", () => {
  const r = rig(6 * GIB, 5 * GIB);
  r.memory.write(5 * GIB + 0x10_0000, Buffer.from("header"));
  r.offer(0, [[5 * GIB + 0x10_0000, 6, false], [6.5 * GIB, 4096, true]]);
  expect(r.queue.pop()).toBe(true);
  const copy = new Uint8Array(6);
  expect(r.queue.payload.gather(r.queue.firstRead, r.queue.readCount, copy)).toBe(6);
  expect(Buffer.from(copy).toString()).toBe("header");
  expect(r.queue.arena.hva(r.queue.firstWrite)).toBe(r.memory.hva(6.5 * GIB, 4096));
  expect(r.queue.payload.scatter(r.queue.firstWrite, 1, Buffer.from("answer"))).toBe(6);
  r.queue.push(r.queue.head, 6);
  r.queue.flush();
  expect(Buffer.from(r.memory.read(6.5 * GIB, 6)!).toString()).toBe("answer");
  expect([...r.memory.read(5 * GIB + 0x2002, 2)!]).toEqual([1, 0]);
  expect(r.interrupts()).toBe(1);
});

test("a buffer across a 2 GiB line is copied whole", () => {
  const r = rig(3 * GIB, 0x10_0000);
  r.offer(0, [[2 * GIB - 3, 8, true]]);
  expect(r.queue.pop()).toBe(true);
  expect(r.queue.payload.viewOf(r.queue.firstWrite, 8)).toBeNull();
  r.queue.payload.scatter(r.queue.firstWrite, 1, Buffer.from("overline"));
  expect(Buffer.from(r.memory.read(2 * GIB - 3, 3)!).toString()).toBe("ove");
  expect(Buffer.from(r.memory.read(2 * GIB, 5)!).toString()).toBe("rline");
  r.queue.payload.poke(r.memory.hva(2 * GIB, 1), 0x21);
  expect(r.memory.read(2 * GIB, 1)![0]).toBe(0x21);
});

test("nothing reaches into the hole below 4 GiB", () => {
  const mapping = Mapping.anonymous(4 * GIB);
  cleanup.push(() => mapping.close());
  const broken: string[] = [];
  const memory = GuestMemory.of(mapping);
  const queue = new Queue(0, SIZE, memory, new Iovecs(64), { interrupt: () => {}, broken: (_i, reason) => void broken.push(reason) });
  Object.assign(queue, { desc: 3 * GIB, avail: 0x1000, used: 0x2000 });
  expect(queue.activate(false, false)).toContain("descriptors");
  Object.assign(queue, { desc: 0x10_0000, avail: 0x10_1000, used: 3 * GIB - 8 });
  expect(queue.activate(false, false)).toContain("used ring");
});

test("skip(), unskip() and limit() trim a list of iovecs", () => {
  const iovecs = new Iovecs(8);
  cleanup.push(() => iovecs.close());
  const lengths = (first: number, count: number) => Array.from({ length: count }, (_, i) => [iovecs.hva(first + i), iovecs.length(first + i)]);
  const reset = () => [[0x7fff_1234_5000, 10], [0x1000, 20], [0xffff_ffff, 30]].forEach(([hva, length], i) => iovecs.set(i, hva!, length!));
  reset();
  expect(iovecs.skip(0, 15)).toBe(1);
  expect(lengths(1, 2)).toEqual([[0x1005, 15], [0xffff_ffff, 30]]);
  iovecs.unskip();
  expect(lengths(1, 2)).toEqual([[0x1000, 20], [0xffff_ffff, 30]]);
  expect(iovecs.skip(0, 10)).toBe(1);
  expect(iovecs.limit(1, 2, 20)).toBe(1);
  expect(iovecs.limit(1, 2, 21)).toBe(2);
  expect(lengths(1, 2)).toEqual([[0x1000, 20], [0xffff_ffff, 1]]);
  reset();
  expect(iovecs.limit(0, 3, 100)).toBe(3);
  expect(iovecs.skip(0, 60)).toBe(3);
});

test("chains that are given back come again in order", () => {
  const r = rig(64 * 2 ** 20, 0x10_0000);
  for (let i = 0; i < 3; i++) r.offer(i, [[0x20_0000 + i * 4096, 16, true]]);
  const pop = () => (r.queue.pop() ? r.queue.head : -1);
  expect([pop(), pop(), pop(), pop()]).toEqual([0, 1, 2, -1]);
  r.queue.unpop(2);
  expect([pop(), pop(), pop()]).toEqual([1, 2, -1]);
  expect(r.queue.waiting).toBe(0);
});
