// Bare TCP, either side: tests say byte by byte what is sent, and see byte by byte what came and how it ended.
import type { Socket, TCPSocketListener } from "bun";
import { until } from "./world.ts";

export class Raw {
  /** All that came, a character a byte. */
  got = "";
  /** Bytes that came; kept also where `got` is not. */
  count = 0;
  /** The peer's FIN has come. */
  ended = false;
  closed: "open" | "clean" | "reset" = "open";
  keep = true;
  onData: (bytes: Uint8Array) => void = () => {};
  private queue: Uint8Array[] = [];
  socket!: Socket<Raw>;

  static handlers(accept: (raw: Raw) => void) {
    return {
      open: (socket: Socket<Raw>) => { const raw = new Raw(); raw.socket = socket; socket.data = raw; accept(raw); },
      data: ({ data: raw }: Socket<Raw>, bytes: Buffer) => {
        raw.count += bytes.length;
        if (raw.keep) raw.got += bytes.toString("latin1");
        raw.onData(bytes);
      },
      drain: ({ data: raw }: Socket<Raw>) => raw.flush(),
      end: ({ data: raw }: Socket<Raw>) => void (raw.ended = true),
      close: ({ data: raw }: Socket<Raw>, error?: Error | null) => void (raw.closed = error == null ? "clean" : "reset"),
      error: () => {},
    };
  }

  static async connect(port: number): Promise<Raw> {
    let raw!: Raw;
    await Bun.connect<Raw>({ hostname: "127.0.0.1", port, allowHalfOpen: true, data: undefined as unknown as Raw, socket: Raw.handlers((one) => void (raw = one)) });
    return raw;
  }

  send(what: string | Uint8Array): this {
    this.queue.push(typeof what === "string" ? Buffer.from(what, "latin1") : what);
    this.flush();
    return this;
  }
  /** Bytes that the kernel has not taken. */
  get unsent(): number { return this.queue.reduce((sum, one) => sum + one.length, 0); }
  private flush(): void {
    while (this.queue.length > 0) {
      const sent = this.socket.write(this.queue[0]!);
      if (sent < this.queue[0]!.length) { if (sent > 0) this.queue[0] = this.queue[0]!.subarray(sent); return; }
      this.queue.shift();
    }
  }

  async until(text: string): Promise<this> {
    await until(() => this.got.includes(text) || this.closed !== "open");
    if (!this.got.includes(text)) throw new Error(`closed (${this.closed}) before ${JSON.stringify(text)} came; got ${JSON.stringify(this.got)}`);
    return this;
  }
  /** How the peer ended it: FIN, or reset. (Where we have sent FIN before, its FIN closes the socket at once.) */
  async over(): Promise<"end" | "reset"> {
    await until(() => this.ended || this.closed !== "open");
    return this.closed === "reset" ? "reset" : "end";
  }
  /** Gives back what came, and forgets it. */
  take(): string { const { got } = this; this.got = ""; return got; }
  fin(): void { this.socket.shutdown(); }
  reset(): void { this.socket.terminate(); }
  pause(): void { this.socket.pause(); }
  resume(): void { this.socket.resume(); }
}

/** A server that does what the test does. */
export class RawServer {
  readonly connections: Raw[] = [];
  private readonly listener: TCPSocketListener<Raw>;
  /** `accept` runs before the first byte. */
  constructor(accept: (raw: Raw) => void = () => {}) {
    this.listener = Bun.listen<Raw>({ hostname: "127.0.0.1", port: 0, allowHalfOpen: true, data: undefined as unknown as Raw, socket: Raw.handlers((raw) => { accept(raw); this.connections.push(raw); }) });
  }
  get port(): number { return this.listener.port; }
  /** The nth connection, once it is there. */
  async at(n: number): Promise<Raw> {
    await until(() => this.connections.length > n);
    return this.connections[n]!;
  }
  stop(): void { this.listener.stop(true); }
}

/** Answers whatever has a whole head; for what needs no more of a target. */
export const answering = (answer: string) =>
  new RawServer((raw) => {
    raw.onData = () => {
      for (let at = raw.got.indexOf("\r\n\r\n"); at >= 0; at = raw.got.indexOf("\r\n\r\n")) {
        raw.got = raw.got.slice(at + 4);
        raw.send(answer);
      }
    };
  });
export const OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
