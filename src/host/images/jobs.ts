// One name being brought: queued, resolved, pulled, converted; its row follows each step, so that a crash finds it again.
import { wrap } from "../../errors.ts";
import type { Unheard } from "../background.ts";
import type { Contents, Phase } from "./contents.ts";
import type { Records } from "./records.ts";
import type { Slots } from "./shared.ts";
import type { ImageSource } from "./source.ts";

export interface JobContext {
  readonly records: Records;
  readonly contents: Contents;
  readonly slots: Slots;
  /** Jobs under way, by name; a job takes itself out. */
  readonly jobs: Map<string, Job>;
  readonly onSettled: () => void;
  readonly failed: Unheard;
}

export interface Job {
  /** Resolves when the row is settled, or the job was cancelled; never rejects. */
  readonly done: Promise<void>;
  readonly watchers: Set<() => void>;
  queuePosition(): number | null;
  progress(): { readonly doneBytes: number; readonly totalBytes: number } | null;
  cancel(reason: Error): void;
  changed(): void;
}

/** Watchers are told of bytes at most this often. */
const TELL_MS = 100;

export function startJob(context: JobContext, name: string, source: ImageSource): Job {
  return new NameJob(context, name, source);
}

class NameJob implements Job {
  readonly done: Promise<void>;
  readonly watchers = new Set<() => void>();
  private readonly controller = new AbortController();
  private phase: Phase | null = null;
  private told = 0;
  private later: ReturnType<typeof setTimeout> | null = null;

  constructor(private readonly context: JobContext, private readonly name: string, private readonly source: ImageSource) {
    // Begins in a later turn, when the caller has recorded the job.
    this.done = Promise.resolve().then(() => this.run())
      // As it stands on record it is under way: the next pull of the name, or the next daemon, begins it anew.
      .catch((error: unknown) => context.failed(`record how the pull of ${name} has ended`, error));
  }

  queuePosition(): number | null {
    return this.context.slots.position(this.controller.signal);
  }

  progress(): { doneBytes: number; totalBytes: number } | null {
    return this.phase === null ? null : { doneBytes: this.phase.doneBytes, totalBytes: this.phase.totalBytes };
  }

  cancel(reason: Error): void {
    this.controller.abort(reason);
  }

  changed(): void {
    for (const watcher of this.watchers) {
      try {
        watcher();
      } catch (error) {
        this.context.failed(`tell how far the pull of ${this.name} is`, error);
      }
    }
  }

  private async run(): Promise<void> {
    const { records, slots, jobs, onSettled } = this.context;
    try {
      await slots.run(this.controller.signal, () => this.bring());
    } catch (error) {
      // Cancelled: the row is gone with its name, or stays as it is for the next daemon.
      if (!this.controller.signal.aborted) this.fail(wrap("image.pull_failed", `Cannot pull ${this.name}`, error).message);
    } finally {
      if (this.later !== null) clearTimeout(this.later);
      this.source.close();
      jobs.delete(this.name);
    }
    if (records.name(this.name) !== null) this.changed();
    onSettled();
  }

  private async bring(): Promise<void> {
    const { records, contents } = this.context;
    const { signal } = this.controller;
    records.changeName(this.name, { status: "pulling" });
    this.changed();
    const image = await this.source.resolve(signal);
    signal.throwIfAborted();
    records.changeName(this.name, { digest: image.digest, resolved: image.resolved });
    await contents.ensure(this.source, image, signal, (phase) => this.onPhase(phase));
    signal.throwIfAborted();
    records.changeName(this.name, { status: "ready", previous: "", error: null });
  }

  private onPhase(phase: Phase): void {
    const stepped = phase.status !== this.phase?.status;
    this.phase = phase;
    if (stepped) this.context.records.changeName(this.name, { status: phase.status });
    const wait = this.told + TELL_MS - performance.now();
    if (stepped || wait <= 0) this.tell();
    else this.later ??= setTimeout(() => this.tell(), wait);
  }

  private tell(): void {
    if (this.later !== null) clearTimeout(this.later);
    this.later = null;
    this.told = performance.now();
    this.changed();
  }

  /** A name that was ready stays ready as it was, and says why there is nothing newer. */
  private fail(error: string): void {
    const { records, contents } = this.context;
    const previous = records.name(this.name)?.previous ?? "";
    if (previous !== "" && contents.isReady(previous)) records.changeName(this.name, { status: "ready", digest: previous, resolved: previous, previous: "", error });
    else records.changeName(this.name, { status: "failed", previous: "", error });
  }
}
