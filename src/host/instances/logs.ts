// logs: the last lines of one of an instance's logs, and those that follow until it is Stopped.
import { existsSync } from "node:fs";
import { ok } from "neverthrow";
import { DormouseError, fail, wrap, type Res } from "../../errors.ts";
import { logPaths } from "../vmm/files.ts";
import type { Context } from "./context.ts";
import { LineCutter, readBlock, sameStamp, stampOf, tailPosition, youngerOf, type LogPosition, type LogStamp } from "./log-files.ts";
import type { LogOptions } from "./service.ts";

type Pair<T> = readonly [T, T];

export function logs(ctx: Context, ref: string, options: LogOptions): Res<AsyncIterable<string>> {
  return ctx.records.get(ref).andThen((instance) => {
    const paths = logPaths(ctx.dir(instance.id), options.source);
    if (!paths.some((path) => existsSync(path)))
      return fail("log.not_found", `Cannot read the ${options.source} log of instance ${instance.name}: nothing was written yet`);
    return ok(options.follow ? follow(ctx, instance.id, paths, options) : tail(paths, options));
  });
}

const stampsOf = (paths: Pair<string>): Pair<LogStamp> => [stampOf(paths[0]), stampOf(paths[1])];

/** What stood there when it was asked for. Lets other work run between blocks. */
async function* tail(paths: Pair<string>, options: LogOptions): AsyncGenerator<string> {
  const stamps = stampsOf(paths);
  const last = youngerOf(stamps);
  const cutter = new LineCutter();
  for (let at: LogPosition = tailPosition(paths, stamps, options.tail); !options.signal.aborted; ) {
    const block = readBlock(paths[at.file], at.offset).subarray(0, Math.max(0, stamps[at.file].size - at.offset));
    if (block.length > 0) at = { file: at.file, offset: at.offset + block.length };
    else if (at.file !== last) at = { file: last, offset: 0 };
    else break;
    yield* cutter.push(block);
    await Bun.sleep(0);
  }
  const rest = cutter.rest();
  if (rest !== null && !options.signal.aborted) yield rest;
}

async function* follow(ctx: Context, id: string, paths: Pair<string>, options: LogOptions): AsyncGenerator<string> {
  const changes = new Changes(ctx, id, paths, options.signal);
  try {
    const reader = new Follower(paths, options.tail);
    while (!options.signal.aborted) {
      // Asked before reading: what was written until it stopped is read after that.
      const ended = ctx.hasEnded(id);
      changes.begin();
      for (let lines = reader.next(); lines !== null && !options.signal.aborted; lines = reader.next()) {
        yield* lines;
        await Bun.sleep(0);
      }
      if (ended) {
        const rest = reader.rest();
        if (rest !== null) yield rest;
        return;
      }
      await changes.next();
    }
  } catch (error) {
    throw wrap("log.not_found", `Cannot read on in the ${options.source} log of instance ${id}`, error);
  } finally {
    changes.close();
  }
}

/** Reads behind a writer, over its rotations. */
class Follower {
  private at: LogPosition;
  /** The other file as it was when this one was begun: once it is written again, this one is complete. */
  private other: LogStamp;
  private readonly cutter = new LineCutter();

  constructor(private readonly paths: Pair<string>, lines: number) {
    const stamps = stampsOf(paths);
    this.at = tailPosition(paths, stamps, lines);
    this.other = stamps[this.at.file === 0 ? 1 : 0];
    // Begun in the older file, the younger one has been written already: compare with what it was before that.
    if (this.at.file !== youngerOf(stamps)) this.other = NEVER;
  }

  /** The next lines (maybe none of a block that ends none); null where the writer has written no more. */
  next(): string[] | null {
    const { file, offset } = this.at;
    const otherFile = file === 0 ? 1 : 0;
    // Looked at before reading: if the other file is being written by then, this one has all that it will ever have.
    const other = stampOf(this.paths[otherFile]);
    const own = stampOf(this.paths[file]);
    if (own.mtimeNs === GONE) return null; // the instance is being deleted, and has ended
    if (own.size < offset) throw new DormouseError("log.not_found", "the reader fell behind by more than both of the log's files");
    const block = readBlock(this.paths[file], offset);
    if (block.length > 0) {
      this.at = { file, offset: offset + block.length };
      return [...this.cutter.push(block)];
    }
    if (sameStamp(other, this.other) || other.size === 0) return null;
    this.other = stampOf(this.paths[file]);
    this.at = { file: otherFile, offset: 0 };
    return [];
  }

  rest(): string | null {
    return this.cutter.rest();
  }
}

/** stampOf() of a file that is not there. */
const GONE = 0n;
const NEVER: LogStamp = { size: -1, mtimeNs: -1n };

/** Wakes a follower when a file of its log or the instance has changed, or a verb of it has ended: all that hasEnded() looks at. */
class Changes {
  private changed = false;
  private wake: (() => void) | null = null;
  private readonly release: (() => void)[] = [];

  constructor(ctx: Context, id: string, paths: Pair<string>, signal: AbortSignal) {
    const notice = () => {
      this.changed = true;
      this.wake?.();
    };
    for (const path of paths) if (existsSync(path)) this.release.push(ctx.files.watch(path, notice));
    signal.addEventListener("abort", notice);
    this.release.push(
      () => signal.removeEventListener("abort", notice),
      ctx.records.subscribe((instance) => { if (instance.id === id) notice(); }),
      ctx.lanes.subscribe((key) => { if (key === id) notice(); }),
    );
  }

  /** What changes from here on ends the next wait. */
  begin(): void {
    this.changed = false;
  }

  async next(): Promise<void> {
    if (!this.changed) await new Promise<void>((resolve) => (this.wake = resolve));
    this.wake = null;
  }

  close(): void {
    for (const release of this.release.splice(0)) release();
  }
}
