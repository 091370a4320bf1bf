// One command in the testbed, seen from outside: carries this process's streams, terminal and signals to the agent (agent.c).
import type { Socket } from "node:net";
import { constants } from "node:os";
import { encodeFrame, Frame, FrameReader, INPUT_WINDOW, nulTerminated } from "./frames.ts";

/** Signals that reach the command instead of ending this process. */
const FORWARDED = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const;
/** The third SIGINT or SIGTERM gives up on the command. */
const IMPATIENCE = 3;

export interface Command { readonly argv: readonly string[]; readonly directory: string; readonly out: string; readonly env: Readonly<Record<string, string | undefined>> }

/** Ends with the command's exit status, or null when the machine went away or the user lost patience. */
export class Session {
  readonly ended: Promise<number | null>;
  private end: (status: number | null) => void = () => {};
  private readonly tty = Boolean(process.stdin.isTTY && process.stdout.isTTY);
  private credit = INPUT_WINDOW;
  private credited: () => void = () => {};
  private impatience = 0;
  private heard = true;

  constructor(private readonly socket: Socket, private readonly command: Command, private readonly ready: () => void) {
    this.ended = new Promise((resolve) => (this.end = resolve));
    const reader = new FrameReader((type, payload) => this.handle(type, payload));
    socket.on("data", (bytes: Buffer) => { this.heard = true; reader.push(bytes); });
    socket.on("error", () => this.end(null));
    socket.on("close", () => this.end(null));
  }

  /** Whether the agent spoke since the last call, or could not because our reader is behind. */
  takeHeard(): boolean {
    const heard = this.heard || this.socket.isPaused();
    this.heard = false;
    return heard;
  }

  private send(type: number, payload: Uint8Array = new Uint8Array()): void {
    this.socket.write(encodeFrame(type, payload));
  }

  private handle(type: number, payload: Buffer): void {
    if (type === Frame.READY) this.start();
    else if (type === Frame.STDOUT) this.write(process.stdout, payload);
    else if (type === Frame.STDERR) this.write(process.stderr, payload);
    else if (type === Frame.CREDIT) this.addCredit(payload.readUInt32LE(0));
    else if (type === Frame.EXIT) this.end(payload[0] ?? null);
  }

  private start(): void {
    this.ready();
    const { argv, directory, out, env } = this.command;
    const { rows = 24, columns = 80 } = process.stdout;
    const environment = Object.entries(env).map(([key, value]) => `${key}=${value ?? ""}`);
    const tty = this.tty ? "1" : "0";
    this.send(Frame.CONFIG, nulTerminated([tty, String(rows), String(columns), directory, out, String(argv.length), ...argv, ...environment]));
    for (const stream of [process.stdout, process.stderr]) stream.on("error", () => this.unread());
    for (const name of FORWARDED) process.on(name, () => this.signal(name));
    if (this.tty) {
      process.stdin.setRawMode(true);
      process.stdout.on("resize", () => this.resize());
    }
    void this.input();
  }

  /** Hands our input on, no more of it than the command takes. */
  private async input(): Promise<void> {
    try {
      for await (const chunk of process.stdin as AsyncIterable<Buffer>)
        for (let at = 0; at < chunk.length; ) {
          while (this.credit === 0) await new Promise<void>((resolve) => (this.credited = resolve));
          const part = chunk.subarray(at, at + this.credit);
          this.credit -= part.length;
          at += part.length;
          this.send(Frame.STDIN, part);
        }
    } catch (error) {
      process.stderr.write(`testbed: cannot read the input: ${String(error)}\n`);
    }
    this.send(Frame.STDIN);
  }

  private addCredit(bytes: number): void {
    this.credit += bytes;
    this.credited();
  }

  /** The agent is not read while the reader of our output is behind. */
  private write(stream: NodeJS.WriteStream, payload: Buffer): void {
    if (stream.write(payload) || this.socket.isPaused()) return; // a chunk that was read already may bring several frames
    this.socket.pause();
    stream.once("drain", () => this.socket.resume());
  }

  /** Nobody reads our output (`| head`): the command hears what it would have heard outside. */
  private unread(): void {
    this.socket.resume();
    this.send(Frame.SIGNAL, Buffer.of(constants.signals.SIGPIPE));
  }

  private signal(name: (typeof FORWARDED)[number]): void {
    if ((name === "SIGINT" || name === "SIGTERM") && ++this.impatience >= IMPATIENCE) this.end(null);
    this.send(Frame.SIGNAL, Buffer.of(constants.signals[name]));
  }

  private resize(): void {
    const size = Buffer.alloc(4);
    size.writeUInt16LE(process.stdout.rows, 0);
    size.writeUInt16LE(process.stdout.columns, 2);
    this.send(Frame.RESIZE, size);
  }

  /** Gives the terminal back; waits until what was written is out. */
  async close(): Promise<void> {
    if (this.tty) process.stdin.setRawMode(false);
    process.stdin.pause();
    this.socket.destroy();
    for (const stream of [process.stdout, process.stderr]) await new Promise<void>((resolve) => stream.write("", () => resolve()));
  }
}
