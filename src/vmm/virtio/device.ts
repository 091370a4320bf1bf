// What the transport and a device know of each other: the one contract between them. A device does no register work,
// the transport no device work.
import type { GuestMemory } from "../memory.ts";
import type { Iovecs } from "./iovecs.ts";
import type { Queue } from "./queue.ts";

/** What a device gets from its transport while a driver runs it: from activate() to reset(). */
export interface DeviceContext {
  readonly memory: GuestMemory;
  /** What both sides agreed on. */
  readonly features: bigint;
  /** All queues of the device; those that the driver didn't enable are not live. */
  readonly queues: readonly Queue[];
  /** The configuration has changed: new generation, configuration interrupt. */
  configChanged(): void;
  /** The driver broke the device's rules: NEEDS_RESET. */
  fail(reason: string): void;
  /** Has onNotify(queue) called again in a later round of the main loop: for work that was cut short to let others run. */
  again(queue: number): void;
  /** After reset() returned false: nothing of the device touches guest memory any more. */
  resetDone(): void;
}

export interface Device {
  /** VIRTIO_ID_… */
  readonly type: number;
  /** For messages: `disk0`, `net`. */
  readonly name: string;
  /** Feature bits of the device itself, not of ring and transport. */
  readonly features: bigint;
  /** Largest size of each queue, powers of two. */
  readonly queueSizes: readonly number[];
  /** Device-specific configuration, as the driver reads it. */
  readonly config: DataView;
  /** Where queue `index` builds its iovecs; without it the queue gets an arena of its own for one chain. */
  arena?(index: number): Iovecs | undefined;
  /** The driver wrote to the configuration (bytes within it). Without it such writes are lost. */
  writeConfig?(offset: number, size: number, value: number): void;
  /** DRIVER_OK: queues are live. Every queue is notified once after it. */
  activate(context: DeviceContext): void;
  onNotify(queue: number): void;
  /** The driver is about to go, its queues are still live: the last chance to take what it has put there. */
  beforeReset?(): void;
  /** The driver goes. False if requests are still in flight: then resetDone() comes later. */
  reset(): boolean;
  /** What of the device is not in its queues; JSON. Only while quiescent. */
  save(): unknown;
  restore(state: unknown): void;
}

/** `bit(5, 9)`: a feature set. */
export const bits = (...numbers: readonly number[]): bigint => numbers.reduce((set, n) => set | (1n << BigInt(n)), 0n);
export const hasBit = (set: bigint, bit: number): boolean => ((set >> BigInt(bit)) & 1n) === 1n;

export type Log = (message: string) => void;

/** At most a line for each doubling of how often something happened: a guest can't fill a log. */
export class RareLog {
  private count = 0;
  constructor(private readonly log: Log) {}
  write(message: string): void {
    this.count++;
    if ((this.count & (this.count - 1)) === 0) this.log(this.count === 1 ? message : `${message} (${this.count} such messages so far)`);
  }
}
