// One exec or attach over a WebSocket, in both protocols of ../exec-protocol.ts. Data passes through with back-pressure both
// ways: a slow command stops the reading of the socket, a slow client stops the reading of the command.
import { type Static, Type } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import type { ServerWebSocket } from "bun";
import type { AsyncRes } from "../../errors.ts";
import { describeError } from "../../log.ts";
import type { ExecEnd, ExecListener, ExecRequest, ExecSession } from "../../host/instances/service.ts";
import { Channel, type ExecNotice } from "../exec-protocol.ts";
import type { Socket } from "../live.ts";
import { SessionLink } from "./session-link.ts";
import { FIRST_FRAME_MS, SocketLife, WS_GOING_AWAY, WS_INTERNAL, WS_NORMAL, WS_POLICY } from "./socket-life.ts";

const Size16 = Type.Integer({ minimum: 1, maximum: 65_535 });
const Env = Type.Record(Type.String(), Type.String());
export const ExecStartFrame = Type.Object(
  {
    command: Type.Optional(Type.Array(Type.String())),
    tty: Type.Optional(Type.Boolean()),
    env: Type.Optional(Env),
    cwd: Type.Optional(Type.String()),
    timeout: Type.Optional(Type.Number({ minimum: 0, maximum: 31_536_000 })),
    wait_for_agent: Type.Optional(Type.Number({ minimum: 0, maximum: 3600 })),
    user: Type.Optional(Type.String()),
    rows: Type.Optional(Size16),
    cols: Type.Optional(Size16),
  },
  { additionalProperties: false },
);
const ControlFrame = Type.Union([
  Type.Object({ resize: Type.Object({ rows: Size16, cols: Size16 }, { additionalProperties: false }) }, { additionalProperties: false }),
  Type.Object({ signal: Type.Integer({ minimum: 1, maximum: 64 }) }, { additionalProperties: false }),
]);

const CANNOT_START = 127;
const CANNOT_EXECUTE = 126;

type Open = (listener: ExecListener, start: ExecRequest, gone: AbortSignal) => AsyncRes<ExecSession>;

export interface ExecSocketOptions {
  /** Opens the session; for attach, `start` is of no use. */
  readonly open: Open;
  /** `dormouse.exec.v1` was chosen. */
  readonly v1: boolean;
  /** False for attach, which has no first frame. */
  readonly firstFrame: boolean;
  readonly closing: AbortSignal;
}

export class ExecSocket implements Socket {
  readonly #options: ExecSocketOptions;
  readonly #link = new SessionLink<ExecSession>();
  readonly #gone = new AbortController();
  #started = false;
  #over = false;
  #life: SocketLife | null = null;

  constructor(options: ExecSocketOptions) {
    this.#options = options;
  }

  open(ws: ServerWebSocket<Socket>): void {
    const { closing, firstFrame } = this.#options;
    this.#life = new SocketLife(ws, closing, () => this.#end(ws, WS_GOING_AWAY, "the daemon is stopping"));
    if (!firstFrame) return this.#begin(ws, DEFAULT_START);
    this.#life.limit(FIRST_FRAME_MS, () => this.#end(ws, WS_POLICY, "no first frame came"));
  }

