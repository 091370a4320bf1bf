// One copy or stat over a stream to the agent. What the guest says is checked here, once: a name that climbs, a frame out of
// turn or a number that is none ends the connection.
import { isUtf8 } from "node:buffer";
import { errAsync, okAsync, ResultAsync } from "neverthrow";
import { fail, wrap, type AsyncRes } from "../../errors.ts";
import { decodePairs, encodePairs, pairValue, type Pair } from "../../pairs.ts";
import { Frame, MAX_FRAME_PAYLOAD } from "../../vmm/protocol.ts";
import type { CopyListener, CopyRequest, CopySession, EntryKind, NewEntry, PathEntry, PathStat, StatRequest } from "../instances/copy-service.ts";
import { encodeChunks, encodeFrame, type DecodedFrame, type FrameType } from "./frames.ts";
import { AgentStream } from "./stream.ts";

/** Longest message of a guest that is passed on. */
const MESSAGE_MAX = 1000;
const KINDS: Readonly<Record<string, EntryKind | "other">> = { file: "file", dir: "directory", link: "symlink", other: "other" };
const KIND_NAMES: Readonly<Record<EntryKind, string>> = { file: "file", directory: "dir", symlink: "link" };
const BROKEN = "the guest's agent broke the protocol";

export interface FirstFrame { readonly type: FrameType; readonly payload: Uint8Array }

const first = (type: FrameType, path: string, more: readonly Pair[]): AsyncRes<FirstFrame> => {
  if (path === "" || path.includes("\0") || Buffer.byteLength(path) > 4095) return errAsync(fail("request.bad", "Cannot use the path: it is empty, has a NUL in it, or more than 4095 bytes", { details: { field: "path" } }).error);
  return okAsync({ type, payload: encodePairs([["path", path], ...more]) });
};

/** How a copy begins; `request.bad` where its path can be none. */
export function copyFrame({ direction, path, followLinks, makeParents }: CopyRequest): AsyncRes<FirstFrame> {
  if (direction === "in") return first(Frame.COPY_IN, path, makeParents ? [["parents", "1"]] : []);
  return first(Frame.COPY_OUT, path, followLinks === "none" ? [] : [["follow", followLinks]]);
}

export const statFrame = ({ path, followLinks }: StatRequest): AsyncRes<FirstFrame> => first(Frame.STAT, path, followLinks ? [["follow", "source"]] : []);

/** Begins with `request` on the stream socket `fd`, which it takes over. */
export function openCopy(fd: number, request: FirstFrame, listener: CopyListener): AsyncRes<CopySession> {
  let done = false;
  let stream: AgentStream | null = null;
  const once = (tell: () => void) => {
    if (done) return;
    done = true;
    stream?.close();
    tell();
  };
  const reader = request.type === Frame.COPY_OUT ? new OutReader(listener, once) : new InReader(listener, once);
  const opened = AgentStream.open(fd, {
    onFrame: (frame) => { if (!done) reader.take(frame); },
    onDrain: () => { if (!done) listener.onDrain(); },
    onClosed: (reason) => once(() => listener.onLost(reason)),
  });
  return ResultAsync.fromPromise(opened, (error) => wrap("instance.agent_unreachable", "Cannot talk to the guest's agent", error)).map((open) => {
    stream = open;
    open.send(encodeFrame(request.type, request.payload));
    return sessionOn(open, () => (done = true));
  });
}

const sessionOn = (stream: AgentStream, finish: () => void): CopySession => ({
  sendEntry: (entry) => stream.send(encodeFrame(Frame.ENTRY, entryPayload(entry))),
  sendData: (bytes) => encodeChunks(Frame.DATA, bytes).map((frame) => stream.send(frame)).at(-1) ?? true,
  endFile: () => stream.send(encodeFrame(Frame.DATA)),
  finish: () => void stream.send(encodeFrame(Frame.DONE)),
  pause: () => stream.pause(),
  resume: () => stream.resume(),
  close() {
    finish();
    stream.close();
  },
});

function entryPayload({ path, kind, target, mode, uid, gid, mtime }: NewEntry): Uint8Array {
  const pairs: Pair[] = [["path", path], ["kind", KIND_NAMES[kind]]];
  if (target !== null) pairs.push(["target", target]);
  for (const [key, value] of Object.entries({ mode, uid, gid, mtime })) if (value !== null) pairs.push([key, String(value)]);
  return encodePairs(pairs);
}

type Once = (tell: () => void) => void;

const messageIn = (payload: Uint8Array): string => (pairValue(decodePairs(payload) ?? [], "message") || "the guest's agent gave no reason").slice(0, MESSAGE_MAX);

/** COPY_IN is answered once. */
class InReader {
  constructor(private readonly listener: CopyListener, private readonly once: Once) {}

  take({ type, payload }: DecodedFrame): void {
    const { listener, once } = this;
    if (type === Frame.ERROR) return once(() => listener.onEnd({ error: messageIn(payload), bytes: 0 }));
    const bytes = type === Frame.DONE ? wholeNumber(pairValue(decodePairs(payload) ?? [], "bytes")) : null;
    if (bytes === null) return once(() => listener.onLost(`${BROKEN}: frame ${type} came in answer to files`));
    once(() => listener.onEnd({ error: null, bytes }));
  }
}

