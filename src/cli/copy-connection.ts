// The `dormouse.cp.v1` WebSocket (src/routes/cp-protocol.ts) at our end. Nothing piles up: what comes in is taken before more is
// read, what goes out waits for the socket.
import { CP_V1, type CpEnd, type CpHeader, type CpNotice, type CpStart } from "../routes/cp-protocol.ts";
import type { Api } from "./api.ts";
import { CliError } from "./fail.ts";

/** Takes what comes out of a guest. Synchronous: the socket is read no further meanwhile. What it throws ends the copy. */
export interface CopySink {
  header(header: CpHeader): void;
  data(bytes: Uint8Array): void;
  fileEnd(): void;
  skipped(path: string, message: string): void;
  /** All has come. */
  finish(): void;
  /** Instead of finish: what is half-made goes. */
  abort(): void;
}

export interface CopySender {
  send(frame: CpHeader | CpEnd | Uint8Array): Promise<void>;
}

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
const STATUS_INTERRUPTED = 130;
const SEND_BUFFER = 512 * 1024;
const DRAIN_POLL_MS = 2;

export async function copyOut(api: Api, ref: string, start: CpStart, sink: CopySink): Promise<void> {
  const connection = new Connection(api, ref, start, (frame) => {
    if (frame instanceof Uint8Array) return sink.data(frame);
    if (frame.type === "header") sink.header(frame);
    else if (frame.type === "skipped") sink.skipped(frame.path, frame.message);
    else if (frame.type !== "end") return;
    else if (frame.final === true) {
      sink.finish();
      connection.settle(0);
    } else sink.fileEnd();
  });
  // What is half-made is cleaned up.
  const onSignal = () => connection.fail(new CliError("Cannot go on: interrupted", "interrupted", STATUS_INTERRUPTED));
  SIGNALS.forEach((signal) => process.on(signal, onSignal));
  try {
    await connection.done;
  } catch (cause) {
    sink.abort();
    throw cause;
  } finally {
    SIGNALS.forEach((signal) => process.off(signal, onSignal));
    connection.close();
  }
}

/** `feed` sends everything; the end of all is told for it. Resolves to the bytes that the guest has written. */
export async function copyIn(api: Api, ref: string, start: CpStart, feed: (sender: CopySender) => Promise<void>): Promise<number> {
  const connection = new Connection(api, ref, start, () => {});
  const feeding = async () => {
    await connection.opened;
    await feed(connection);
    await connection.send({ type: "end", final: true });
    return connection.done;
  };
  try {
    // What the daemon says ends the copy, also in the middle of what is sent.
    return await Promise.race([connection.done, feeding()]);
  } finally {
    connection.close();
  }
}

type Incoming = CpHeader | CpEnd | CpNotice | Uint8Array;

class Connection implements CopySender {
  readonly opened: Promise<void>;
  /** Bytes that a guest has written. */
  readonly done: Promise<number>;
  settle!: (bytes: number) => void;
  fail!: (error: unknown) => void;
  private readonly socket: WebSocket;
  private isOpen = false;
  private over = false;

  constructor(api: Api, ref: string, start: CpStart, private readonly take: (frame: Incoming) => void) {
    const path = `/instances/${encodeURIComponent(ref)}/cp`;
    const done = Promise.withResolvers<number>(), opened = Promise.withResolvers<void>();
    this.done = done.promise;
    this.opened = opened.promise;
    this.done.catch(() => {}); // who waits for it may not do so yet
    this.settle = (bytes) => ((this.over = true), done.resolve(bytes));
    this.fail = (error) => ((this.over = true), done.reject(error));
    this.socket = new WebSocket(api.socketUrl(path), CP_V1);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.isOpen = true;
      this.socket.send(JSON.stringify(start));
      opened.resolve();
    };
    this.socket.onmessage = ({ data }) => this.onMessage(data);
    this.socket.onclose = ({ code, reason }) => {
      if (this.isOpen) this.fail(new CliError(`Cannot go on: the connection to the daemon broke (${reason || `close code ${code}`})`, "session_lost"));
      else api.explain(path).then(this.fail, this.fail);
    };
  }

  async send(frame: CpHeader | CpEnd | Uint8Array): Promise<void> {
    while (this.socket.bufferedAmount > SEND_BUFFER && !this.over) await Bun.sleep(DRAIN_POLL_MS);
    if (this.over) return void (await this.done); // it has failed: that is thrown
    this.socket.send(frame instanceof Uint8Array ? frame : JSON.stringify(frame));
  }

  close(): void {
    this.over = true;
    this.socket.close();
  }

  private onMessage(data: unknown): void {
    if (this.over) return;
    try {
      const frame = data instanceof ArrayBuffer ? new Uint8Array(data) : (JSON.parse(String(data)) as Exclude<Incoming, Uint8Array>);
      if (frame instanceof Uint8Array || (frame.type !== "error" && frame.type !== "result")) return this.take(frame);
      if (frame.type === "result" && frame.success) return this.settle(frame.bytes_written);
      this.fail(new CliError((frame.type === "error" ? frame.message : frame.error) ?? "Cannot copy: the daemon gives no reason", "copy_failed"));
    } catch (cause) {
      this.fail(cause);
    }
  }
}
