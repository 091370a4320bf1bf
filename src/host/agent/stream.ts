// One connection to the guest's agent: frames both ways over a stream socket, with back-pressure both ways.
import type { Socket, SocketHandler } from "bun";
import { closeFd } from "../../ffi/fd.ts";
import { FrameDecoder, type DecodedFrame } from "./frames.ts";

export interface StreamListener {
  onFrame(frame: DecodedFrame): void;
  /** All that was sent has left; after a send() that answered false. */
  onDrain(): void;
  /** Once: the other side has hung up or sent nonsense. Not after close(). */
  onClosed(reason: string): void;
}

const HUNG_UP = "the guest's agent hung up";

export class AgentStream {
  private socket: Socket<undefined> | null = null;
  private readonly decoder = new FrameDecoder();
  private readonly outgoing: Uint8Array[] = [];
  private over = false;
  private paused = false;
  /** Frames of the chunk that was being handed out when the reader asked to pause. */
  private readonly held: DecodedFrame[] = [];

  private constructor(private readonly listener: StreamListener) {}

  /** Takes over `fd`, a connected non-blocking stream socket. */
  static async open(fd: number, listener: StreamListener): Promise<AgentStream> {
    const stream = new AgentStream(listener);
    const handlers: SocketHandler<undefined> = {
      data: (_socket, bytes) => stream.onData(bytes),
      drain: () => stream.flush(),
      end: () => stream.lost(HUNG_UP),
      close: () => stream.lost(HUNG_UP),
      error: (_socket, error) => stream.lost(error.message),
    };
    try {
      // Bun adopts a connected descriptor; its declarations know only of host names and paths.
      stream.socket = await Bun.connect({ fd, socket: handlers } as unknown as Parameters<typeof Bun.connect<undefined>>[0]);
      return stream;
    } catch (error) {
      closeFd(fd);
      throw error;
    }
  }

  /** Sends, or keeps what the socket does not take yet. False: wait for onDrain before the next, or memory grows. */
  send(frame: Uint8Array): boolean {
    if (this.over) return true;
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
  }

  private onData(bytes: Uint8Array): void {
    if (this.over) return;
    try {
      this.held.push(...this.decoder.push(bytes));
    } catch (error) {
      return this.lost(`the guest's agent broke the protocol: ${error instanceof Error ? error.message : String(error)}`);
    }
    this.deliver();
  }

  private deliver(): void {
    while (!this.paused && !this.over) {
      const frame = this.held.shift();
      if (frame === undefined) return;
      this.listener.onFrame(frame);
    }
  }

  private flush(tell = true): void {
    while (this.outgoing.length > 0 && !this.over) {
      const first = this.outgoing[0]!;
      const written = this.socket?.write(first) ?? 0;
      if (written < 0) return this.lost(HUNG_UP);
      if (written < first.length) {
        this.outgoing[0] = first.subarray(written);
        return;
      }
      this.outgoing.shift();
    }
    if (tell && !this.over) this.listener.onDrain();
  }

  private lost(reason: string): void {
    if (this.over) return;
    // What came before the hang-up is still the reader's, also where it has asked for a pause.
    this.paused = false;
    this.deliver();
    if (this.over) return;
    this.close();
    this.listener.onClosed(reason);
  }
}
