// PCI bus 0 behind the type-1 configuration ports (PCI Local Bus Specification 3.0, 3.2.2.3): slots, BARs, decoding.
// Type-0 headers only, function 0 only, memory BARs of 32 bits, no bridges, no INTx.
import { BAR_END, BAR_START } from "./layout.ts";
import type { PciFunction } from "./pci.ts";

const COMMAND = 0x04, COMMAND_MEMORY = 0x2;
const BAR0 = 0x10, BARS = 6;
const SLOTS = 32;

interface Slot {
  readonly function: PciFunction;
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
  /** CONFIG_ADDRESS, 32 bits unsigned: which register CONFIG_DATA means. A guest's lock keeps the two together. */
  address = 0;

  constructor() {
    this.add(new HostBridge());
  }

  /** Puts a function into the next slot, with addresses for its BARs; the guest may move them. Before the guest runs. */
  add(pciFunction: PciFunction): void {
    if (this.slots.length >= SLOTS) throw new Error(`Cannot add a PCI device: all ${SLOTS} slots are taken`);
    const slot: Slot = { function: pciFunction, bars: new Uint32Array(BARS) };
    for (const bar of pciFunction.bars) {
      const address = Math.ceil(this.nextBar / bar.size) * bar.size;
      if (address + bar.size > BAR_END) throw new Error("Cannot add a PCI device: no room for its BARs");
      this.nextBar = address + bar.size;
      slot.bars[bar.index] = address;
    }
    this.slots.push(slot);
  }

  /** An access to CONFIG_DATA, `offset` 0 to 3 bytes into it and not beyond it. */
  configRead(offset: number, size: number): number {
    const slot = this.addressed();
    if (slot === undefined) return 0xffffffff;
    return this.readRegister(slot, this.register + offset, size);
  }

  configWrite(offset: number, size: number, value: number): void {
    const slot = this.addressed();
    if (slot === undefined) return;
    const register = this.register + offset;
    if (register >= BAR0 && register < BAR0 + BARS * 4) {
      if (size === 4) this.writeBar(slot, (register - BAR0) >> 2, value);
    } else {
      slot.function.configWrite(register, size, value);
    }
    if (register < BAR0 + BARS * 4) this.decode(slot);
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
    });
  }

  private addressed(): Slot | undefined {
    const { address } = this;
    if (address < 0x8000_0000 || (address & 0x00ff_0700) !== 0) return undefined;
    return this.slots[(address >>> 11) & 0x1f];
  }

  private get register(): number { return this.address & 0xfc; }

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
}

const hits = (bar: { readonly address: number; readonly size: number }, gpa: number, size: number): boolean =>
  bar.address !== 0 && gpa >= bar.address && gpa + size <= bar.address + bar.size;
