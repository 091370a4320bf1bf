// One TCP connection of the proxy, either side: what the kernel does not take at once is kept, and the caller is told to
// stop; so as much memory is used as one read brings, whatever the size of a body.
import type { Socket, SocketHandler } from "bun";

export interface WireHandler {
  /** `bytes` are the handler's from now on. */
  data(bytes: Uint8Array): void;
  /** All that was kept is with the kernel. */
  drain(): void;
  /** The peer sends no more (FIN); the other direction may go on. */
  end(): void;
  /** Once, last. `reset`: broken off, not ended. */
  close(reset: boolean): void;
  /** What limit() set is over. */
  timeout(): void;
}

/** What all connections together keep in this process: each has little, and there may be thousands that don't read. */
export class Ledger {
  private total = 0;
  constructor(private readonly max: number) {}
  /** False: it is too much; whoever adds to it goes. */
  add(bytes: number): boolean {
    this.total += bytes;
    return bytes <= 0 || this.total <= this.max;
  }
}

/** Bun's, which has no Wire before `open` has made one. */
export type RawSocket = Socket<Wire | undefined>;

/** Owns the socket. */
export class Wire {
  private queue: Uint8Array[] = [];
  /** Of the ledger: what is queued, and what hold() was told. */
  private queued = 0;
  private held = 0;
  private ending = false;
  private closed = false;
  private paused = false;

  constructor(private readonly socket: RawSocket, public handler: WireHandler, private readonly ledger: Ledger) {
    socket.data = this;
    socket.setNoDelay(true);
  }

  get localPort(): number { return this.socket.localPort; }
  get remoteAddress(): string { return this.socket.remoteAddress; }
  /** Whether all that was written is with the kernel. */
  get clear(): boolean { return this.queue.length === 0; }
  get gone(): boolean { return this.closed; }

  /** False: write no more until drain(). All of `bytes` is taken all the same. */
  write(bytes: Uint8Array): boolean {
    if (this.closed || this.ending || bytes.length === 0) return this.queue.length === 0;
    if (this.queue.length > 0) return this.enqueue(bytes);
    const sent = this.socket.write(bytes);
    // A socket that has gone tells so in close().
    if (sent < 0 || sent >= bytes.length) return true;
    return this.enqueue(sent === 0 ? bytes : bytes.subarray(sent));
  }

  /** `bytes`: how many of those that came the handler keeps now. */
  hold(bytes: number): void {
    if (this.closed) return;
    const more = bytes - this.held;
    this.held = bytes;
    this.account(more);
  }

  private enqueue(bytes: Uint8Array): false {
    this.queue.push(bytes);
    this.queued += bytes.buffer.byteLength;
    this.account(bytes.buffer.byteLength);
    return false;
  }

  /** Not at once: whoever writes is in the middle of something. */
  private account(more: number): void {
    if (!this.ledger.add(more)) queueMicrotask(() => this.destroy());
  }

  pause(): void {
    if (this.paused || this.closed) return;
    this.paused = true;
    this.socket.pause();
  }

  resume(): void {
    if (!this.paused || this.closed) return;
    this.paused = false;
    this.socket.resume();
  }

  /** Sends FIN after what is kept; reading goes on. */
  shutdown(): void {
    if (this.ending || this.closed) return;
    this.ending = true;
    if (this.queue.length === 0) this.socket.shutdown();
  }

  /** Both directions, after what is kept. */
  end(): void {
    if (this.closed) return;
    this.shutdown();
    if (this.queue.length === 0) this.socket.end();
  }

  /** Resets it: the peer sees that something broke. */
  destroy(): void {
    if (!this.closed) this.socket.terminate();
  }

  /** Calls timeout() in so long (a few seconds later at most), whatever comes or goes meanwhile; 0 lifts the limit. */
  limit(seconds: number): void {
    if (!this.closed) this.socket.timeout(seconds);
  }

  /** Finds out about a peer that vanished without a word. */
  keepAlive(ms: number): void {
    this.socket.setKeepAlive(true, ms);
  }

  /** The socket is ours no more to touch. */
  private dropped(reset: boolean): void {
    if (this.closed) return;
    this.closed = true;
    this.queue = [];
    this.ledger.add(-this.queued - this.held);
    this.queued = this.held = 0;
    this.handler.close(reset);
  }

  private flush(): void {
    while (this.queue.length > 0) {
      const bytes = this.queue[0]!;
      const sent = this.socket.write(bytes);
      if (sent < bytes.length) {
        if (sent > 0) this.queue[0] = bytes.subarray(sent);
        return;
      }
      this.queue.shift();
      this.queued -= bytes.buffer.byteLength;
      this.ledger.add(-bytes.buffer.byteLength);
    }
    if (this.ending) this.socket.shutdown();
    this.handler.drain();
  }

  /** For Bun.listen and Bun.connect; `open` makes the Wire. A bug in a handler ends its connection, not the daemon. */
  static handlers(open: (socket: RawSocket) => void, bug: (error: unknown) => void): SocketHandler<Wire | undefined> {
    return {
      binaryType: "buffer",
      open,
      data: ({ data: wire }, bytes) => wire?.handler.data(bytes),
      drain: ({ data: wire }) => wire?.flush(),
      end: ({ data: wire }) => wire?.handler.end(),
      timeout: ({ data: wire }) => wire?.handler.timeout(),
      close: ({ data: wire }, error) => wire?.dropped(error !== undefined && error !== null),
      error: (socket, error) => {
        bug(error);
        socket.terminate();
      },
    };
  }
}

export const latin1 = (text: string): Uint8Array => Buffer.from(text, "latin1");
export const EMPTY = new Uint8Array(0);

/** One piece of many, so that they are one system call. What lay side by side is not copied. */
export function gather(parts: readonly Uint8Array[]): Uint8Array {
  const merged: Uint8Array[] = [];
  for (const part of parts) {
    const last = merged.at(-1);
    if (last !== undefined && last.buffer === part.buffer && last.byteOffset + last.length === part.byteOffset)
      merged[merged.length - 1] = new Uint8Array(last.buffer, last.byteOffset, last.length + part.length);
    else merged.push(part);
  }
  return merged.length === 1 ? merged[0]! : Buffer.concat(merged);
}

export function join(a: Uint8Array, b: Uint8Array): Uint8Array {
  return a.length === 0 ? b : b.length === 0 ? a : Buffer.concat([a, b]);
}
