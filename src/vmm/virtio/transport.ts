// virtio over PCI, modern only (virtio 1.2, 4.1): registers, notifications by ioeventfd and interrupts by irqfd. It owns the
// queues and knows nothing of what its device does; what driver and device agree on is in lifecycle.ts.
import { VIRTIO_PCI } from "../../ffi/abi/virtio_pci.ts";
import { EPOLLET, EPOLLIN, EventFd, type Epoll } from "../../ffi/epoll.ts";
import type { GuestMemory } from "../memory.ts";
import type { PciBar, PciFunction, PciPlatform } from "../pci.ts";
import { CommonConfig, type CommonConfigState } from "./common-config.ts";
import { BAR, ConfigSpace, NOTIFY_MULTIPLIER } from "./config-space.ts";
import { RareLog, type Device, type DeviceContext, type Log } from "./device.ts";
import { IOV_MAX, Iovecs } from "./iovecs.ts";
import { Lifecycle, type LifecycleHost } from "./lifecycle.ts";
import { Msix, type MsixState } from "./msix.ts";
import { QueueSlot } from "./queue-slot.ts";
import { Queue, type QueueOwner, type QueueState } from "./queue.ts";

const { VIRTIO_PCI_ISR_CONFIG } = VIRTIO_PCI;
const ISR_QUEUE = 1;

export interface TransportState extends CommonConfigState {
  readonly type: number;
  readonly status: number;
  /** Decimal: 64 bits. */
  readonly driverFeatures: string;
  readonly config: readonly number[];
  readonly isr: number;
  readonly msix: MsixState;
  readonly queues: readonly { readonly enabled: boolean; readonly vector: number; readonly ring: QueueState }[];
  readonly device: unknown;
}

export class VirtioPci implements PciFunction, QueueOwner, LifecycleHost {
  readonly bars: readonly PciBar[] = [{ index: 0, size: BAR.SIZE, address: 0 }];
  private readonly config: ConfigSpace;
  private readonly msix: Msix;
  private readonly lifecycle: Lifecycle;
  private readonly common: CommonConfig;
  readonly slots: readonly QueueSlot[];
  readonly context: DeviceContext;
  readonly troubles: RareLog;
  private isr = 0;

  /** Puts its notifications into `epoll`; lives as long as the machine. */
  constructor(private readonly device: Device, private readonly memory: GuestMemory, private readonly platform: PciPlatform, private readonly epoll: Epoll, log: Log) {
    const queues = device.queueSizes.length;
    this.troubles = new RareLog((message) => log(`${device.name}: ${message}`));
    this.msix = new Msix(queues + 1, platform);
    this.config = new ConfigSpace(device.type, queues, device.config.byteLength, queues + 1);
    this.slots = device.queueSizes.map((size, i) => this.createSlot(i, size));
    this.context = this.createContext();
    this.lifecycle = new Lifecycle(device, this);
    this.common = new CommonConfig(this.lifecycle, this.slots, this.msix.count, (slot) => this.place(slot));
  }

  /** Gives its eventfds back, and is used no more. The machine ends with its process and doesn't need this. */
  close(): void {
    for (const { event } of this.slots) {
      this.epoll.remove(event.fd);
      event.close();
    }
  }

  // --- PCI

  configRead(offset: number, size: number): number {
    if (offset < this.config.windowData || offset >= this.config.windowData + 4) return this.config.read(offset, size);
    const access = this.config.windowAccess();
    return access === null ? 0 : this.barRead(0, access.offset, access.length);
  }

  configWrite(offset: number, size: number, value: number): void {
    this.config.write(offset, size, value);
    const control = this.config.msixControl;
    if (control !== this.lastControl) {
      this.lastControl = control;
      this.msix.setControl(control);
    }
    if (offset !== this.config.windowData) return;
    const access = this.config.windowAccess();
    if (access !== null && access.length <= size) this.barWrite(0, access.offset, access.length, value & (2 ** (access.length * 8) - 1));
  }
  private lastControl = 0;

  barRead(_bar: number, offset: number, size: number): number {
    const within = offset & 0xfff;
    switch (offset - within) {
      case BAR.COMMON: return this.common.read(within, size);
      case BAR.ISR: return within === 0 ? this.readIsr() : 0;
      case BAR.DEVICE: return readView(this.device.config, within, size);
      case BAR.MSIX_TABLE: return this.msix.tableRead(within, size);
      case BAR.MSIX_PBA: return this.msix.pbaRead(within, size);
      default: return 0;
    }
  }

  barWrite(_bar: number, offset: number, size: number, value: number): void {
    const within = offset & 0xfff;
    switch (offset - within) {
      case BAR.COMMON: return this.common.write(within, size, value >>> 0);
      case BAR.DEVICE:
        if (within + size <= this.device.config.byteLength && !this.lifecycle.resetting) this.device.writeConfig?.(within, size, value >>> 0);
        return;
      case BAR.NOTIFY:
        // Where the ioeventfd isn't: the configuration window, or a BAR that overlaps another device's.
        this.slots[Math.floor(within / NOTIFY_MULTIPLIER)]?.event.signal();
        return;
      case BAR.MSIX_TABLE: return this.msix.tableWrite(within, size, value >>> 0);
    }
  }

