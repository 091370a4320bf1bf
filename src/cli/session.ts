// One exec or attach: our terminal or pipes at this end of a `dormouse.exec.v1` WebSocket (src/routes/exec-protocol.ts).
import { Channel, EXEC_V1, type ExecControl, type ExecNotice, type ExecStart } from "../routes/exec-protocol.ts";
import type { Api } from "./api.ts";
import { CliError } from "./fail.ts";
import { note, writeAll } from "./output.ts";
import { DetachFilter, rawMode, terminalSize } from "./terminal.ts";

export interface SessionOptions {
  readonly api: Api;
  /** Of the WebSocket route. */
  readonly path: string;
  /** What to run; null attaches to the instance's own program. */
  readonly start: ExecStart | null;
  /** Passes our standard input on. */
  readonly interactive: boolean;
  readonly tty: boolean;
  /** ctrl-p ctrl-q leaves the session. */
  readonly detachable: boolean;
  /** Shows no output: it comes another way (the log, for an instance without a terminal). */
  readonly inputOnly?: boolean;
  /** Called with every piece of output that was shown. */
  readonly onOutput?: () => void;
}

export type SessionEnd =
  | { readonly how: "exited"; readonly code: number; readonly message: string | null }
  | { readonly how: "detached" };

/** Input chunks that wait in the socket before we stop reading more. */
const SEND_BUFFER = 256 * 1024;
const DRAIN_POLL_MS = 5;

/** Runs the session to its end; the terminal is as it was when this settles. */
export async function runSession(options: SessionOptions): Promise<SessionEnd> {
  const session = new Session(options);
  const restore = options.tty && options.interactive ? rawMode() : () => {};
  try {
    return await session.done;
  } finally {
    restore();
    session.close();
  }
}

class Session {
  readonly done: Promise<SessionEnd>;
  private readonly socket: WebSocket;
  private settle!: (end: SessionEnd) => void;
  private fail!: (error: CliError) => void;
  private opened = false;
  private readonly stops: (() => void)[] = [];
  /** Set while the socket's own buffer is full: the daemon reads no faster than the program. */
  private draining: ReturnType<typeof setInterval> | null = null;
  private readonly detach: DetachFilter | null;

  constructor(private readonly options: SessionOptions) {
    this.detach = options.detachable && options.tty ? new DetachFilter() : null;
    const { promise, resolve, reject } = Promise.withResolvers<SessionEnd>();
    this.done = promise;
    this.settle = resolve;
    this.fail = reject;
    this.socket = new WebSocket(options.api.socketUrl(options.path), EXEC_V1);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.onOpen();
    this.socket.onmessage = ({ data }) => this.onMessage(data);
    this.socket.onclose = ({ code, reason }) => this.onClose(code, reason);
  }

  close(): void {
    for (const stop of this.stops.splice(0)) stop();
    if (this.draining !== null) clearInterval(this.draining);
    this.socket.close();
  }

  private onOpen(): void {
    this.opened = true;
    if (this.options.start !== null) this.socket.send(JSON.stringify(this.options.start));
    if (this.options.tty) this.followSize();
    if (this.options.interactive) this.readInput();
    // A program that reads must see the end; a terminal has none, and the program of an attach may have other readers.
    else if (this.options.start !== null && !this.options.tty) this.endInput();
  }

  private onMessage(data: unknown): void {
    if (data instanceof ArrayBuffer) return this.onOutput(new Uint8Array(data));
    const notice = JSON.parse(String(data)) as ExecNotice;
    if ("exitCode" in notice) this.settle({ how: "exited", code: notice.exitCode, message: notice.message ?? null });
    else this.fail(new CliError(`Cannot go on: ${notice.error}`, "session_lost"));
  }

  private onOutput(frame: Uint8Array): void {
    if (this.options.inputOnly) return;
    this.options.onOutput?.();
    try {
      writeAll(frame[0] === Channel.STDERR ? 2 : 1, frame.subarray(1));
    } catch (cause) {
      this.fail(cause as CliError); // a broken pipe; main.ts knows it
    }
  }

  private onClose(code: number, reason: string): void {
    // After a settled end this changes nothing.
    if (this.opened) this.fail(new CliError(`Cannot go on: the connection to the daemon broke (${reason || `close code ${code}`})`, "session_lost"));
    // The standard's WebSocket keeps the refusal's body to itself: the same request without the upgrade tells.
    else this.options.api.explain(this.options.path).then(this.fail, this.fail);
  }

  private send(control: ExecControl): void {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(control));
  }

  private followSize(): void {
    const tell = () => this.send({ resize: terminalSize() });
    tell();
    process.on("SIGWINCH", tell);
    this.stops.push(() => process.off("SIGWINCH", tell));
  }

  private readInput(): void {
    const onData = (chunk: Buffer) => this.onInput(chunk);
    const onEnd = () => this.endInput();
    process.stdin.on("data", onData).on("end", onEnd).on("error", onEnd);
    process.stdin.resume();
    this.stops.push(() => {
      process.stdin.off("data", onData).off("end", onEnd).off("error", onEnd).pause();
    });
  }

  private onInput(chunk: Uint8Array): void {
    const { bytes, left } = this.detach?.pass(chunk) ?? { bytes: chunk, left: false };
    if (bytes.length > 0 && this.socket.readyState === WebSocket.OPEN) {
      const frame = new Uint8Array(bytes.length + 1);
      frame[0] = Channel.STDIN;
      frame.set(bytes, 1);
      this.socket.send(frame);
    }
    if (left) {
      note("\r");
      this.settle({ how: "detached" });
    } else if (this.socket.bufferedAmount > SEND_BUFFER) this.waitForDrain();
  }

  /** The WebSocket of the standard has no event for it. */
  private waitForDrain(): void {
    if (this.draining !== null) return;
    process.stdin.pause();
    this.draining = setInterval(() => {
      if (this.socket.bufferedAmount > SEND_BUFFER) return;
      clearInterval(this.draining ?? undefined);
      this.draining = null;
      process.stdin.resume();
    }, DRAIN_POLL_MS);
  }

  private endInput(): void {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(new Uint8Array([Channel.STDIN]));
  }
}
