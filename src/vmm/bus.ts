// PCI bus 0 behind the type-1 configuration ports (PCI Local Bus Specification 3.0, 3.2.2.3): slots, BARs, decoding.
// Type-0 headers only, function 0 only, memory BARs of 32 bits, no bridges, no INTx.
import { BAR_END, BAR_START } from "./layout.ts";
import type { PciFunction } from "./pci.ts";
import { Machine, PCI_SLOTS, PCI_VOLATILE_OFFSET } from "./vcpu-shared.ts";

const COMMAND = 0x04, COMMAND_MEMORY = 0x2;
const BAR0 = 0x10, BARS = 6;
const CAPABILITIES = 0x34, CAP_VENDOR = 0x09, VIRTIO_PCI_CAP_PCI_CFG = 5;
const PCI_CONFIG_DATA = 0xcfc;

interface Slot {
  readonly function: PciFunction;
  readonly mirror: Uint8Array;
  /** Values that the guest wrote to the BAR registers; sizing writes all ones. */
  readonly bars: Uint32Array;
}

/** A host bridge, without which Linux takes type-1 configuration for absent (arch/x86/pci/direct.c, pci_sanity_check). */
class HostBridge implements PciFunction {
  readonly bars = [];
  private readonly config = new DataView(new ArrayBuffer(256));
  constructor() {
    this.config.setUint16(0x00, 0x1b36, true); // Red Hat
    this.config.setUint16(0x02, 0x0008, true); // generic host bridge
    this.config.setUint16(0x0a, 0x0600, true); // class: host bridge
  }
  configRead(offset: number, size: number): number {
    return size === 1 ? this.config.getUint8(offset) : size === 2 ? this.config.getUint16(offset, true) : this.config.getUint32(offset, true);
  }
  configWrite(): void {}
  barRead(): number { return 0xffffffff; }
  barWrite(): void {}
  barMoved(): void {}
}

export type PciBusState = readonly (readonly number[])[];

export class PciBus {
  private readonly slots: (Slot | undefined)[] = [];
  private nextBar = BAR_START;
  private readonly words: Int32Array;

  /** `machine`: the machine page that the vCPU Workers share; `mirror(slot)`: 256 bytes in it. */
  constructor(private readonly machine: DataView, private readonly mirror: (slot: number) => Uint8Array) {
    this.words = new Int32Array(machine.buffer, machine.byteOffset, 2);
    this.add(new HostBridge());
  }

  /** Puts a function into the next slot, with addresses for its BARs; the guest may move them. Before the guest runs. */
  add(pciFunction: PciFunction): void {
    const index = this.slots.length;
    if (index >= PCI_SLOTS) throw new Error(`Cannot add a PCI device: all ${PCI_SLOTS} slots are taken`);
    const slot: Slot = { function: pciFunction, mirror: this.mirror(index), bars: new Uint32Array(BARS) };
    for (const bar of pciFunction.bars) {
      const address = Math.ceil(this.nextBar / bar.size) * bar.size;
      if (address + bar.size > BAR_END) throw new Error("Cannot add a PCI device: no room for its BARs");
      this.nextBar = address + bar.size;
      slot.bars[bar.index] = address;
    }
    this.slots.push(slot);
    this.refresh(slot, 0, 256);
    this.markVolatile(index, slot);
    this.words[Machine.PCI_PRESENT]! |= 1 << index;
  }

  /** An access to CONFIG_DATA. Reads come here only where the mirror can't answer. */
  configRead(port: number, size: number): number {
    const slot = this.addressed();
    if (slot === undefined) return 0xffffffff;
    return this.readRegister(slot, this.register(port), size);
  }

  configWrite(port: number, size: number, value: number): void {
    const slot = this.addressed();
    if (slot === undefined) return;
    const register = this.register(port);
    if (register >= BAR0 && register < BAR0 + BARS * 4) {
      if (size === 4) this.writeBar(slot, (register - BAR0) >> 2, value);
    } else {
      slot.function.configWrite(register, size, value);
    }
    if (register < BAR0 + BARS * 4) this.decode(slot);
    this.refresh(slot, register & ~3, 4); // a write changes its own register only: a driver makes hundreds while it looks around
  }