  barMoved(): void {
    for (const slot of this.slots) this.place(slot);
  }

  cleared(): void {
    this.isr = 0;
    this.common.clear();
  }

  // --- notifications and interrupts

  interrupt(queue: number): void {
    if (this.msix.enabled) this.msix.signal(this.slots[queue]!.vector);
    else this.isr |= ISR_QUEUE; // INTx is not wired: such a driver has to poll
  }

  broken(queue: number, reason: string): void {
    this.lifecycle.needReset(`queue ${queue}: ${reason}`);
  }

  configInterrupt(): void {
    if (this.msix.enabled) this.msix.signal(this.common.configVector);
    else this.isr |= VIRTIO_PCI_ISR_CONFIG;
  }

  private readIsr(): number {
    const isr = this.isr;
    this.isr = 0;
    return isr;
  }

  private createSlot(index: number, size: number): QueueSlot {
    const arena = this.device.arena?.(index) ?? new Iovecs(IOV_MAX);
    const queue = new Queue(index, size, this.memory, arena, this);
    const event = new EventFd();
    // Edge-triggered: every signal is an event, and nothing has to read the counter back.
    this.epoll.add(event.fd, EPOLLIN | EPOLLET, () => {
      if (queue.live && this.lifecycle.running) this.device.onNotify(index);
    });
    return new QueueSlot(queue, event, this.platform);
  }

  place(slot: QueueSlot): void {
    const wrong = slot.place(this.bars[0]!.address);
    if (wrong !== null) this.troubles.write(wrong);
  }

  private createContext(): DeviceContext {
    const transport = this;
    return {
      memory: this.memory,
      get features() { return transport.lifecycle.driverFeatures; },
      queues: this.slots.map((slot) => slot.queue),
      configChanged: () => {
        this.common.advance();
        if (this.lifecycle.running) this.configInterrupt();
      },
      fail: (reason) => this.lifecycle.needReset(reason),
      again: (queue) => this.slots[queue]!.event.signal(),
      resetDone: () => this.lifecycle.resetDone(),
    };
  }

  // --- snapshots

  /** While its vCPUs are paused: nothing touches the queues until letGo(), whatever the device hears from the host. */
  hold(): void {
    this.heldQueues ??= this.slots.filter((slot) => slot.queue.live);
    for (const { queue } of this.heldQueues) queue.live = false;
  }

  /** Every queue is then looked at once: notifications meanwhile were dropped. */
  letGo(): void {
    const held = this.heldQueues ?? [];
    this.heldQueues = null;
    for (const { queue, event } of held) {
      queue.live = true;
      event.signal();
    }
  }
  private heldQueues: QueueSlot[] | null = null;

  /** Only while the device is quiescent: no request in flight. */
  save(): TransportState {
    const device = this.device.save(); // first: it may give chains back to its queues
    return {
      type: this.device.type, status: this.lifecycle.status, driverFeatures: String(this.lifecycle.driverFeatures), config: this.config.save(),
      isr: this.isr, msix: this.msix.save(),
      queues: this.slots.map(({ enabled, vector, queue }) => ({ enabled, vector, ring: queue.save() })),
      device, ...this.common.save(),
    };
  }

  /** Into a new transport over the same kind of device, memory already filled. Null, or why the state does not fit. Then goOn(). */
  restore(state: TransportState): string | null {
    if (state.type !== this.device.type || state.queues.length !== this.slots.length) return `${this.device.name}: the state is another device's`;
    const driverFeatures = BigInt(state.driverFeatures);
    if ((driverFeatures & ~this.lifecycle.offered) !== 0n) return `${this.device.name}: the guest uses features that this host does not have`;
    this.config.restore(state.config);
    this.lastControl = this.config.msixControl;
    this.msix.restore(state.msix);
    this.common.restore(state, state.queues.map(({ vector }) => vector));
    this.isr = state.isr;
    state.queues.forEach((saved, i) => {
      const slot = this.slots[i]!;
      slot.queue.restore(saved.ring);
      slot.enabled = saved.enabled;
      this.place(slot);
    });
    this.device.restore(state.device);
    this.lifecycle.restore(state.status, driverFeatures);
    return null;
  }

  /**
   * After restore(), with the routes of interrupts committed. Every queue is notified and interrupted once: whatever was on its way
   * when the state was taken comes again.
   */
  goOn(): void {
    this.msix.goOn();
    if (!this.lifecycle.goOn()) return;
    for (const slot of this.slots) if (slot.enabled) this.interrupt(slot.queue.index);
    this.configInterrupt();
  }
}

function readView(view: DataView, offset: number, size: number): number {
  if (offset + size > view.byteLength) return 0;
  return size === 1 ? view.getUint8(offset) : size === 2 ? view.getUint16(offset, true) : view.getUint32(offset, true);
}
