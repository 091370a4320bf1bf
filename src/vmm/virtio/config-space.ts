// The 256 bytes of type-1 configuration space of a virtio function (virtio 1.2, 4.1.3 and 4.1.4): header and capability list.
// Registers of the BARs belong to the bus.
import { PCI } from "../../ffi/abi/pci_regs.ts";
import { VIRTIO_ID } from "../../ffi/abi/virtio_ids.ts";
import { virtio_pci_cap, virtio_pci_cfg_cap, virtio_pci_common_cfg, virtio_pci_notify_cap, VIRTIO_PCI } from "../../ffi/abi/virtio_pci.ts";

const VENDOR = 0x1af4, DEVICE_BASE = 0x1040, REVISION = 1;
const INTERRUPT_LINE = 0x3c;
const MSIX_CAP = 0x40;
const FIRST_VIRTIO_CAP = 0x50;

/** The one BAR: where each structure lies in it, a page each. */
export const BAR = { COMMON: 0x0000, ISR: 0x1000, DEVICE: 0x2000, NOTIFY: 0x3000, MSIX_TABLE: 0x4000, MSIX_PBA: 0x5000, SIZE: 0x8000 } as const;
/** Bytes from one queue's notification address to the next. */
export const NOTIFY_MULTIPLIER = 4;

/** Class codes (PCI Code and ID Assignment Specification), base class and subclass. */
const CLASSES: Readonly<Record<number, number>> = {
  [VIRTIO_ID.VIRTIO_ID_NET]: 0x0200,
  [VIRTIO_ID.VIRTIO_ID_BLOCK]: 0x0100,
  [VIRTIO_ID.VIRTIO_ID_CONSOLE]: 0x0780,
};
const CLASS_OTHER = 0x00ff;

export class ConfigSpace {
  private readonly bytes = new DataView(new ArrayBuffer(256));
  /** The bits that the driver may write. */
  private readonly writable = new Uint8Array(256);
  /** Where they are. */
  private readonly places: number[] = [];
  /** Offset of the window's data register (VIRTIO_PCI_CAP_PCI_CFG). */
  readonly windowData: number;
  private readonly window: number;

  constructor(type: number, queues: number, deviceConfigSize: number, vectors: number) {
    const b = this.bytes;
    b.setUint16(PCI.PCI_VENDOR_ID, VENDOR, true);
    b.setUint16(PCI.PCI_DEVICE_ID, DEVICE_BASE + type, true);
    b.setUint16(PCI.PCI_STATUS, PCI.PCI_STATUS_CAP_LIST, true);
    b.setUint8(PCI.PCI_REVISION_ID, REVISION);
    b.setUint16(PCI.PCI_CLASS_DEVICE, CLASSES[type] ?? CLASS_OTHER, true);
    b.setUint16(PCI.PCI_SUBSYSTEM_VENDOR_ID, VENDOR, true);
    b.setUint16(PCI.PCI_SUBSYSTEM_ID, DEVICE_BASE + type, true);
    b.setUint8(PCI.PCI_CAPABILITY_LIST, MSIX_CAP);
    this.allow(PCI.PCI_COMMAND, 2, PCI.PCI_COMMAND_MEMORY | PCI.PCI_COMMAND_MASTER | PCI.PCI_COMMAND_INTX_DISABLE);
    this.allow(INTERRUPT_LINE, 1, 0xff);
    this.addMsix(vectors);
    let at = FIRST_VIRTIO_CAP;
    at = this.addCap(at, VIRTIO_PCI.VIRTIO_PCI_CAP_COMMON_CFG, BAR.COMMON, virtio_pci_common_cfg.size);
    b.setUint32(at + virtio_pci_notify_cap.at.notify_off_multiplier, NOTIFY_MULTIPLIER, true);
    at = this.addCap(at, VIRTIO_PCI.VIRTIO_PCI_CAP_NOTIFY_CFG, BAR.NOTIFY, queues * NOTIFY_MULTIPLIER, virtio_pci_notify_cap.size);
    at = this.addCap(at, VIRTIO_PCI.VIRTIO_PCI_CAP_ISR_CFG, BAR.ISR, 1);
    if (deviceConfigSize > 0) at = this.addCap(at, VIRTIO_PCI.VIRTIO_PCI_CAP_DEVICE_CFG, BAR.DEVICE, deviceConfigSize);
    this.window = at;
    this.windowData = at + virtio_pci_cfg_cap.at.pci_cfg_data;
    this.addCap(at, VIRTIO_PCI.VIRTIO_PCI_CAP_PCI_CFG, 0, 0, virtio_pci_cfg_cap.size);
    b.setUint8(at + virtio_pci_cap.at.cap_next, 0);
    this.allow(at + virtio_pci_cap.at.bar, 1, 0xff);
    this.allow(at + virtio_pci_cap.at.offset, 4, 0xffff_ffff);
    this.allow(at + virtio_pci_cap.at.length, 4, 0xffff_ffff);
  }

