// What the PCI host bus (bus.ts) and a function on it (virtio/transport.ts) know of each other.

/** What a function may use of its machine. The bus and machine implement it; tests fake it. */
export interface PciPlatform {
  /** `KVM_IOEVENTFD`: a write of any length to `gpa` signals `fd` without an exit to user space. */
  addIoEvent(gpa: number, fd: number): void;
  removeIoEvent(gpa: number, fd: number): void;
  /** A GSI with an irqfd: writing the returned eventfd raises the interrupt that its MSI route says. Owned by the machine. */
  allocateIrq(): { readonly gsi: number; readonly fd: number };
  /** Routes the GSI as an MSI message; takes effect at commitRoutes(). Null: masked, no route. */
  setMsiRoute(gsi: number, message: { readonly addressLow: number; readonly addressHigh: number; readonly data: number } | null): void;
  commitRoutes(): void;
}

/** A memory BAR. Size is a power of two, at least 4096. */
export interface PciBar { readonly index: number; readonly size: number; address: number }

/** One function of bus 0. Accesses are 1, 2 or 4 bytes, within the 256 bytes of type-1 space or within the BAR; values are unsigned. */
export interface PciFunction {
  readonly bars: readonly PciBar[];
  configRead(offset: number, size: number): number;
  configWrite(offset: number, size: number, value: number): void;
  barRead(bar: number, offset: number, size: number): number;
  barWrite(bar: number, offset: number, size: number, value: number): void;
  /** The bus decoded a new address of a BAR (0: decoding off): ioeventfds move. */
  barMoved(bar: number, address: number): void;
}
