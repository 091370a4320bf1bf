// virtio-rng (virtio 1.2, 5.4): the host kernel's random numbers, straight into the guest's buffers.
import { SYS } from "../../ffi/abi/syscalls.ts";
import { VIRTIO_ID } from "../../ffi/abi/virtio_ids.ts";
import { syscall } from "../../ffi/syscall.ts";
import type { Device, DeviceContext } from "../virtio/device.ts";

/** Of one buffer only so much is filled: the driver asks again, and other devices get their turn. */
const MAX_BYTES = 4096;
const BUDGET = 16;

export class RngDevice implements Device {
  readonly type = VIRTIO_ID.VIRTIO_ID_RNG;
  readonly name = "rng";
  readonly features = 0n;
  readonly queueSizes = [64];
  readonly config = new DataView(new ArrayBuffer(0));
  private context: DeviceContext | null = null;

  activate(context: DeviceContext): void { this.context = context; }

  onNotify(): void {
    const queue = this.context?.queues[0];
    if (queue === undefined) return;
    let budget = BUDGET;
    do {
      for (; budget > 0 && queue.pop(); budget--) queue.push(queue.head, this.fill(queue.arena.hva(queue.firstWrite), queue.writeCount > 0 ? queue.arena.length(queue.firstWrite) : 0));
      queue.flush();
      if (budget === 0) return this.context?.again(0);
    } while (queue.enableNotify());
  }

  /** Bytes written: fewer than asked for is what the driver expects. */
  private fill(hva: number, length: number): number {
    return length === 0 ? 0 : Math.max(0, syscall(SYS.getrandom, hva, Math.min(length, MAX_BYTES), 0));
  }

  reset(): boolean {
    this.context = null;
    return true;
  }

  save(): unknown { return {}; }
  restore(): void {}
}
