// One copy over a WebSocket, in both protocols of ../cp-protocol.ts. Bytes pass through with back-pressure both ways: a slow
// guest stops the reading of the socket, a slow client stops the reading of the guest.
import { type Static, Type } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import type { ServerWebSocket } from "bun";
import type { AsyncRes } from "../../errors.ts";
import type { CopyListener, CopyRequest, CopySession, NewEntry, PathEntry } from "../../host/instances/copy-service.ts";
import { describeError } from "../../log.ts";
import { type CpHeader, type CpNotice, unmistakable } from "../cp-protocol.ts";
import type { Socket } from "../live.ts";
import { SessionLink } from "./session-link.ts";
import { FIRST_FRAME_MS, SocketLife, WS_GOING_AWAY, WS_NORMAL } from "./socket-life.ts";

const Id = Type.Integer({ minimum: 0, maximum: 0xffff_fffe });
/** Bits of the file's type may come along. */
const Mode = Type.Integer({ minimum: 0, maximum: 0o177777 });
const strict = { additionalProperties: false } as const;
const StartFrame = Type.Object({
  direction: Type.Union([Type.Literal("to"), Type.Literal("from")]),
  guest_path: Type.String({ minLength: 1, maxLength: 4095 }),
  is_dir: Type.Optional(Type.Boolean()),
  mode: Type.Optional(Mode),
  uid: Type.Optional(Id),
  gid: Type.Optional(Id),
  follow_links: Type.Optional(Type.Boolean()),
  follow_source: Type.Optional(Type.Boolean()),
  make_parents: Type.Optional(Type.Boolean()),
}, strict);
type Start = Static<typeof StartFrame>;
const HeaderFrame = Type.Object({
  type: Type.Literal("header"),
  path: Type.String({ maxLength: 4095 }),
  mode: Type.Optional(Mode),
  is_dir: Type.Optional(Type.Boolean()),
  is_symlink: Type.Optional(Type.Boolean()),
  link_target: Type.Optional(Type.String({ maxLength: 4095 })),
  size: Type.Optional(Type.Integer({ minimum: 0 })),
  mtime: Type.Optional(Type.Integer({ minimum: 0 })),
  uid: Type.Optional(Id),
  gid: Type.Optional(Id),
}, strict);
const EndFrame = Type.Object({ type: Type.Literal("end"), final: Type.Optional(Type.Boolean()) }, strict);

/**
 * After its last word the socket stays open until the client closes it, or for this long: a client that still sends would
 * lose the word to a reset, and the contract's takes a close that comes before its file is flushed for a failure.
 */
const LINGER_MS = 30_000;

export interface CopySocketOptions {
  readonly open: (request: CopyRequest, listener: CopyListener) => AsyncRes<CopySession>;
  /** `dormouse.cp.v1` was chosen. */
  readonly v1: boolean;
  readonly closing: AbortSignal;
}

export class CopySocket implements Socket {
  readonly #options: CopySocketOptions;
  #start: Start | null = null;
  readonly #link = new SessionLink<CopySession>();
  /** Of what comes in: in the middle of a file's bytes; all was sent. */
  #inFile = false;
  #complete = false;
  /** Of what goes out: an entry's end is told with the next one, as the last one's end is the end of all. */
  #owesEnd = false;
  #over = false;
  #life: SocketLife | null = null;

  constructor(options: CopySocketOptions) {
    this.#options = options;
  }

