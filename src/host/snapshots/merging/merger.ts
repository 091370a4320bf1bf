// Makes long chains of saved machines short, in the background, one at a time, while nobody maps them. What is written is in a folder that
// no record tells of until the one transaction that makes it count; until then it can be called off at any moment, without a trace.
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { DormouseError, wrap } from "../../../errors.ts";
import type { Compressor } from "../compression/compressor.ts";
import { sync } from "../../sync.ts";
import type { Folder, Generations } from "../generations.ts";
import { beginMerge, type MergeJob } from "./job.ts";
import type { Merges, Plan } from "./plan.ts";

/** What has just been done; tests stop and kill there. `piece` is told by the Worker, and lags behind it. */
export type Step = "begun" | "piece" | "written" | "synced" | "recorded" | "removed";

export interface MergerOptions {
  readonly generations: Pick<Generations, "paths" | "newFolder" | "keep" | "discard" | "chainIds">;
  readonly merges: Merges;
  readonly compression: Pick<Compressor, "state" | "cancel" | "moved">;
  /** The chain (all of them, where it is null) is as good, and as long, as before. */
  readonly failed: (gid: string | null, error: DormouseError) => void;
  /** Awaited at each step but `piece`. */
  readonly onStep?: (step: Step) => void | Promise<void>;
}

interface Run {
  readonly gid: string;
  readonly plan: Plan;
  job: MergeJob | null;
  cancelled: boolean;
  readonly ended: Promise<void>;
}

export class Merger {
  private readonly wanted = new Set<string>();
  /** Called off because somebody held them, or not to be judged while the database failed: looked at again when somebody lets go. */
  private readonly deferred = new Set<string>();
  /** By generation, how many use its files now. */
  private readonly holds = new Map<string, number>();
  private run: Run | null = null;
  private closed = false;

  constructor(private readonly options: MergerOptions) {}

  /** The chain of `gid` may have become long, or free. */
  want(gid: string): void {
    if (this.closed || this.judge(gid) === null) return;
    this.wanted.add(gid);
    this.next();
  }

  /** At start: the chains that are long. */
  look(): void {
    try {
      this.options.merges.held().forEach((gid) => this.want(gid));
    } catch (error) {
      this.options.failed(null, wrap("host.storage", "Cannot look for long chains of saved machines", error));
    }
  }

  /** Keeps the files of `gid` and of all below it as they are, from now until the answer is called: whoever opens them needs them all, and at once. `ids`: the chain, for who has just read it. */
  hold(gid: string, ids: readonly string[] = this.options.generations.chainIds(gid)): () => void {
    for (const id of ids) this.holds.set(id, (this.holds.get(id) ?? 0) + 1);
    if (this.run !== null && this.isHeld(this.run.plan)) this.defer(this.run);
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      for (const id of ids) this.letGo(id);
      const again = [...this.deferred];
      this.deferred.clear();
      again.forEach((one) => this.want(one));
    };
  }

  /** The generation is being deleted. */
  gone(gid: string): void {
    this.wanted.delete(gid);
    this.deferred.delete(gid);
    if (this.run?.plan.ids.includes(gid) === true) this.callOff(this.run);
  }

  /** Resolves once no merge of `gid` runs or waits for its turn. */
  async settled(gid: string): Promise<void> {
    while (this.wanted.has(gid) || this.run?.gid === gid) await this.run?.ended;
  }

  /** Resolves once nothing runs or waits for its turn. */
  async idle(): Promise<void> {
    while (this.run !== null) await this.run.ended;
  }

  /** What was under way is begun anew by the next daemon's look(). */
  async close(): Promise<void> {
    this.closed = true;
    this.wanted.clear();
    if (this.run !== null) this.callOff(this.run);
    await this.idle();
  }

  private plan(gid: string): Plan | null {
    const { merges, generations, compression } = this.options;
    return merges.plan(gid, (id) => compression.state(id).state !== "compressed" && existsSync(generations.paths(id).memory));
  }

  /** As plan(), for whoever can't be told of errors. */
  private judge(gid: string): Plan | null {
    try {
      return this.plan(gid);
    } catch (error) {
      this.deferred.add(gid);
      this.options.failed(gid, wrap("host.storage", `Cannot see what the saved machine ${gid} stands on`, error));
      return null;
    }
  }

  private isHeld({ ids }: Plan): boolean { return ids.some((id) => this.holds.has(id)); }

  private letGo(id: string): void {
    const left = this.holds.get(id)! - 1;
    if (left > 0) this.holds.set(id, left);
    else this.holds.delete(id);
  }

  private callOff(run: Run): void {
    run.cancelled = true;
    run.job?.stop();
  }

  private defer(run: Run): void {
    this.deferred.add(run.gid);
    this.callOff(run);
  }

  private next(): void {
    if (this.run !== null || this.closed) return;
    for (const gid of this.wanted) {
      this.wanted.delete(gid);
      const plan = this.judge(gid);
      if (plan === null) continue;
      if (this.isHeld(plan)) this.deferred.add(gid);
      else return this.begin(gid, plan);
    }
  }

  private begin(gid: string, plan: Plan): void {
    const { promise: ended, resolve } = Promise.withResolvers<void>();
    const run: Run = { gid, plan, job: null, cancelled: false, ended };
    this.run = run;
    void this.merge(run)
      .catch((error: unknown) => run.cancelled || this.options.failed(gid, error instanceof DormouseError ? error : wrap("host.storage", `Cannot merge the saved machine ${gid} with those below it`, error)))
      .finally(() => {
        this.run = null;
        resolve();
        this.next();
      });
  }

  private async merge(run: Run): Promise<void> {
    const { generations } = this.options;
    const old = run.plan.ids.map((id) => generations.paths(id)), folder = generations.newFolder();
    let committed = false;
    try {
      const dataBytes = await this.write(run, folder);
      committed = dataBytes !== null && this.commit(run, folder, dataBytes);
    } finally {
      if (!committed) generations.discard(folder.paths.dir);
    }
    if (!committed) return;
    await this.step("recorded");
    for (const { dir } of old) generations.discard(dir);
    await this.step("removed");
  }

  /** All of it on disk; the bytes of data, or null where it was called off. */
  private async write(run: Run, { paths }: Folder): Promise<number | null> {
    const from = run.plan.ids.map((id) => this.options.generations.paths(id));
    run.job = beginMerge(run.plan, from, paths, () => void this.step("piece"));
    const [outcome] = await Promise.all([run.job.outcome, this.step("begun")]);
    if (run.cancelled) return null;
    if (outcome.isErr()) throw outcome.error;
    await this.step("written");
    for (const dir of [paths.dir, dirname(paths.dir)]) await sync(dir);
    await this.step("synced");
    return outcome.value;
  }

  /** False where it was called off, or what it was made of is not the same any more. Nothing waits between the last look and the transaction. */
  private commit({ gid, plan, cancelled }: Run, folder: Folder, dataBytes: number): boolean {
    const { merges, compression, generations, failed } = this.options;
    if (cancelled || this.isHeld(plan) || JSON.stringify(this.plan(gid)) !== JSON.stringify(plan)) return false;
    merges.commit(plan, folder.name, dataBytes);
    generations.keep(folder);
    for (const id of plan.ids.slice(1)) compression.cancel(id).catch((error: unknown) => failed(id, wrap("host.storage", `Cannot call the compression of ${id} off`, error)));
    compression.moved(gid, folder.paths.dir);
    return true;
  }

  private async step(step: Step): Promise<void> { await this.options.onStep?.(step); }
}
