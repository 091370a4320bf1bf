// The ring of posted writes, as KVM fills it.
import { expect, test } from "bun:test";
import { PAGE_SIZE } from "../../src/ffi/memory.ts";
import { PciBus } from "../../src/vmm/bus.ts";
import { Ports } from "../../src/vmm/ports.ts";
import { PostedWrites } from "../../src/vmm/posted.ts";
import { Serial } from "../../src/vmm/serial.ts";

const ENTRIES = 170;

/** A ring, and the kernel's side of it. */
function ring() {
  const page = new ArrayBuffer(PAGE_SIZE), view = new DataView(page), words = new Int32Array(page);
  const post = (port: number, size: number, value: number): boolean => {
    const last = words[1]!, next = (last + 1) % ENTRIES;
    if (next === words[0]) return false;
    const at = 8 + last * 24;
    view.setBigUint64(at, BigInt(port), true);
    view.setUint32(at + 8, size, true);
    view.setUint32(at + 12, 1, true);
    view.setUint32(at + 16, value, true);
    words[1] = next;
    return true;
  };
  return { posted: new PostedWrites(page), post };
}

test("take() hands over what was written, in order and once, round and round", () => {
  const { posted, post } = ring(), seen: number[] = [], expected: number[] = [];
  for (let round = 0, next = 0; round < 20; round++) {
    while (post(0xcf8, 4, next)) expected.push(next++);
    posted.take((_port, _size, value) => seen.push(value));
  }
  expect(expected.length).toBe(20 * (ENTRIES - 1));
  expect(seen).toEqual(expected);
});

test("take() hands over as many bytes as were written, unsigned", () => {
  const { posted, post } = ring(), seen: number[][] = [];
  post(0xcf8, 1, 0xffff_ffff);
  post(0xcfa, 2, 0xffff_ffff);
  post(0xcf8, 4, 0xffff_ffff);
  posted.take((...write) => seen.push(write));
  expect(seen).toEqual([[0xcf8, 1, 0xff], [0xcfa, 2, 0xffff], [0xcf8, 4, 0xffff_ffff]]);
});

test("Ports takes the configuration address that was posted before each access that it matters to; parts of it are lost", () => {
  const { posted, post } = ring(), bus = new PciBus();
  const ports = new Ports(bus, new Serial(() => {}, () => {}), posted, () => {});
  post(0xcf8, 4, 0x8000_f800);
  expect(ports.read(0xcfc, 4)).toBe(0xffff_ffff);
  post(0xcf8, 4, 0x8000_0000);
  post(0xcf8, 1, 0x40);
  expect(ports.read(0xcfc, 4)).toBe(0x0008_1b36);
  expect(ports.read(0xcf8, 4)).toBe(0x8000_0000);
  post(0xcf8, 4, 0x8000_f800);
  ports.write(0xcf8, 4, 0x8000_0008); // the ring was full, say
  expect(ports.read(0xcf8, 4)).toBe(0x8000_0008);
  post(0xcf8, 4, 0x8000_f800);
  ports.settle();
  expect(bus.address).toBe(0x8000_f800);
});