/** COPY_OUT: the source, then what is below it; the bytes of a file right after its entry. */
class OutReader {
  private entries = 0;
  private inFile = false;
  private bytes = 0;

  constructor(private readonly listener: CopyListener, private readonly once: Once) {}

  take({ type, payload }: DecodedFrame): void {
    const { listener, once } = this;
    if (type === Frame.ERROR) return once(() => listener.onEnd({ error: messageIn(payload), bytes: this.bytes }));
    if (type === Frame.DATA && this.inFile) return this.data(payload);
    if (type === Frame.ENTRY && !this.inFile) return this.entry(payload);
    if (type === Frame.SKIPPED && !this.inFile) return this.skipped(payload);
    if (type === Frame.DONE && !this.inFile && this.entries > 0) return once(() => listener.onEnd({ error: null, bytes: this.bytes }));
    this.broken(`frame ${type} is out of turn`);
  }

  private data(payload: Uint8Array): void {
    this.bytes += payload.length;
    if (payload.length > 0) return this.listener.onData(payload);
    this.inFile = false;
    this.listener.onFileEnd();
  }

  private entry(payload: Uint8Array): void {
    if (!isUtf8(payload)) return this.once(() => this.listener.onEnd({ error: `Cannot copy ${JSON.stringify(pairValue(decodePairs(payload) ?? [], "path") ?? "")}: its name, or where it leads, is not UTF-8; rename it, or copy it by exec and tar`, bytes: this.bytes }));
    const entry = readEntry(payload);
    if (entry === null || entry.kind === "other" || !isBelow(entry.path, this.entries === 0)) return this.broken("an entry is not valid");
    this.entries++;
    this.inFile = entry.kind === "file";
    this.listener.onEntry(entry);
  }

  private skipped(payload: Uint8Array): void {
    this.listener.onSkipped((pairValue(decodePairs(payload) ?? [], "path") ?? "").slice(0, 4096), messageIn(payload));
  }

  private broken(how: string): void {
    this.once(() => this.listener.onLost(`${BROKEN}: ${how}`));
  }
}

/** A relative path that can't leave its base; the source alone is called "". */
function isBelow(path: string, isSource: boolean): boolean {
  if (isSource) return path === "";
  return Buffer.byteLength(path) < 4096 && path.split("/").every((part) => part !== "" && part !== "." && part !== "..");
}

const wholeNumber = (text: string | undefined, max = Number.MAX_SAFE_INTEGER): number | null => {
  const value = text !== undefined && /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  return value <= max ? value : null;
};

function readEntry(payload: Uint8Array): PathEntry | null {
  const pairs = decodePairs(payload) ?? [];
  const number = (key: string, max?: number) => wholeNumber(pairValue(pairs, key), max);
  const path = pairValue(pairs, "path"), kind = KINDS[pairValue(pairs, "kind") ?? ""], target = pairValue(pairs, "target") || null;
  const mode = number("mode", 0o7777), uid = number("uid", 0xffff_ffff), gid = number("gid", 0xffff_ffff), sizeBytes = number("size");
  if (path === undefined || kind === undefined || mode === null || uid === null || gid === null || sizeBytes === null) return null;
  if ((kind === "symlink") !== (target !== null)) return null;
  // Before 1970, or beyond what a date can be: as if the file had none.
  return { path, kind, mode, uid, gid, sizeBytes, mtime: number("mtime", 8_640_000_000_000) ?? 0, target };
}

/** Asks once; past `timeoutMs` the guest is stuck in a file system of its own. */
export function askStat(fd: number, request: FirstFrame, timeoutMs: number): AsyncRes<PathStat> {
  const { promise, resolve, reject } = Promise.withResolvers<PathStat>();
  const timer = setTimeout(() => reject(new Error(`the guest did not answer within ${timeoutMs / 1000} s`)), timeoutMs);
  const opened = AgentStream.open(fd, {
    onFrame({ type, payload }) {
      const answer = type === Frame.ERROR ? { entry: null, error: messageIn(payload) } : type === Frame.ENTRY ? statIn(payload) : null;
      if (answer === null) reject(new Error(BROKEN));
      else resolve(answer);
    },
    onDrain() {},
    onClosed: (reason) => reject(new Error(reason)),
  });
  const asked = opened.then(async (stream) => {
    stream.send(encodeFrame(request.type, request.payload));
    return promise.finally(() => stream.close());
  }).finally(() => clearTimeout(timer));
  promise.catch(() => {}); // its own reader may not be there yet
  return ResultAsync.fromPromise(asked, (error) => wrap("instance.agent_unreachable", "Cannot look at a path in the guest", error));
}

function statIn(payload: Uint8Array): PathStat | null {
  if (pairValue(decodePairs(payload) ?? [], "kind") === "none") return { entry: null, error: null };
  const entry = payload.length <= MAX_FRAME_PAYLOAD ? readEntry(payload) : null;
  return entry === null ? null : { entry, error: null };
}
