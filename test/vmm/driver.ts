// A virtio driver in TypeScript: the other side of transport, queue and device, over memory and eventfds of its own.
import { STATUS } from "../../src/ffi/abi/virtio_ring.ts";
import { PCI } from "../../src/ffi/abi/pci_regs.ts";
import { virtio_pci_common_cfg as common } from "../../src/ffi/abi/virtio_pci.ts";
import { EventFd, signalEventFd, type Epoll } from "../../src/ffi/epoll.ts";
import { closeFd, tryRead } from "../../src/ffi/fd.ts";
import { Mapping } from "../../src/ffi/memory.ts";
import { GuestMemory } from "../../src/vmm/memory.ts";
import type { PciPlatform } from "../../src/vmm/pci.ts";
import { BAR } from "../../src/vmm/virtio/config-space.ts";
import type { Device } from "../../src/vmm/virtio/device.ts";
import { VirtioPci } from "../../src/vmm/virtio/transport.ts";

const MSIX_CONTROL = 0x42;
export const BAR_ADDRESS = 0xd000_0000;
const NEXT = 1, WRITE = 2, INDIRECT = 4;

/** Stands for the machine: ioeventfds are a map, MSI messages a count for each data word. */
export class FakePlatform implements PciPlatform {
  readonly ioEvents = new Map<number, number>();
  readonly irqs: { readonly gsi: number; readonly fd: number }[] = [];
  /** As they were set, and as they were committed last. */
  private readonly newRoutes = new Map<number, number>();
  private routes: ReadonlyMap<number, number> = new Map();
  commits = 0;
  addIoEvent(gpa: number, fd: number): void {
    if (this.ioEvents.has(gpa)) throw new Error("EEXIST");
    this.ioEvents.set(gpa, fd);
  }
  removeIoEvent(gpa: number, fd: number): void {
    if (this.ioEvents.get(gpa) !== fd) throw new Error("ENOENT");
    this.ioEvents.delete(gpa);
  }
  allocateIrq() {
    const irq = { gsi: 24 + this.irqs.length, fd: new EventFd().fd };
    this.irqs.push(irq);
    return irq;
  }
  setMsiRoute(gsi: number, message: { data: number } | null): void {
    if (message === null) this.newRoutes.delete(gsi);
    else this.newRoutes.set(gsi, message.data);
  }
  commitRoutes(): void {
    this.commits++;
    this.routes = new Map(this.newRoutes);
  }

  /** How often the interrupt with MSI data `data` has been raised since the last call, over a route that was committed. */
  count(data: number): number {
    const value = new BigUint64Array(1);
    return this.irqs.reduce((sum, irq) => sum + (this.routes.get(irq.gsi) === data && tryRead(irq.fd, value, 8) === 8 ? Number(value[0]) : 0), 0);
  }
  took(data: number): boolean { return this.count(data) > 0; }
}

export const MEMORY = 64 * 2 ** 20;
export const NEEDS_RESET = STATUS.VIRTIO_CONFIG_S_NEEDS_RESET;
/** More than any device that is not in a circle needs. */
const MOST_TURNS = 20_000;

export interface ChainBuffer { readonly gpa: number; readonly length: number; readonly write?: boolean }

/** One queue as a driver keeps it: descriptors are handed out in turn, and free again when the test says so. */
export class DriverQueue {
  private nextDesc = 0;
  private availIndex = 0;
  seenUsed = 0;
  constructor(private readonly driver: Driver, readonly index: number, readonly size: number, readonly base: number) {}
  get desc() { return this.base; }
  get avail() { return this.base + this.size * 16; }
  get used() { return this.base + this.size * 16 + 4096; }

  writeDesc(table: number, index: number, gpa: number, length: number, flags: number, next: number): void {
    const v = this.driver.view, at = table + index * 16;
    v.setBigUint64(at, BigInt(gpa), true);
    v.setUint32(at + 8, length, true);
    v.setUint16(at + 12, flags, true);
    v.setUint16(at + 14, next, true);
  }

  /** Makes a chain available; returns its head. With `table`, as an indirect table there. */
  add(buffers: readonly ChainBuffer[], table?: number): number {
    const at = table ?? this.desc;
    const first = table === undefined ? this.nextDesc : 0;
    buffers.forEach((b, i) => {
      const last = i === buffers.length - 1, next = first + i + 1;
      const wrap = (n: number) => (table === undefined ? n % this.size : n);
      this.writeDesc(at, wrap(first + i), b.gpa, b.length, (b.write ? WRITE : 0) | (last ? 0 : NEXT), last ? 0 : wrap(next));
    });
    const head = this.nextDesc;
    if (table === undefined) this.nextDesc = (this.nextDesc + buffers.length) % this.size;
    else {
      this.writeDesc(this.desc, head, table, buffers.length * 16, INDIRECT, 0);
      this.nextDesc = (this.nextDesc + 1) % this.size;
    }
    this.publish(head);
    return head;
  }

  publish(head: number): void {
    const v = this.driver.view;
    v.setUint16(this.avail + 4 + (this.availIndex % this.size) * 2, head, true);
    this.availIndex = (this.availIndex + 1) & 0xffff;
    v.setUint16(this.avail + 2, this.availIndex, true);
  }

  kick(): void { this.driver.notify(this.index); }
  get usedIndex(): number { return this.driver.view.getUint16(this.used + 2, true); }
  get availEvent(): number { return this.driver.view.getUint16(this.used + 4 + this.size * 8, true); }
  set usedEvent(value: number) { this.driver.view.setUint16(this.avail + 4 + this.size * 2, value, true); }
  set availFlags(value: number) { this.driver.view.setUint16(this.avail, value, true); }

