// What driver and device have agreed on, the same over every transport (virtio 1.2, 2.1, 2.2 and 3.1): the status, the features, the
// begin of queues, resets. Where its registers lie, and how an interrupt gets to the driver, is the transport's.
import { STATUS, VIRTIO_F } from "../../ffi/abi/virtio_ring.ts";
import { bits, hasBit, type Device, type DeviceContext, type RareLog } from "./device.ts";
import type { QueueSlot } from "./queue-slot.ts";

const { VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET } = STATUS;
/** The bits that a driver can set. */
const DRIVER_STATUS = STATUS.VIRTIO_CONFIG_S_ACKNOWLEDGE | STATUS.VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FEATURES_OK | STATUS.VIRTIO_CONFIG_S_FAILED;
const TRANSPORT_FEATURES = bits(VIRTIO_F.VIRTIO_RING_F_INDIRECT_DESC, VIRTIO_F.VIRTIO_RING_F_EVENT_IDX, VIRTIO_F.VIRTIO_F_VERSION_1);

export interface LifecycleHost {
  readonly slots: readonly QueueSlot[];
  readonly context: DeviceContext;
  readonly troubles: RareLog;
  configInterrupt(): void;
  /** A queue was enabled or disabled: the driver's notifications of it arrive, or no longer. */
  place(slot: QueueSlot): void;
  /** A reset is over: the registers are as at the start. */
  cleared(): void;
}

export class Lifecycle {
  readonly offered: bigint;
  status = 0;
  driverFeatures = 0n;
  /** The driver reads the old status and waits; nothing else it writes counts. */
  resetting = false;

  constructor(private readonly device: Device, private readonly host: LifecycleHost) {
    this.offered = device.features | TRANSPORT_FEATURES;
  }

  get running(): boolean {
    return (this.status & VIRTIO_CONFIG_S_DRIVER_OK) !== 0;
  }

  /** Features agreed on, and the driver not yet at work: the time for queues to be enabled. */
  get takesQueues(): boolean {
    return (this.status & VIRTIO_CONFIG_S_FEATURES_OK) !== 0 && !this.running;
  }

  /** `word`: which 32 bits of them. */
  writeFeatures(word: number, value: number): void {
    if ((this.status & VIRTIO_CONFIG_S_FEATURES_OK) !== 0 || word > 1) return;
    const shift = BigInt(word * 32);
    this.driverFeatures = (this.driverFeatures & ~(0xffff_ffffn << shift)) | (BigInt(value) << shift);
  }

  writeStatus(value: number): void {
    if (this.resetting) return;
    if (value === 0) return this.reset();
    let added = value & DRIVER_STATUS & ~this.status;
    if ((added & VIRTIO_CONFIG_S_FEATURES_OK) !== 0 && !this.featuresAcceptable()) added &= ~VIRTIO_CONFIG_S_FEATURES_OK;
    const ready = ((this.status | added) & VIRTIO_CONFIG_S_FEATURES_OK) !== 0;
    if (!ready) added &= ~VIRTIO_CONFIG_S_DRIVER_OK;
    this.status |= added;
    if ((added & VIRTIO_CONFIG_S_DRIVER_OK) !== 0) this.start();
  }

  /** The device stops until it is reset, for what its driver or its host does. */
  needReset(reason: string): void {
    if (this.resetting) return;
    this.host.troubles.write(`the guest's driver misbehaves, the device stops until it is reset: ${reason}`);
    for (const slot of this.host.slots) slot.queue.live = false;
    this.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    if (this.running) this.host.configInterrupt();
  }

  resetDone(): void {
    if (!this.resetting) return;
    this.resetting = false;
    this.status = 0;
    this.driverFeatures = 0n;
    this.host.cleared();
  }

  /** As saved, over restored queues. */
  restore(status: number, driverFeatures: bigint): void {
    this.driverFeatures = driverFeatures;
    this.status = status;
  }

  /** After restore(). True where the device is at work: then each queue has been notified once. */
  goOn(): boolean {
    if (!this.running || (this.status & VIRTIO_CONFIG_S_NEEDS_RESET) !== 0) return false;
    this.start();
    return true;
  }

  private featuresAcceptable(): boolean {
    return (this.driverFeatures & ~this.offered) === 0n && hasBit(this.driverFeatures, VIRTIO_F.VIRTIO_F_VERSION_1);
  }

  private start(): void {
    if (!this.mapQueues()) return;
    this.device.activate(this.host.context);
    for (const slot of this.host.slots) if (slot.queue.live) slot.event.signal();
  }

  private mapQueues(): boolean {
    const eventIndex = hasBit(this.driverFeatures, VIRTIO_F.VIRTIO_RING_F_EVENT_IDX);
    const indirect = hasBit(this.driverFeatures, VIRTIO_F.VIRTIO_RING_F_INDIRECT_DESC);
    for (const { enabled, queue } of this.host.slots) {
      const wrong = enabled ? queue.activate(eventIndex, indirect) : null;
      if (wrong !== null) {
        this.needReset(wrong);
        return false;
      }
    }
    return true;
  }

  private reset(): void {
    const active = this.running;
    if (active) this.device.beforeReset?.();
    for (const slot of this.host.slots) {
      slot.enabled = false;
      this.host.place(slot);
      slot.queue.reset();
    }
    this.resetting = true; // until resetDone
    if (!active || this.device.reset()) this.resetDone();
  }
}