  read(offset: number, size: number): number {
    if (offset < 0 || offset + size > 256) return 0xffff_ffff;
    return size === 1 ? this.bytes.getUint8(offset) : size === 2 ? this.bytes.getUint16(offset, true) : this.bytes.getUint32(offset, true);
  }

  write(offset: number, size: number, value: number): void {
    for (let i = 0; i < size && offset + i < 256; i++) {
      const mask = this.writable[offset + i]!;
      const byte = (value >>> (i * 8)) & 0xff;
      this.bytes.setUint8(offset + i, (this.bytes.getUint8(offset + i) & ~mask) | (byte & mask));
    }
  }

  get msixControl(): number {
    return this.bytes.getUint16(MSIX_CAP + PCI.PCI_MSIX_FLAGS, true);
  }

  /** Offset in the BAR and length of the access that the window stands for; null unless the driver set up a sound one. */
  windowAccess(): { readonly offset: number; readonly length: number } | null {
    const offset = this.bytes.getUint32(this.window + virtio_pci_cap.at.offset, true);
    const length = this.bytes.getUint32(this.window + virtio_pci_cap.at.length, true);
    const sound = this.bytes.getUint8(this.window + virtio_pci_cap.at.bar) === 0 && (length === 1 || length === 2 || length === 4);
    return sound && offset % length === 0 && offset + length <= BAR.SIZE ? { offset, length } : null;
  }

  /** The bytes as they are; restore() takes only what a driver could have written. */
  save(): readonly number[] {
    return [...new Uint8Array(this.bytes.buffer)];
  }

  restore(bytes: readonly number[]): void {
    for (const at of this.places) this.write(at, 1, bytes[at] ?? 0);
  }

  private allow(at: number, size: number, mask: number): void {
    for (let i = 0; i < size; i++) {
      this.writable[at + i] = (mask >>> (i * 8)) & 0xff;
      this.places.push(at + i);
    }
  }

  private addMsix(vectors: number): void {
    const b = this.bytes;
    b.setUint8(MSIX_CAP, PCI.PCI_CAP_ID_MSIX);
    b.setUint8(MSIX_CAP + 1, FIRST_VIRTIO_CAP);
    b.setUint16(MSIX_CAP + PCI.PCI_MSIX_FLAGS, vectors - 1, true);
    b.setUint32(MSIX_CAP + PCI.PCI_MSIX_TABLE, BAR.MSIX_TABLE, true); // low bits: BAR 0
    b.setUint32(MSIX_CAP + PCI.PCI_MSIX_PBA, BAR.MSIX_PBA, true);
    this.allow(MSIX_CAP + PCI.PCI_MSIX_FLAGS, 2, PCI.PCI_MSIX_FLAGS_ENABLE | PCI.PCI_MSIX_FLAGS_MASKALL);
  }

  private addCap(at: number, type: number, offset: number, length: number, size: number = virtio_pci_cap.size): number {
    const b = this.bytes, f = virtio_pci_cap.at;
    b.setUint8(at + f.cap_vndr, PCI.PCI_CAP_ID_VNDR);
    b.setUint8(at + f.cap_next, at + size);
    b.setUint8(at + f.cap_len, size);
    b.setUint8(at + f.cfg_type, type);
    b.setUint32(at + f.offset, offset, true);
    b.setUint32(at + f.length, length, true);
    return at + size;
  }
}