  open(ws: ServerWebSocket<Socket>): void {
    this.#life = new SocketLife(ws, this.#options.closing, () => {
      this.#end();
      this.#life?.finish(WS_GOING_AWAY, "the daemon is stopping");
    });
    this.#life.limit(FIRST_FRAME_MS, () => this.#refuse(ws, "no first frame came"));
  }

  message(ws: ServerWebSocket<Socket>, data: string | Buffer): void {
    if (this.#over) return; // after the last word it is only read so that the client's close comes through
    if (this.#start === null) return this.#begin(ws, data);
    this.#link.came(data, (session, frame) => this.#take(ws, session, frame));
  }

  drain(_ws: ServerWebSocket<Socket>): void {
    this.#link.drained();
    if (this.#over) this.#linger(); // it still takes what it was sent
    this.#life?.drained();
  }

  /** The client hung up, or we did: a file that is not whole is dropped by the guest. */
  close(_ws: ServerWebSocket<Socket>): void {
    this.#end();
    this.#life?.end();
  }

  #begin(ws: ServerWebSocket<Socket>, data: string | Buffer): void {
    const start = parse(data.toString());
    if (!Value.Check(StartFrame, start) || start.guest_path.includes("\0")) return this.#refuse(ws, "the first frame is not a valid request");
    this.#start = start;
    this.#life?.lift();
    ws.pause();
    this.#options.open(requestOf(start, this.#options.v1), this.#listener(ws)).then(
      (result) => (result.isErr() ? this.#fail(ws, result.error.message) : this.#ready(ws, result.value)),
      (bug: unknown) => this.#fail(ws, describeError(bug)),
    );
  }

  #ready(ws: ServerWebSocket<Socket>, session: CopySession): void {
    if (this.#over) return session.close();
    const early = this.#link.begin(session);
    if (this.#start?.direction === "to" && !this.#options.v1) this.#entry(session, contractEntry(this.#start));
    ws.resume();
    for (const frame of early) if (!this.#over) this.#take(ws, session, frame);
  }

  #entry(session: CopySession, entry: NewEntry): boolean {
    this.#inFile = entry.kind === "file";
    return session.sendEntry(entry);
  }

  #take(ws: ServerWebSocket<Socket>, session: CopySession, data: string | Uint8Array): void {
    if (this.#start?.direction !== "to" || this.#complete) return this.#refuse(ws, "a frame came where none is expected");
    if (typeof data === "string") return this.#control(ws, session, parse(data));
    if (!this.#inFile) return this.#refuse(ws, "bytes came that belong to no file");
    if (data.byteLength > 0 && !session.sendData(data)) ws.pause();
  }

  #control(ws: ServerWebSocket<Socket>, session: CopySession, frame: unknown): void {
    if (Value.Check(EndFrame, frame)) {
      const file = this.#inFile;
      if (file) session.endFile();
      this.#inFile = false;
      // The contract's end is that of the one file or folder.
      this.#complete = !this.#options.v1 || frame.final === true;
      if (this.#complete) session.finish();
      else if (!file) this.#refuse(ws, "an end came without a file");
      return;
    }
    if (!this.#options.v1 || this.#inFile || !Value.Check(HeaderFrame, frame)) return this.#refuse(ws, "a text frame is not one that is known here");
    const entry = headerEntry(frame);
    if (entry === null) return this.#refuse(ws, "a header holds a NUL, or a symlink has no target");
    if (!this.#entry(session, entry)) ws.pause();
  }

  #listener(ws: ServerWebSocket<Socket>): CopyListener {
    return {
      onEntry: (entry) => {
        this.#settleEnd(ws, false);
        this.#text(ws, this.#header(entry));
        this.#owesEnd = entry.kind !== "file" && !this.#options.v1;
      },
      onData: (bytes) => {
        for (const part of this.#options.v1 ? [bytes] : unmistakable(bytes)) this.#link.sent(ws.sendBinary(part));
      },
      onFileEnd: () => {
        if (this.#options.v1) this.#text(ws, { type: "end" });
        else this.#owesEnd = true;
      },
      onSkipped: (path, message) => this.#text(ws, { type: "skipped", path: this.#name(path), message }),
      onDrain: () => {
        if (!this.#over) ws.resume();
      },
      onEnd: ({ error, bytes }) => this.#ended(ws, error, bytes),
      onLost: (reason) => this.#fail(ws, reason),
    };
  }

  #ended(ws: ServerWebSocket<Socket>, error: string | null, bytes: number): void {
    if (this.#over) return;
    if (this.#start?.direction === "to") this.#last(ws, { type: "result", success: error === null, ...(error === null ? {} : { error }), bytes_written: bytes });
    else if (error !== null) this.#fail(ws, error);
    else {
      this.#settleEnd(ws, true);
      this.#last(ws, null);
    }
  }

  #settleEnd(ws: ServerWebSocket<Socket>, final: boolean): void {
    if (this.#owesEnd || final) this.#text(ws, { type: "end", final });
    this.#owesEnd = false;
  }

  #header({ path, kind, mode, sizeBytes, mtime, uid, gid, target }: PathEntry): CpHeader & { is_dir: boolean } {
    const link = target === null ? {} : { is_symlink: true, link_target: target };
    return { type: "header", path: this.#name(path), mode, is_dir: kind === "directory", ...link, size: sizeBytes, mtime, uid, gid };
  }

  /** In the contract a path begins with the source's own name, as the copy goes into the client's folder. */
  #name(path: string): string {
    if (this.#options.v1) return path;
    const base = (this.#start?.guest_path ?? "").replace(/\/+$/, "").split("/").at(-1) ?? "";
    if (base === "" || base === "." || base === "..") return path || ".";
    return path === "" ? base : `${base}/${path}`;
  }

  #text(ws: ServerWebSocket<Socket>, frame: object): void {
    this.#link.sent(ws.sendText(JSON.stringify(frame)));
  }

  #refuse(ws: ServerWebSocket<Socket>, why: string): void {
    this.#fail(ws, `Cannot copy: ${why}`);
  }

  #fail(ws: ServerWebSocket<Socket>, message: string): void {
    if (!this.#over) this.#last(ws, { type: "error", message, path: this.#start?.guest_path ?? "" });
  }

  #last(ws: ServerWebSocket<Socket>, notice: CpNotice | null): void {
    this.#end();
    if (notice !== null) ws.sendText(JSON.stringify(notice));
    ws.resume(); // a paused socket would never read the client's closing frame
    this.#linger();
  }

  #linger(): void {
    this.#life?.limit(LINGER_MS, () => this.#life?.finish(WS_NORMAL, ""));
  }

  #end(): void {
    this.#over = true;
    this.#life?.lift();
    this.#link.end();
  }
}

function requestOf({ direction, guest_path, follow_links, follow_source, make_parents }: Start, v1: boolean): CopyRequest {
  const followLinks = follow_links === true ? "all" : follow_source === true ? "source" : "none";
  return { direction: direction === "to" ? "in" : "out", path: guest_path, followLinks, makeParents: !v1 || make_parents === true };
}

/** Without a mode, or with 0, a client that leaves out what is zero means the default. */
const contractEntry = ({ is_dir, mode, uid, gid }: Start): NewEntry =>
  ({ path: "", kind: is_dir === true ? "directory" : "file", mode: mode ? mode & 0o7777 : null, uid: uid ?? null, gid: gid ?? null, mtime: null, target: null });

function headerEntry({ path, mode, is_dir, is_symlink, link_target, mtime, uid, gid }: Static<typeof HeaderFrame>): NewEntry | null {
  const target = is_symlink === true ? (link_target ?? "") : null;
  if (path.includes("\0") || target === "" || target?.includes("\0")) return null;
  const kind = target !== null ? "symlink" : is_dir === true ? "directory" : "file";
  return { path, kind, mode: mode === undefined ? null : mode & 0o7777, uid: uid ?? null, gid: gid ?? null, mtime: mtime ?? null, target };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
