// One connection to the guest's agent: frames both ways over a stream socket, with back-pressure both ways.
import type { Socket, SocketHandler } from "bun";
import { closeFd, duplicate, tryRead } from "../../ffi/fd.ts";
import { FrameDecoder, type DecodedFrame } from "./frames.ts";

export interface StreamListener {
  onFrame(frame: DecodedFrame): void;
  /** All that was sent has left; after a send() that answered false. */
  onDrain(): void;
  /** Once, after all frames: the other side has hung up or sent nonsense. Not after close(). */
  onClosed(reason: string): void;
}

const HUNG_UP = "the guest's agent hung up";
/** Of what waits in a socket: more than the kernel keeps there (net.core.wmem_default, 208 KiB), and an end of one that sends on and on. */
const MAX_REST = 1 << 20;

export class AgentStream {
  private socket: Socket<undefined> | null = null;
  private readonly decoder = new FrameDecoder();
  private readonly outgoing: Uint8Array[] = [];
  private over = false;
  private paused = false;
  /** Why nothing more comes; told once the reader has taken what came before. */
  private ending: string | null = null;
  /** Frames that have come and were not handed out, as the reader has asked for a pause. */
  private readonly held: DecodedFrame[] = [];

  /**
   * `again`: the same socket once more. One whose other side has closed it with bytes unread, as a command does that ends before its input,
   * is in error: the runtime closes its own descriptor then, whatever waits to be read.
   */
  private constructor(private readonly again: number, private readonly listener: StreamListener) {}

  /** Takes over `fd`, a connected non-blocking stream socket. */
  static async open(fd: number, listener: StreamListener): Promise<AgentStream> {
    let again = -1;
    try {
      again = duplicate(fd);
      const stream = new AgentStream(again, listener);
      const handlers: SocketHandler<undefined> = {
        data: (_socket, bytes) => stream.onData(bytes),
        drain: () => stream.flush(),
        end: () => stream.lost(HUNG_UP),
        close: () => stream.lost(HUNG_UP),
        error: (_socket, error) => stream.lost(error.message),
      };
      // Bun adopts a connected descriptor; its declarations know only of host names and paths.
      stream.socket = await Bun.connect({ fd, socket: handlers } as unknown as Parameters<typeof Bun.connect<undefined>>[0]);
      return stream;
    } catch (error) {
      closeFd(fd);
      if (again >= 0) closeFd(again);
      throw error;
    }
  }

  /** Sends, or keeps what the socket does not take yet. False: wait for onDrain before the next, or memory grows. */
  send(frame: Uint8Array): boolean {
    if (this.over || this.ending !== null) return true;
    this.outgoing.push(frame);
    this.flush(false);
    return this.outgoing.length === 0;
  }

  /** Stops onFrame until resume(); the guest's writes then stop too. */
  pause(): void {
    this.paused = true;
    this.socket?.pause();
  }

  resume(): void {
    this.paused = false;
    this.deliver();
    if (!this.paused && !this.over) this.socket?.resume();
  }

  /** Hangs up. Idempotent. */
  close(): void {
    if (this.over) return;
    this.over = true;
    this.socket?.terminate();
    closeFd(this.again);
  }

  private onData(bytes: Uint8Array): void {
    if (this.over || this.ending !== null) return;
    this.ending = this.cut(bytes);
    this.deliver();
  }

  /** What is wrong with the bytes, or null. */
  private cut(bytes: Uint8Array): string | null {
    try {
      for (const frame of this.decoder.push(bytes)) this.held.push(frame);
      return null;
    } catch (error) {
      return `the guest's agent broke the protocol: ${error instanceof Error ? error.message : String(error)}`;
    }
  }

  private deliver(): void {
    for (let frame = this.next(); frame !== undefined; frame = this.next()) this.listener.onFrame(frame);
    if (this.paused || this.over || this.ending === null) return;
    this.close();
    this.listener.onClosed(this.ending);
  }

  private next(): DecodedFrame | undefined { return this.paused || this.over ? undefined : this.held.shift(); }

  private flush(tell = true): void {
    while (this.outgoing.length > 0 && !this.over && this.ending === null) {
      const first = this.outgoing[0]!;
      const written = this.socket?.write(first) ?? 0;
      if (written < 0) return this.lost(HUNG_UP);
      if (written < first.length) {
        this.outgoing[0] = first.subarray(written);
        return;
      }
      this.outgoing.shift();
    }
    if (tell && !this.over && this.ending === null) this.listener.onDrain();
  }

  /** The other side reads no more. What it said before that is still to be heard. */
  private lost(reason: string): void {
    if (this.over || this.ending !== null) return;
    this.outgoing.length = 0;
    this.ending = this.rest() ?? reason;
    this.deliver();
  }

  /** Takes what waits in the socket. */
  private rest(): string | null {
    const bytes = new Uint8Array(MAX_REST);
    let length = 0, read: number;
    while (length < MAX_REST && (read = tryRead(this.again, bytes.subarray(length), MAX_REST - length)) > 0) length += read;
    return length === 0 ? null : this.cut(bytes.subarray(0, length));
  }
}
