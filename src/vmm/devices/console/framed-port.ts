// A port that carries frames both ways: u32le length of the payload, u8 type, payload (docs/architecture.md).
import { MAX_FRAME_PAYLOAD } from "../../protocol.ts";
import { RareLog, type Log } from "../../virtio/device.ts";
import type { Queue } from "../../virtio/queue.ts";
import type { Port } from "./port.ts";

const HEADER = 5;
/** Frames for the guest wait here until it reads; more are refused. */
const MAX_QUEUED = 2 ** 20;

interface FramedPortState { readonly everOpened: boolean; readonly incoming: string; readonly garbled: boolean; readonly outgoing: readonly string[] }

export class FramedPort implements Port {
  readonly console = false;
  wake = (): void => {};
  private open = false;
  /** Somebody in the guest has opened it at least once: there is an agent. */
  everOpened = false;

  private readonly outgoing: Uint8Array[] = [];
  private queued = 0;
  private sentOfFirst = 0;

  private buffer = new Uint8Array(4096);
  private filled = 0;
  private garbled = false;
  private readonly troubles: RareLog;

  /** `onFrame` gets a copy of each payload; it must not throw. */
  constructor(readonly name: string, private readonly onFrame: (type: number, payload: Uint8Array) => void, log: Log) {
    this.troubles = new RareLog(log);
  }

  /** Queues a frame until the guest reads it. False if the payload is too long or too much waits. */
  send(type: number, payload: Uint8Array): boolean {
    if (payload.length > MAX_FRAME_PAYLOAD || this.queued + HEADER + payload.length > MAX_QUEUED) return false;
    const frame = new Uint8Array(HEADER + payload.length);
    new DataView(frame.buffer).setUint32(0, payload.length, true);
    frame[4] = type;
    frame.set(payload, HEADER);
    this.outgoing.push(frame);
    this.queued += frame.length;
    if (this.open) this.wake();
    return true;
  }

  /** Before the guest has opened the port it would drop what it gets. */
  get waiting(): boolean {
    return this.open && this.outgoing.length > 0;
  }

  input(queue: Queue): number {
    let done = 0;
    while (done < queue.writeBytes && this.outgoing.length > 0) {
      const first = this.outgoing[0]!;
      const n = queue.payload.scatter(queue.firstWrite, queue.writeCount, this.sentOfFirst === 0 ? first : first.subarray(this.sentOfFirst), done);
      done += n;
      this.queued -= n;
      this.sentOfFirst += n;
      if (this.sentOfFirst < first.length) break;
      this.outgoing.shift();
      this.sentOfFirst = 0;
    }
    return done;
  }

  output(queue: Queue): void {
    const { arena } = queue;
    let first = queue.firstRead;
    for (let left = queue.readBytes; left > 0 && !this.garbled; ) {
      this.reserve(Math.min(HEADER + MAX_FRAME_PAYLOAD, this.filled + left));
      const n = queue.payload.gather(first, queue.firstRead + queue.readCount - first, this.buffer.subarray(this.filled));
      first += arena.skip(first, n);
      left -= n;
      this.filled += n;
      this.parse();
    }
  }

  opened(open: boolean): void {
    this.open = open;
    this.everOpened ||= open;
    this.filled = 0;
    this.garbled = false;
    if (this.sentOfFirst > 0) {
      // The reader of its first half is gone.
      this.queued -= this.outgoing.shift()!.length - this.sentOfFirst;
      this.sentOfFirst = 0;
    }
    if (this.waiting) this.wake();
  }

  /** Bytes of frames that are cut in the middle, either way; the rest of a stream is lost without its beginning. */
  save(): unknown {
    const first = this.sentOfFirst > 0 ? [this.outgoing[0]!.subarray(this.sentOfFirst)] : [];
    const outgoing = [...first, ...this.outgoing.slice(first.length)].map((frame) => Buffer.from(frame).toString("base64"));
    return { everOpened: this.everOpened, incoming: Buffer.from(this.buffer.subarray(0, this.filled)).toString("base64"), garbled: this.garbled, outgoing } satisfies FramedPortState;
  }

  restore(state: unknown): void {
    const { everOpened, incoming, garbled, outgoing } = state as FramedPortState;
    this.everOpened = everOpened;
    this.garbled = garbled;
    const bytes = Buffer.from(incoming, "base64");
    this.reserve(bytes.length);
    this.buffer.set(bytes);
    this.filled = bytes.length;
    this.outgoing.push(...outgoing.map((frame) => Uint8Array.from(Buffer.from(frame, "base64"))));
    this.queued = this.outgoing.reduce((sum, frame) => sum + frame.length, 0);
  }

  private reserve(bytes: number): void {
    if (bytes <= this.buffer.length) return;
    const larger = new Uint8Array(HEADER + MAX_FRAME_PAYLOAD);
    larger.set(this.buffer.subarray(0, this.filled));
    this.buffer = larger;
  }

  private parse(): void {
    const { buffer } = this;
    let at = 0;
    while (this.filled - at >= HEADER) {
      const length = new DataView(buffer.buffer, buffer.byteOffset).getUint32(at, true);
      if (length > MAX_FRAME_PAYLOAD) {
        this.garbled = true;
        this.filled = 0;
        this.troubles.write(`the guest sent a frame of ${length} bytes on port ${this.name}: not listening until it opens the port anew`);
        return;
      }
      if (this.filled - at < HEADER + length) break;
      this.onFrame(buffer[at + 4]!, buffer.slice(at + HEADER, at + HEADER + length));
      at += HEADER + length;
    }
    buffer.copyWithin(0, at, this.filled);
    this.filled -= at;
  }
}
