// Compresses the memory of generations in the background, one at a time, and decompresses it before a restore.
// The Worker only ever writes to a file `.part`; every name that counts is given and taken here, in the order of README.md.
import { existsSync, renameSync } from "node:fs";
import { ok, ResultAsync } from "neverthrow";
import { DormouseError, fail, messageOf, wrap, type Res } from "../../../errors.ts";
import { rethrow, type Unheard } from "../../background.ts";
import { systemClock, type Clock } from "../../clock.ts";
import { sync } from "../../sync.ts";
import type { Trash } from "../../trash.ts";
import type { Compression, CompressionState } from "../service.ts";
import { findMemory, packedPath, partOf, rawPath, tidy, type MemoryForm } from "./files.ts";
import { beginJob, type PackJob } from "./job.ts";
import { inspect, type Totals } from "./pack.ts";
import type { CompressionRecord, CompressionRecords } from "./records.ts";
import { Waiting, type Wanted } from "./waiting.ts";

/** What has just been done; tests stop and kill there. `chunk` is told by the Worker, and lags behind it. */
export type Step = "begun" | "chunk" | "synced" | "renamed" | "recorded" | "removed";

export interface CompressorOptions {
  readonly records: CompressionRecords;
  readonly trash: Trash;
  readonly clock?: Clock;
  readonly failed?: Unheard;
  /** Awaited at each step but `chunk`. */
  readonly onStep?: (work: "compress" | "decompress", step: Step, gid: string) => void | Promise<void>;
}

export interface MemoryState {
  readonly state: CompressionState;
  readonly error: string | null;
  readonly compressedBytes: number | null;
  readonly uncompressedBytes: number | null;
}

/** A compression under way. */
interface Run {
  readonly wanted: Wanted;
  job: PackJob | null;
  cancelled: boolean;
  /** From here on the compressed file is the one that counts. */
  committed: boolean;
  readonly ended: Promise<void>;
}

export class Compressor {
  private readonly records: CompressionRecords;
  private readonly trash: Trash;
  private readonly waiting: Waiting;
  private readonly failed: Unheard;
  private readonly onStep: NonNullable<CompressorOptions["onStep"]>;
  private run: Run | null = null;
  private readonly opening = new Map<string, Promise<Res<void>>>();
  private closed = false;
  /** Awaited before a generation is compressed: whoever is about to change what its memory file is goes first. */
  before: (gid: string) => Promise<void> = async () => {};

  constructor({ records, trash, clock = systemClock, failed = rethrow, onStep = () => {} }: CompressorOptions) {
    this.records = records;
    this.trash = trash;
    this.failed = failed;
    this.onStep = onStep;
    this.waiting = new Waiting(clock, () => this.next());
  }

  /** Takes up what an earlier daemon had left: finishes or takes back what it was at, and waits for what was still to come. `dirOf`: a generation's folder. */
  resume(dirOf: (gid: string) => string): void {
    for (const record of this.records.all()) {
      try {
        this.takeUp(record, dirOf(record.generationId));
      } catch (error) {
        this.failed(`go on with the compression of ${record.generationId}`, error);
      }
    }
  }

  private takeUp(record: CompressionRecord, dir: string): void {
    const gid = record.generationId;
    if (this.opening.has(gid)) return; // somebody was quick: what lies there is being brought back
    const found = findMemory(dir);
    if (found === null) return; // its folder is gone, or whoever opens it will say what is missing
    const keep: MemoryForm = record.state === "compressed" && existsSync(packedPath(dir, record.algorithm))
      ? { form: "compressed", path: packedPath(dir, record.algorithm), algorithm: record.algorithm } : found;
    tidy(dir, keep, this.trash);
    if (record.state === "compressed" && keep.form === "raw") this.records.remove(gid);
    else if (record.state === "waiting" || record.state === "compressing") this.waiting.add({ gid, dir, algorithm: record.algorithm, level: record.level, dueAt: record.dueAt });
  }

