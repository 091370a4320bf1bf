// One port of the console device: what it does with the guest's bytes, and where bytes for the guest come from.
import type { Queue } from "../../virtio/queue.ts";
import type { LogSink } from "./log-sink.ts";

export interface Port {
  /** Shown as /sys/class/virtio-ports/…/name. */
  readonly name: string;
  /** A terminal of the guest (hvc), not a plain port. */
  readonly console: boolean;
  /** Takes the readable part of the chain that `queue` has just popped. */
  output(queue: Queue): void;
  /** Something waits for the guest. */
  readonly waiting: boolean;
  /** Puts what waits into the writable part of the chain just popped; returns how many bytes. */
  input(queue: Queue): number;
  /** Somebody in the guest has opened the port, or closed it. */
  opened(open: boolean): void;
  /** What is under way in it, JSON; restore() comes after opened(). Without them nothing ever is. */
  save?(): unknown;
  restore?(state: unknown): void;
  /** Set by the device: call it when `waiting` has become true. */
  wake: () => void;
}

/**
 * Output into a log; no input. As a console (hvc) Linux writes 16 bytes at a time and spins until each is taken;
 * as a plain port 32 KiB, without waiting.
 */
export class SinkPort implements Port {
  readonly waiting = false;
  readonly console = true;
  wake = (): void => {};
  constructor(readonly name: string, private readonly sink: LogSink) {}

  output(queue: Queue): void {
    if (queue.readCount > 0) this.sink.writev(queue.arena.at(queue.firstRead), queue.readCount, queue.readBytes);
  }
  input(): number { return 0; }
  opened(): void {}
}