  /** A memory access of 1, 2 or 4 bytes; outside of all BARs reads are all ones and writes are lost. */
  memoryRead(gpa: number, size: number): number {
    for (const slot of this.slots) {
      if (slot === undefined) continue;
      for (const bar of slot.function.bars)
        if (hits(bar, gpa, size)) return slot.function.barRead(bar.index, gpa - bar.address, size);
    }
    return 0xffffffff;
  }

  memoryWrite(gpa: number, size: number, value: number): void {
    for (const slot of this.slots) {
      if (slot === undefined) continue;
      for (const bar of slot.function.bars)
        if (hits(bar, gpa, size)) return slot.function.barWrite(bar.index, gpa - bar.address, size, value);
    }
  }

  /** What the guest wrote to the BAR registers, by slot. The rest of the configuration space is the functions' own. */
  save(): PciBusState { return this.slots.map((slot) => [...slot!.bars]); }

  /** After the functions' own state: BARs are decoded where they were. */
  restore(state: PciBusState): void {
    state.forEach((bars, index) => {
      const slot = this.slots[index]!;
      slot.bars.set(bars);
      this.decode(slot);
      this.refresh(slot, 0, 256);
    });
  }

  private addressed(): Slot | undefined {
    const address = Atomics.load(this.words, Machine.PCI_ADDRESS) >>> 0;
    if (address < 0x8000_0000 || (address & 0x00ff_0700) !== 0) return undefined;
    return this.slots[(address >>> 11) & 0x1f];
  }

  private register(port: number): number {
    return (Atomics.load(this.words, Machine.PCI_ADDRESS) & 0xfc) + (port - PCI_CONFIG_DATA);
  }

  private writeBar(slot: Slot, index: number, value: number): void {
    const bar = slot.function.bars.find((b) => b.index === index);
    // The low bits say "memory, 32 bits"; bits below the size are not writable.
    slot.bars[index] = bar === undefined ? 0 : (value & ~(bar.size - 1)) >>> 0;
  }

  private readRegister(slot: Slot, register: number, size: number): number {
    const inBars = register >= BAR0 && register < BAR0 + BARS * 4;
    if (!inBars) return slot.function.configRead(register, size);
    const value = slot.bars[(register - BAR0) >> 2]! >>> ((register & 3) * 8);
    return size === 4 ? value : value & (2 ** (size * 8) - 1);
  }

  /** Tells the function where its BARs are decoded now; nowhere (0) while the command register says so. */
  private decode(slot: Slot): void {
    const enabled = (slot.function.configRead(COMMAND, 2) & COMMAND_MEMORY) !== 0;
    for (const bar of slot.function.bars) {
      const base = slot.bars[bar.index]!;
      const inHole = base >= BAR_START && base + bar.size <= BAR_END; // elsewhere it would shadow RAM or the APICs
      const address = enabled && inHole ? base : 0;
      if (bar.address === address) continue;
      bar.address = address;
      slot.function.barMoved(bar.index, address);
    }
  }

  private refresh(slot: Slot, from: number, length: number): void {
    const view = new DataView(slot.mirror.buffer, slot.mirror.byteOffset, 256);
    for (let at = from; at < from + length; at += 4) view.setUint32(at, this.readRegister(slot, at, 4), true);
  }

  /** The data register of VIRTIO_PCI_CAP_PCI_CFG is a window into a BAR: reading it must reach the device. */
  private markVolatile(index: number, slot: Slot): void {
    const config = slot.function;
    let pointer = config.configRead(CAPABILITIES, 1);
    for (let hops = 0; pointer !== 0 && hops < 48; hops++) {
      if (config.configRead(pointer, 1) === CAP_VENDOR && config.configRead(pointer + 3, 1) === VIRTIO_PCI_CAP_PCI_CFG) {
        const dword = (pointer + 16) >> 2;
        const at = PCI_VOLATILE_OFFSET + index * 8 + (dword >> 3);
        this.machine.setUint8(at, this.machine.getUint8(at) | (1 << (dword & 7)));
      }
      pointer = config.configRead(pointer + 1, 1);
    }
  }
}

const hits = (bar: { readonly address: number; readonly size: number }, gpa: number, size: number): boolean =>
  bar.address !== 0 && gpa >= bar.address && gpa + size <= bar.address + bar.size;
