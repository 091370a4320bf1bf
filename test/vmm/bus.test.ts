import { expect, test } from "bun:test";
import { PciBus } from "../../src/vmm/bus.ts";
import { BAR_END, BAR_START } from "../../src/vmm/layout.ts";
import type { PciFunction } from "../../src/vmm/pci.ts";
import { Machine, MACHINE_SIZE, PCI_MIRROR_OFFSET, PCI_VOLATILE_OFFSET } from "../../src/vmm/vcpu-shared.ts";

const DATA = 0xcfc, COMMAND = 0x04, BAR0 = 0x10, ENABLE_MEMORY = 0x2;

/** A function with one BAR, a register file behind it, and a PCI_CFG capability at 0x40. */
class Plain implements PciFunction {
  readonly bars = [{ index: 0, size: 0x2000, address: 0 }];
  readonly config = new DataView(new ArrayBuffer(256));
  readonly memory = new DataView(new ArrayBuffer(0x2000));
  readonly moves: number[] = [];
  constructor() {
    this.config.setUint32(0, 0x1041_1af4, true);
    this.config.setUint8(0x34, 0x40);
    this.config.setUint8(0x40, 0x09);
    this.config.setUint8(0x43, 5);
  }
  configRead(offset: number, size: number) { return size === 1 ? this.config.getUint8(offset) : size === 2 ? this.config.getUint16(offset, true) : this.config.getUint32(offset, true); }
  configWrite(offset: number, size: number, value: number) { if (offset === COMMAND && size === 2) this.config.setUint16(offset, value, true); }
  barRead(_bar: number, offset: number) { return this.memory.getUint32(offset, true); }
  barWrite(_bar: number, offset: number, _size: number, value: number) { this.memory.setUint32(offset, value, true); }
  barMoved(_bar: number, address: number) { this.moves.push(address); }
}

function bus() {
  const page = new ArrayBuffer(MACHINE_SIZE);
  const pci = new PciBus(new DataView(page), (slot) => new Uint8Array(page, PCI_MIRROR_OFFSET + slot * 256, 256));
  const device = new Plain();
  pci.add(device);
  const words = new Int32Array(page);
  const select = (slot: number, register: number) => { words[Machine.PCI_ADDRESS] = (0x8000_0000 | (slot << 11) | register) | 0; };
  return {
    pci, device, page, words, select,
    read: (slot: number, register: number) => { select(slot, register & 0xfc); return pci.configRead(DATA + (register & 3), 4); },
    write: (slot: number, register: number, size: number, value: number) => { select(slot, register & 0xfc); pci.configWrite(DATA + (register & 3), size, value); },
  };
}

test("PciBus shows a host bridge in slot 0 and says which slots are present", () => {
  const { read, words } = bus();
  expect(read(0, 0)).toBe(0x00081b36);
  expect(read(1, 0)).toBe(0x10411af4);
  expect(read(2, 0)).toBe(0xffffffff);
  expect(words[Machine.PCI_PRESENT]).toBe(0b11);
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

test("PciBus keeps the mirror that vCPUs read equal to what it answers, and marks the window register volatile", () => {
  const { pci, page, write, select } = bus();
  write(1, COMMAND, 2, ENABLE_MEMORY);
  write(1, BAR0, 4, 0xffffffff);
  const mirror = new DataView(page, PCI_MIRROR_OFFSET + 256, 256);
  for (let register = 0; register < 256; register += 4) {
    select(1, register);
    expect(mirror.getUint32(register, true)).toBe(pci.configRead(DATA, 4));
  }
  const dword = (0x40 + 16) >> 2;
  expect(new Uint8Array(page)[PCI_VOLATILE_OFFSET + 8 + (dword >> 3)]).toBe(1 << (dword & 7));
});

test("PciBus survives every access that a guest can make", () => {
  const { pci, words } = bus();
  let seed = 1;
  const random = () => (seed = (Math.imul(seed, 1103515245) + 12345) >>> 0);
  for (let i = 0; i < 20_000; i++) {
    words[Machine.PCI_ADDRESS] = random() | 0;
    const size = [1, 2, 4][random() % 3]!;
    const port = DATA + (size === 4 ? 0 : size === 2 ? (random() % 2) * 2 : random() % 4);
    pci.configWrite(port, size, random());
    expect(pci.configRead(port, size)).toBeGreaterThanOrEqual(0);
    pci.memoryWrite(random(), size, random());
    pci.memoryRead(random() * 2 ** 20, size);
  }
});
