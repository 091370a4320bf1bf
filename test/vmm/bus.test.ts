import { expect, test } from "bun:test";
import { PciBus } from "../../src/vmm/bus.ts";
import { BAR_END, BAR_START } from "../../src/vmm/layout.ts";
import type { PciFunction } from "../../src/vmm/pci.ts";

const COMMAND = 0x04, BAR0 = 0x10, ENABLE_MEMORY = 0x2;

/** A function with one BAR and a register file behind it. */
class Plain implements PciFunction {
  readonly bars = [{ index: 0, size: 0x2000, address: 0 }];
  readonly config = new DataView(new ArrayBuffer(256));
  readonly memory = new DataView(new ArrayBuffer(0x2000));
  readonly moves: number[] = [];
  constructor() {
    this.config.setUint32(0, 0x1041_1af4, true);
  }
  configRead(offset: number, size: number) { return size === 1 ? this.config.getUint8(offset) : size === 2 ? this.config.getUint16(offset, true) : this.config.getUint32(offset, true); }
  configWrite(offset: number, size: number, value: number) { if (offset === COMMAND && size === 2) this.config.setUint16(offset, value, true); }
  barRead(_bar: number, offset: number) { return this.memory.getUint32(offset, true); }
  barWrite(_bar: number, offset: number, _size: number, value: number) { this.memory.setUint32(offset, value, true); }
  barMoved(_bar: number, address: number) { this.moves.push(address); }
}

function bus() {
  const pci = new PciBus(), device = new Plain();
  pci.add(device);
  const select = (slot: number, register: number) => { pci.address = (0x8000_0000 | (slot << 11) | (register & 0xfc)) >>> 0; };
  return {
    pci, device,
    read: (slot: number, register: number) => { select(slot, register); return pci.configRead(register & 3, 4); },
    write: (slot: number, register: number, size: number, value: number) => { select(slot, register); pci.configWrite(register & 3, size, value); },
  };
}

test("PciBus shows a host bridge in slot 0, and nothing in empty slots", () => {
  const { read } = bus();
  expect(read(0, 0)).toBe(0x00081b36);
  expect(read(1, 0)).toBe(0x10411af4);
  expect(read(2, 0)).toBe(0xffffffff);
});

test("PciBus answers BAR sizing and gives addresses inside the hole", () => {
  const { read, write, device } = bus();
  const given = read(1, BAR0);
  expect(given).toBeGreaterThanOrEqual(BAR_START);
  expect(given % 0x2000).toBe(0);
  write(1, BAR0, 4, 0xffffffff);
  expect(read(1, BAR0)).toBe(0xffffe000);
  write(1, BAR0, 4, given);
  expect(device.moves).toEqual([]);
});

test("PciBus decodes a BAR only while the command register enables memory, and nowhere near RAM or the APICs", () => {
  const { pci, read, write, device } = bus();
  const given = read(1, BAR0);
  expect(pci.memoryRead(given, 4)).toBe(0xffffffff);
  write(1, COMMAND, 2, ENABLE_MEMORY);
  pci.memoryWrite(given + 8, 4, 42);
  expect(pci.memoryRead(given + 8, 4)).toBe(42);
  for (const bad of [0, 0x1000_0000, 0xfee0_0000, BAR_END]) {
    write(1, BAR0, 4, bad);
    expect(pci.memoryRead(given + 8, 4)).toBe(0xffffffff);
  }
  write(1, BAR0, 4, BAR_START + 0x10_0000);
  expect(pci.memoryRead(BAR_START + 0x10_0008, 4)).toBe(42);
  expect(device.moves).toEqual([given, 0, BAR_START + 0x10_0000]);
});

test("PciBus survives every access that a guest can make", () => {
  const { pci } = bus();
  let seed = 1;
  const random = () => (seed = (Math.imul(seed, 1103515245) + 12345) >>> 0);
  for (let i = 0; i < 20_000; i++) {
    pci.address = random();
    const size = [1, 2, 4][random() % 3]!;
    const offset = size === 4 ? 0 : size === 2 ? (random() % 2) * 2 : random() % 4;
    pci.configWrite(offset, size, random());
    expect(pci.configRead(offset, size)).toBeGreaterThanOrEqual(0);
    pci.memoryWrite(random(), size, random());
    pci.memoryRead(random() * 2 ** 20, size);
  }
});