  /** Wants the memory in `dir` compressed, `delayMs` from now; replaces what was wanted before. Files that are mapped stay so, only their names go. */
  schedule(gid: string, dir: string, compression: Compression, delayMs: number): void {
    if (!compression.enabled || this.closed || this.run?.wanted.gid === gid && !this.run.cancelled) return;
    if (this.records.find(gid)?.state === "compressed") return;
    const { algorithm, level } = compression;
    const dueAt = this.waiting.clock.now() + delayMs;
    this.records.want(gid, { algorithm, level }, dueAt);
    this.waiting.add({ gid, dir, algorithm, level, dueAt });
  }

  /** The memory of `gid` is another raw file from now on, in `dir`: what was wanted of it is to be done there. */
  moved(gid: string, dir: string): void {
    const run = this.run?.wanted.gid === gid ? this.run : null;
    const wanted = this.waiting.find(gid) ?? (run?.cancelled === false ? run.wanted : null);
    if (run !== null && !run.committed) this.callOff(run);
    if (wanted !== null && run?.committed !== true) this.waiting.add({ ...wanted, dir });
  }

  /**
   * Calls off what waits or runs for `gid`. Resolves once nothing will touch its files any more (at once, unless it has
   * committed): then the raw file is there as before, or, after the commit, the compressed one alone.
   */
  async cancel(gid: string): Promise<void> {
    const waited = this.waiting.remove(gid);
    const run = this.run?.wanted.gid === gid ? this.run : null;
    if (run !== null && run.committed) return run.ended;
    if (run !== null && !run.cancelled) this.callOff(run);
    if (waited || run !== null) this.records.remove(gid);
  }

  /** Before anything maps the memory in `dir`: it is there as it was written, and stays. Joins one under way. `snapshot.damaged`, `snapshot.incompatible`, `host.storage`. */
  ensureRaw(gid: string, dir: string): ResultAsync<void, DormouseError> {
    const known = this.opening.get(gid);
    if (known !== undefined) return new ResultAsync(known);
    const opening = this.open(gid, dir)
      .catch((error: unknown): Res<void> => fail("host.storage", `Cannot decompress the memory of ${gid}: ${messageOf(error)}`, { cause: error }))
      .finally(() => this.opening.delete(gid));
    this.opening.set(gid, opening);
    return new ResultAsync(opening);
  }

  state(gid: string): MemoryState {
    const record = this.records.find(gid);
    const none = { error: null, compressedBytes: null, uncompressedBytes: null };
    if (record === null || record.state === "waiting") return { state: "none", ...none };
    const { state, error, compressedBytes, uncompressedBytes } = record;
    return { state, error, compressedBytes, uncompressedBytes };
  }

  /** Resolves once nothing runs and nothing that waits is due. */
  async settled(): Promise<void> {
    this.next();
    while (this.run !== null) await this.run.ended;
  }

  /** What was under way is left for the next daemon's resume(). */
  async close(): Promise<void> {
    this.closed = true;
    this.waiting.close();
    if (this.run !== null && !this.run.committed) this.callOff(this.run);
    await Promise.all([this.settled(), ...this.opening.values()]);
  }

  private callOff(run: Run): void {
    run.cancelled = true;
    run.job?.stop();
  }

  private next(): void {
    if (this.run !== null || this.closed) return;
    const wanted = this.waiting.take();
    if (wanted === null) return;
    const { promise: ended, resolve } = Promise.withResolvers<void>();
    const run: Run = { wanted, job: null, cancelled: false, committed: false, ended };
    this.run = run;
    void this.compress(run)
      .catch((error: unknown) => this.giveUp(run, wrap("host.storage", "Cannot compress the memory", error)))
      .catch((error: unknown) => this.failed(`take back what a compression of ${wanted.gid} left`, error))
      .finally(() => {
        this.run = null;
        resolve();
        this.next();
      });
  }

