// One queue as the transport has it: its registers in the common configuration (virtio 1.2, 4.1.4.3), its vector, and where
// the driver's notifications of it arrive.
import { VIRTIO_PCI, virtio_pci_common_cfg } from "../../ffi/abi/virtio_pci.ts";
import type { EventFd } from "../../ffi/epoll.ts";
import type { PciPlatform } from "../pci.ts";
import { BAR, NOTIFY_MULTIPLIER } from "./config-space.ts";
import type { Queue } from "./queue.ts";

const COMMON = virtio_pci_common_cfg.at;
const HIGH = 2 ** 32;

export class QueueSlot {
  enabled = false;
  vector: number = VIRTIO_PCI.VIRTIO_MSI_NO_VECTOR;
  /** Where the ioeventfd is; 0: nowhere. */
  private ioAddress = 0;

  /** `event`: notifications of the driver. */
  constructor(readonly queue: Queue, readonly event: EventFd, private readonly platform: PciPlatform) {}

  /** One of the queue_… registers. */
  read(register: number): number {
    const { queue } = this;
    switch (register) {
      case COMMON.queue_size: return queue.size;
      case COMMON.queue_msix_vector: return this.vector;
      case COMMON.queue_enable: return this.enabled ? 1 : 0;
      case COMMON.queue_notify_off: return queue.index;
      case COMMON.queue_desc_lo: return low(queue.desc);
      case COMMON.queue_desc_hi: return high(queue.desc);
      case COMMON.queue_avail_lo: return low(queue.avail);
      case COMMON.queue_avail_hi: return high(queue.avail);
      case COMMON.queue_used_lo: return low(queue.used);
      case COMMON.queue_used_hi: return high(queue.used);
      default: return 0;
    }
  }

  /** Size and addresses, which are fixed from queue_enable to reset (virtio 1.2, 4.1.4.3.2). */
  write(register: number, value: number): void {
    const { queue } = this;
    if (this.enabled) return;
    switch (register) {
      case COMMON.queue_size:
        if (value >= 1 && value <= queue.maxSize && (value & (value - 1)) === 0) queue.size = value;
        return;
      case COMMON.queue_desc_lo: queue.desc = withLow(queue.desc, value); return;
      case COMMON.queue_desc_hi: queue.desc = withHigh(queue.desc, value); return;
      case COMMON.queue_avail_lo: queue.avail = withLow(queue.avail, value); return;
      case COMMON.queue_avail_hi: queue.avail = withHigh(queue.avail, value); return;
      case COMMON.queue_used_lo: queue.used = withLow(queue.used, value); return;
      case COMMON.queue_used_hi: queue.used = withHigh(queue.used, value); return;
    }
  }

  /** Brings the ioeventfd of an enabled queue to where the BAR is now (0: nowhere). Null, or why the host refused. */
  place(bar: number): string | null {
    const address = this.enabled && bar !== 0 ? bar + BAR.NOTIFY + this.queue.index * NOTIFY_MULTIPLIER : 0;
    if (address === this.ioAddress) return null;
    if (this.ioAddress !== 0) this.platform.removeIoEvent(this.ioAddress, this.event.fd);
    this.ioAddress = 0;
    if (address === 0) return null;
    try {
      this.platform.addIoEvent(address, this.event.fd);
      this.ioAddress = address;
      return null;
    } catch (error) {
      // A guest that lays BARs over each other gets here; its notifications then come through barWrite.
      return `cannot take notifications at 0x${address.toString(16)}: ${String(error)}`;
    }
  }
}

const low = (address: number): number => address % HIGH;
const high = (address: number): number => Math.floor(address / HIGH);
/** An address beyond 2^53 loses bits here; no RAM is there, so it is refused all the same when the ring is mapped. */
const withLow = (address: number, value: number): number => high(address) * HIGH + value;
const withHigh = (address: number, value: number): number => value * HIGH + (address % HIGH);
