// The common configuration of a virtio function over PCI (virtio 1.2, 4.1.4.3): the registers by which a driver and a device agree.
// What they mean for both is lifecycle.ts', a queue's own are queue-slot.ts'.
import { VIRTIO_PCI, virtio_pci_common_cfg } from "../../ffi/abi/virtio_pci.ts";
import type { Lifecycle } from "./lifecycle.ts";
import type { QueueSlot } from "./queue-slot.ts";

const { VIRTIO_MSI_NO_VECTOR } = VIRTIO_PCI;
const COMMON = virtio_pci_common_cfg.at, COMMON_SIZES = virtio_pci_common_cfg.sizes;
/** Size of the register at each offset. */
const REGISTER_SIZE = new Map<number, number>((Object.keys(COMMON) as (keyof typeof COMMON)[]).map((name) => [COMMON[name], COMMON_SIZES[name]]));

export interface CommonConfigState {
  readonly configVector: number;
  /** Registers that a driver sets just before it uses another. */
  readonly selects: { readonly deviceFeature: number; readonly driverFeature: number; readonly queue: number; readonly generation: number };
}

export class CommonConfig {
  configVector: number = VIRTIO_MSI_NO_VECTOR;
  private deviceFeatureSelect = 0;
  private driverFeatureSelect = 0;
  private queueSelect = 0;
  private generation = 0;

  /** `vectors`: how many the MSI-X table has. `enabled` hears of a queue that the driver has just enabled. */
  constructor(private readonly lifecycle: Lifecycle, private readonly slots: readonly QueueSlot[], private readonly vectors: number, private readonly enabled: (slot: QueueSlot) => void) {}

  read(register: number, size: number): number {
    if (REGISTER_SIZE.get(register) !== size) return 0;
    switch (register) {
      case COMMON.device_feature_select: return this.deviceFeatureSelect;
      case COMMON.device_feature: return featureWord(this.lifecycle.offered, this.deviceFeatureSelect);
      case COMMON.guest_feature_select: return this.driverFeatureSelect;
      case COMMON.guest_feature: return featureWord(this.lifecycle.driverFeatures, this.driverFeatureSelect);
      case COMMON.msix_config: return this.configVector;
      case COMMON.num_queues: return this.slots.length;
      case COMMON.device_status: return this.lifecycle.status;
      case COMMON.config_generation: return this.generation;
      case COMMON.queue_select: return this.queueSelect;
      case COMMON.queue_msix_vector: return this.slots[this.queueSelect]?.vector ?? VIRTIO_MSI_NO_VECTOR;
      // A size of 0 says that there is no such queue.
      default: return this.slots[this.queueSelect]?.read(register) ?? 0;
    }
  }

  write(register: number, size: number, value: number): void {
    if (REGISTER_SIZE.get(register) !== size || (this.lifecycle.resetting && register !== COMMON.device_status)) return;
    switch (register) {
      case COMMON.device_feature_select: this.deviceFeatureSelect = value; return;
      case COMMON.guest_feature_select: this.driverFeatureSelect = value; return;
      case COMMON.guest_feature: return this.lifecycle.writeFeatures(this.driverFeatureSelect, value);
      case COMMON.msix_config: this.configVector = this.vector(value); return;
      case COMMON.device_status: return this.lifecycle.writeStatus(value);
      case COMMON.queue_select: this.queueSelect = value; return;
      default: return this.writeQueue(register, value);
    }
  }

  private writeQueue(register: number, value: number): void {
    const slot = this.slots[this.queueSelect];
    if (slot === undefined) return;
    if (register === COMMON.queue_msix_vector) slot.vector = this.vector(value);
    else if (register !== COMMON.queue_enable) slot.write(register, value);
    else if (value === 1 && this.lifecycle.takesQueues) {
      slot.enabled = true;
      this.enabled(slot);
    }
  }

  /** A vector that the table doesn't have reads back as none: so the driver sees that it failed. */
  private vector(value: number): number { return value < this.vectors ? value : VIRTIO_MSI_NO_VECTOR; }

  /** The device's own configuration is another than before: whoever reads it in pieces reads it again. */
  advance(): void { this.generation = (this.generation + 1) & 0xff; }

  /** After a reset. */
  clear(): void {
    this.deviceFeatureSelect = this.driverFeatureSelect = this.queueSelect = 0;
    this.configVector = VIRTIO_MSI_NO_VECTOR;
    for (const slot of this.slots) slot.vector = VIRTIO_MSI_NO_VECTOR;
  }

  save(): CommonConfigState {
    const selects = { deviceFeature: this.deviceFeatureSelect, driverFeature: this.driverFeatureSelect, queue: this.queueSelect, generation: this.generation };
    return { configVector: this.configVector, selects };
  }

  /** `vectors`: of each queue. */
  restore({ configVector, selects }: CommonConfigState, vectors: readonly number[]): void {
    this.configVector = this.vector(configVector);
    this.slots.forEach((slot, i) => { slot.vector = this.vector(vectors[i]!); });
    this.deviceFeatureSelect = selects.deviceFeature;
    this.driverFeatureSelect = selects.driverFeature;
    this.queueSelect = selects.queue;
    this.generation = selects.generation;
  }
}

const featureWord = (features: bigint, select: number): number => (select > 1 ? 0 : Number((features >> BigInt(select * 32)) & 0xffff_ffffn));