  message(ws: ServerWebSocket<Socket>, data: string | Buffer): void {
    if (this.#over) return;
    if (!this.#started) {
      const start = readStart(typeof data === "string" ? data : data.toString("utf8"));
      if (start === null) return this.#end(ws, WS_POLICY, "the first frame is not a valid request");
      return this.#begin(ws, start);
    }
    this.#link.came(data, (session, frame) => this.#take(ws, session, frame));
  }

  drain(_ws: ServerWebSocket<Socket>): void {
    this.#link.drained();
    this.#life?.drained();
  }

  /** The client hung up, or we did: either way the command has nobody left. */
  close(_ws: ServerWebSocket<Socket>): void {
    this.#release();
    this.#link.end();
  }

  #begin(ws: ServerWebSocket<Socket>, start: ExecRequest): void {
    this.#started = true;
    this.#life?.lift();
    ws.pause();
    this.#options.open(this.#listener(ws), start, this.#gone.signal).then(
      (result) => {
        if (result.isErr()) return this.#failed(ws, result.error.message);
        this.#ready(ws, result.value);
      },
      (bug: unknown) => this.#failed(ws, describeError(bug)),
    );
  }

  #ready(ws: ServerWebSocket<Socket>, session: ExecSession): void {
    if (this.#over) return session.close();
    const early = this.#link.begin(session);
    ws.resume();
    for (const frame of early) this.#take(ws, session, frame);
  }

  #take(ws: ServerWebSocket<Socket>, session: ExecSession, data: string | Uint8Array): void {
    if (typeof data === "string") return this.#control(ws, session, data);
    if (!this.#options.v1) return this.#input(ws, session, data);
    if (data[0] !== Channel.STDIN) return this.#end(ws, WS_POLICY, "a binary frame names no channel of input");
    if (data.byteLength === 1) return session.endStdin();
    this.#input(ws, session, data.subarray(1));
  }

  #input(ws: ServerWebSocket<Socket>, session: ExecSession, bytes: Uint8Array): void {
    if (bytes.byteLength > 0 && !session.writeStdin(bytes)) ws.pause();
  }

  #control(ws: ServerWebSocket<Socket>, session: ExecSession, text: string): void {
    const frame = parse(text);
    if (!Value.Check(ControlFrame, frame)) return this.#end(ws, WS_POLICY, "a text frame is not a known control");
    if ("resize" in frame) session.resize(frame.resize.rows, frame.resize.cols);
    else session.signal(frame.signal);
  }

  #listener(ws: ServerWebSocket<Socket>): ExecListener {
    return {
      onStdout: (bytes) => this.#output(ws, Channel.STDOUT, bytes),
      onStderr: (bytes) => this.#output(ws, Channel.STDERR, bytes),
      onDrain: () => {
        if (!this.#over) ws.resume();
      },
      onEnd: (end) => this.#ended(ws, end),
      onLost: (reason) => this.#lost(ws, reason),
    };
  }

  #output(ws: ServerWebSocket<Socket>, channel: number, bytes: Uint8Array): void {
    if (!this.#over && bytes.byteLength > 0) this.#link.sent(ws.sendBinary(this.#options.v1 ? tagged(channel, bytes) : bytes));
  }

  #ended(ws: ServerWebSocket<Socket>, { code, message }: ExecEnd): void {
    if (this.#over) return;
    if (this.#options.v1) {
      this.#notice(ws, { exitCode: code, ...(message === null ? {} : { message }) });
    } else {
      if (message !== null && (code === CANNOT_START || code === CANNOT_EXECUTE)) ws.sendBinary(errorLine(message));
      this.#notice(ws, { exitCode: code });
    }
    this.#end(ws, WS_NORMAL, "");
  }

  /** The session could not be opened: as a command that can't start, in the contract's protocol. */
  #failed(ws: ServerWebSocket<Socket>, message: string): void {
    if (this.#options.v1) return this.#lost(ws, message);
    this.#ended(ws, { code: CANNOT_START, message });
  }

  #lost(ws: ServerWebSocket<Socket>, reason: string): void {
    if (this.#over) return;
    if (this.#options.v1) this.#notice(ws, { error: reason });
    else ws.sendBinary(errorLine(reason));
    this.#end(ws, WS_INTERNAL, "the guest or its agent went away");
  }

  #notice(ws: ServerWebSocket<Socket>, notice: ExecNotice): void {
    ws.sendText(JSON.stringify(notice));
  }

  /** Ends the session, and closes the WebSocket behind what was sent. `reason` has at most 123 bytes. */
  #end(ws: ServerWebSocket<Socket>, code: number, reason: string): void {
    if (this.#over) return;
    this.#release();
    // A paused socket would never read the client's closing frame.
    ws.resume();
    this.#life?.finish(code, reason);
    this.#link.end();
  }

  #release(): void {
    this.#over = true;
    this.#life?.end();
    this.#gone.abort();
  }
}

const DEFAULT_START: ExecRequest = {
  command: ["/bin/sh"], tty: false, env: {}, cwd: null, user: null, rows: 24, cols: 80, timeoutMs: null, waitForAgentMs: 0,
};

function readStart(text: string): ExecRequest | null {
  const frame = parse(text);
  if (!Value.Check(ExecStartFrame, frame) || !isClean(frame)) return null;
  const { command = [], tty, env, cwd, timeout, wait_for_agent, user, rows, cols } = frame;
  return {
    command: command.length > 0 ? command : DEFAULT_START.command,
    tty: tty ?? false,
    env: env ?? {},
    cwd: cwd || null,
    user: user || null,
    rows: rows ?? DEFAULT_START.rows,
    cols: cols ?? DEFAULT_START.cols,
    timeoutMs: timeout ? timeout * 1000 : null,
    waitForAgentMs: (wait_for_agent ?? 0) * 1000,
  };
}

/** Nothing that the agent's NUL-separated pairs, or an environment, can't carry. */
const isClean = ({ command = [], env = {}, cwd = "", user = "" }: Static<typeof ExecStartFrame>): boolean =>
  ![...command, ...Object.values(env), cwd, user].some((text) => text.includes("\0")) &&
  !Object.keys(env).some((key) => key === "" || /[=\0]/.test(key));

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function tagged(channel: number, bytes: Uint8Array): Uint8Array {
  const frame = new Uint8Array(bytes.byteLength + 1);
  frame[0] = channel;
  frame.set(bytes, 1);
  return frame;
}

const errorLine = (message: string): Uint8Array => new TextEncoder().encode(`Error: ${message}\r\n`);