  /** Used entries that have not been taken yet. */
  takeUsed(): { id: number; length: number }[] {
    const out: { id: number; length: number }[] = [];
    for (; this.seenUsed !== this.usedIndex; this.seenUsed = (this.seenUsed + 1) & 0xffff) {
      const at = this.used + 4 + (this.seenUsed % this.size) * 8;
      out.push({ id: this.driver.view.getUint32(at, true), length: this.driver.view.getUint32(at + 4, true) });
    }
    return out;
  }
}

export class Driver {
  readonly mapping = Mapping.anonymous(MEMORY);
  readonly memory = GuestMemory.of(this.mapping);
  readonly view = new DataView(this.mapping.buffer());
  readonly bytes = new Uint8Array(this.mapping.buffer());
  readonly platform = new FakePlatform();
  readonly pci: VirtioPci;
  readonly queues: DriverQueue[] = [];
  readonly log: string[] = [];
  private bump = 8 * 2 ** 20;

  constructor(readonly device: Device, readonly epoll: Epoll) {
    this.pci = new VirtioPci(device, this.memory, this.platform, epoll, (m) => void this.log.push(m));
  }

  /** Gives back the descriptors of transport and platform. */
  close(): void {
    this.pci.close();
    for (const { fd } of this.platform.irqs) closeFd(fd);
  }

  readCommon = (field: keyof typeof common.at) => this.pci.barRead(0, BAR.COMMON + common.at[field], common.sizes[field]);
  writeCommon = (field: keyof typeof common.at, value: number) => this.pci.barWrite(0, BAR.COMMON + common.at[field], common.sizes[field], value);
  get status(): number { return this.readCommon("device_status"); }
  set status(value: number) { this.writeCommon("device_status", value); }

  /** Guest memory for buffers; never given back. */
  alloc(length: number): number {
    const at = this.bump;
    this.bump += Math.ceil(length / 16) * 16;
    if (this.bump > MEMORY) throw new Error("out of test memory");
    return at;
  }

  put(bytes: Uint8Array): number {
    const gpa = this.alloc(bytes.length);
    this.bytes.set(bytes, gpa);
    return gpa;
  }

  get offered(): bigint {
    this.writeCommon("device_feature_select", 0);
    const low = this.readCommon("device_feature");
    this.writeCommon("device_feature_select", 1);
    return BigInt(low) | (BigInt(this.readCommon("device_feature")) << 32n);
  }

  negotiate(features: bigint): void {
    this.status = 1;
    this.status = 3;
    for (const [select, shift] of [[0, 0n], [1, 32n]] as const) {
      this.writeCommon("guest_feature_select", select);
      this.writeCommon("guest_feature", Number((features >> shift) & 0xffff_ffffn));
    }
    this.status = 11;
  }

  placeBar(address = BAR_ADDRESS): void {
    this.pci.bars[0]!.address = address;
    this.pci.barMoved();
  }

  /** Vector i carries MSI data 100 + i; queue i uses vector i, the configuration the last one. */
  enableMsix(): void {
    const vectors = this.device.queueSizes.length + 1;
    this.pci.configWrite(MSIX_CONTROL, 2, PCI.PCI_MSIX_FLAGS_ENABLE | PCI.PCI_MSIX_FLAGS_MASKALL);
    for (let i = 0; i < vectors; i++) {
      [0xfee0_0000, 0, 100 + i, 0].forEach((word, n) => this.pci.barWrite(0, BAR.MSIX_TABLE + i * 16 + n * 4, 4, word));
    }
    this.pci.configWrite(MSIX_CONTROL, 2, PCI.PCI_MSIX_FLAGS_ENABLE);
    this.writeCommon("msix_config", vectors - 1);
  }

  setupQueue(index: number, size = this.device.queueSizes[index]!): DriverQueue {
    const queue = new DriverQueue(this, index, size, 0x10_0000 + index * 0x1_0000);
    this.bytes.fill(0, queue.base, queue.base + 0x1_0000);
    this.writeCommon("queue_select", index);
    this.writeCommon("queue_size", size);
    this.writeCommon("queue_desc_lo", queue.desc);
    this.writeCommon("queue_avail_lo", queue.avail);
    this.writeCommon("queue_used_lo", queue.used);
    this.writeCommon("queue_msix_vector", index);
    this.writeCommon("queue_enable", 1);
    this.queues[index] = queue;
    return queue;
  }

  /** The whole way to DRIVER_OK, with all features that are offered unless told otherwise. */
  start(features = this.offered): this {
    this.placeBar();
    this.negotiate(features);
    this.enableMsix();
    this.device.queueSizes.forEach((_, i) => this.setupQueue(i));
    this.status = 15;
    return this;
  }

  notify(queue: number): void {
    const fd = this.platform.ioEvents.get(BAR_ADDRESS + BAR.NOTIFY + queue * 4);
    if (fd === undefined) throw new Error(`queue ${queue} has no ioeventfd`);
    signalEventFd(fd);
  }

  /** Runs the main loop until `done`; the test's own timeout is the limit. */
  run(done: () => boolean): void {
    while (!done()) this.epoll.poll(1000);
  }

  /** Runs the main loop until nothing is ready any more: it comes to rest by itself, whatever a driver does. */
  settle(): void {
    for (let turns = 0; this.epoll.poll(0) > 0; turns++) if (turns > MOST_TURNS) throw new Error("the main loop does not come to rest");
  }
}
