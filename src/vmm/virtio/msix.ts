// MSI-X of one function (PCI Local Bus Specification 3.0, 6.8.2): table, pending bits, masks. Every vector has an irqfd; masks are
// kept here, not in KVM's routes, so that a driver that masks and unmasks costs no change of routes. A changed route is brought to KVM
// when its interrupt is first raised: KVM takes all routes at once and waits for all CPUs, and a driver sets up vector after vector.
import { PCI } from "../../ffi/abi/pci_regs.ts";
import { signalEventFd } from "../../ffi/epoll.ts";
import type { PciPlatform } from "../pci.ts";

const { PCI_MSIX_ENTRY_SIZE, PCI_MSIX_ENTRY_LOWER_ADDR, PCI_MSIX_ENTRY_UPPER_ADDR, PCI_MSIX_ENTRY_DATA, PCI_MSIX_ENTRY_VECTOR_CTRL } = PCI;
const { PCI_MSIX_ENTRY_CTRL_MASKBIT, PCI_MSIX_FLAGS_ENABLE, PCI_MSIX_FLAGS_MASKALL } = PCI;
const CONTROL_WORD = PCI_MSIX_ENTRY_VECTOR_CTRL / 4;

export interface MsixState {
  readonly control: number;
  /** Four words a vector. */
  readonly table: readonly number[];
  readonly pending: readonly boolean[];
}

interface Vector {
  irq: { readonly gsi: number; readonly fd: number } | null;
  pending: boolean;
  /** The message that KVM has now: low, high, data. */
  routed: readonly [number, number, number] | null;
}

export class Msix {
  private readonly table: Uint32Array;
  private readonly vectors: Vector[] = [];
  private control = 0;
  /** A route has changed that KVM may not know yet. */
  private uncommitted = false;

  constructor(readonly count: number, private readonly platform: PciPlatform) {
    this.table = new Uint32Array(count * 4);
    for (let i = 0; i < count; i++) {
      this.table[i * 4 + CONTROL_WORD] = PCI_MSIX_ENTRY_CTRL_MASKBIT;
      this.vectors.push({ irq: null, pending: false, routed: null });
    }
  }

  get enabled(): boolean {
    return (this.control & PCI_MSIX_FLAGS_ENABLE) !== 0;
  }

  /** The writable bits of the capability's control word. */
  setControl(control: number): void {
    this.control = control & (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    this.settle(0, this.count);
  }

  /** Hot: raises vector `index`, or notes it as pending while it is masked. */
  signal(index: number): void {
    const vector = this.vectors[index];
    if (vector === undefined || !this.enabled) return;
    if (this.masked(index) || vector.irq === null) vector.pending = true;
    else this.raise(vector.irq.fd);
  }

  private raise(fd: number): void {
    if (this.uncommitted) this.platform.commitRoutes();
    this.uncommitted = false;
    signalEventFd(fd);
  }

  tableRead(offset: number, size: number): number {
    if (size !== 4 || offset % 4 !== 0) return 0;
    return this.table[offset / 4] ?? 0;
  }

  tableWrite(offset: number, size: number, value: number): void {
    if (size !== 4 || offset % 4 !== 0 || offset / 4 >= this.table.length) return;
    this.table[offset / 4] = offset % PCI_MSIX_ENTRY_SIZE === PCI_MSIX_ENTRY_VECTOR_CTRL ? value & PCI_MSIX_ENTRY_CTRL_MASKBIT : value;
    const vector = Math.floor(offset / PCI_MSIX_ENTRY_SIZE);
    this.settle(vector, vector + 1);
  }

  pbaRead(offset: number, size: number): number {
    let value = 0;
    for (let bit = 0; bit < size * 8; bit++)
      if (this.vectors[offset * 8 + bit]?.pending) value += 2 ** bit;
    return value;
  }

  private masked(index: number): boolean {
    return (this.control & PCI_MSIX_FLAGS_MASKALL) !== 0 || (this.table[index * 4 + CONTROL_WORD]! & PCI_MSIX_ENTRY_CTRL_MASKBIT) !== 0;
  }

  /** Routes what unmasked vectors say, then raises what was pending. */
  private settle(from: number, to: number): void {
    if (!this.enabled) return;
    for (let i = from; i < to; i++) if (!this.masked(i)) this.route(i);
    for (let i = from; i < to; i++) {
      const vector = this.vectors[i]!;
      if (!vector.pending || this.masked(i) || vector.irq === null) continue;
      vector.pending = false;
      this.raise(vector.irq.fd);
    }
  }

  private route(index: number): void {
    const vector = this.vectors[index]!;
    const low = this.word(index, PCI_MSIX_ENTRY_LOWER_ADDR), high = this.word(index, PCI_MSIX_ENTRY_UPPER_ADDR), data = this.word(index, PCI_MSIX_ENTRY_DATA);
    const routed = vector.routed;
    if (routed !== null && routed[0] === low && routed[1] === high && routed[2] === data) return;
    vector.irq ??= this.platform.allocateIrq();
    this.platform.setMsiRoute(vector.irq.gsi, { addressLow: low, addressHigh: high, data });
    vector.routed = [low, high, data];
    this.uncommitted = true;
  }

  private word(index: number, offset: number): number {
    return this.table[(index * PCI_MSIX_ENTRY_SIZE + offset) / 4]!;
  }

  save(): MsixState {
    return { control: this.control, table: [...this.table], pending: this.vectors.map((v) => v.pending) };
  }

  /** Changes of KVM's routes cost so much that they are committed once for all devices: nothing is raised before goOn(). */
  restore(state: MsixState): void {
    this.table.set(state.table);
    state.pending.forEach((pending, i) => (this.vectors[i]!.pending = pending));
    this.control = state.control & (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    for (let i = 0; i < this.count && this.enabled; i++) if (!this.masked(i)) this.route(i);
  }

  /** After restore(), with the routes in place. */
  goOn(): void { this.settle(0, this.count); }
}