  private async compress(run: Run): Promise<void> {
    const { gid, dir, algorithm, level } = run.wanted;
    const packed = packedPath(dir, algorithm), part = partOf(packed);
    await this.opening.get(gid)?.then(() => undefined); // whoever asked for it has its outcome
    await this.before(gid);
    if (run.cancelled) return;
    const found = findMemory(dir);
    // Records from before the files' last change (a backup that was put back).
    if (found?.form === "compressed") return this.records.compressed(gid, inspect(found.path));
    this.records.begun(gid);
    this.trash.drop(part);
    run.job = beginJob("Cannot compress the memory", rawPath(dir), part, { algorithm, level }, () => void this.onStep("compress", "chunk", gid));
    const [outcome] = await Promise.all([run.job.outcome, this.onStep("compress", "begun", gid)]);
    if (outcome.isErr() || outcome.value === null) return this.giveUp(run, outcome.isErr() ? outcome.error : null);
    await this.onStep("compress", "synced", gid);
    if (run.cancelled) return this.giveUp(run, null);
    renameSync(part, packed);
    await this.onStep("compress", "renamed", gid);
    await sync(dir);
    if (run.cancelled) return this.giveUp(run, null);
    await this.commit(run, outcome.value);
  }

  private async commit(run: Run, totals: Totals): Promise<void> {
    const { gid, dir } = run.wanted;
    this.records.compressed(gid, totals);
    run.committed = true;
    await this.onStep("compress", "recorded", gid);
    this.trash.drop(rawPath(dir));
    await this.onStep("compress", "removed", gid);
  }

  /** Takes back the compressed file, whole or not, unless it is the one that counts. */
  private giveUp(run: Run, error: DormouseError | null): void {
    const { gid, dir, algorithm } = run.wanted;
    if (run.committed) return; // the raw file could not be removed: the next resume() does
    const packed = packedPath(dir, algorithm);
    this.trash.drop(partOf(packed));
    if (existsSync(rawPath(dir))) this.trash.drop(packed);
    if (run.cancelled || error === null) return;
    try {
      this.records.failed(gid, error.message);
    } catch (unrecorded) {
      // It stands as under way, and the next daemon's resume() begins it anew.
      this.failed(`record that ${gid} was not compressed (${error.message})`, unrecorded);
    }
  }

  private async open(gid: string, dir: string): Promise<Res<void>> {
    await this.cancel(gid);
    const found = findMemory(dir);
    if (found === null) return fail("snapshot.damaged", `Cannot read the memory of ${gid}: ${rawPath(dir)} is missing, and nothing compressed is there either`);
    if (found.form === "compressed") {
      const unpacked = await this.decompress(gid, dir, found.path);
      if (unpacked.isErr()) return unpacked;
    }
    this.forget(gid);
    await this.onStep("decompress", "recorded", gid);
    tidy(dir, { form: "raw", path: rawPath(dir) }, this.trash);
    await this.onStep("decompress", "removed", gid);
    return ok();
  }

  private async decompress(gid: string, dir: string, packed: string): Promise<Res<void>> {
    const raw = rawPath(dir), part = partOf(raw);
    this.trash.drop(part);
    const job = beginJob(`Cannot decompress ${packed}`, packed, part, null, () => void this.onStep("decompress", "chunk", gid));
    const [outcome] = await Promise.all([job.outcome, this.onStep("decompress", "begun", gid)]);
    if (outcome.isErr()) {
      this.trash.drop(part);
      return outcome.map(() => undefined);
    }
    await this.onStep("decompress", "synced", gid);
    renameSync(part, raw);
    await this.onStep("decompress", "renamed", gid);
    await sync(dir);
    return ok();
  }

  /** An error stays on record: it says why the memory is not compressed. */
  private forget(gid: string): void {
    const record: CompressionRecord | null = this.records.find(gid);
    if (record !== null && record.state !== "error") this.records.remove(gid);
  }
}
