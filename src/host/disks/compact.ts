// Chains become shorter in the background: a layer that is read only through the one above it takes that one in (merge.ts).
import type { Trash } from "../trash.ts";
import { drop, type DiskPaths } from "./paths.ts";
import { mergeInto } from "./merge.ts";
import type { DiskRecords } from "./records.ts";
import type { DiskLayer } from "./service.ts";

/** Whoever asked for the files of a disk has opened them by then: until then the names of merged layers stay. The next start sweeps the rest. */
const GRACE_MS = 60_000;

export interface CompactorOptions {
  /** False while a clone is being made: it has read the records, and layers must not go meanwhile. soon() is called once it is over. */
  readonly quiet: () => boolean;
  /** It is no worse than before: the chain stays as long as it is. */
  readonly failed: (error: unknown) => void;
  readonly step: (name: string) => void;
}

export class Compactor {
  private running: Promise<void> | null = null;
  private again = false;

  constructor(private readonly records: DiskRecords, private readonly paths: DiskPaths, private readonly trash: Trash, private readonly options: CompactorOptions) {}

  /** Something has gone that may have been in the way. */
  soon(): void {
    if (this.running !== null) return void (this.again = true);
    this.running = this.round().catch(this.options.failed).finally(() => {
      this.running = null;
      if (!this.again) return;
      this.again = false;
      this.soon();
    });
  }

  /** Nothing is being merged any more. */
  async idle(): Promise<void> {
    while (this.running !== null) await this.running;
  }

  private async round(): Promise<void> {
    for (let pair = this.records.mergeable(); pair !== null; pair = this.records.mergeable()) {
      const { lower, upper } = pair, above = this.paths.layer(upper, true);
      await mergeInto(this.paths.layer(lower, pair.lowerMapped), above);
      this.options.step("copied");
      if (!this.options.quiet()) return;
      // What has changed meanwhile can only have made them unfit: then the copy was for nothing, and no harm.
      if (!this.records.transaction(() => this.records.merge(lower, upper))) continue;
      setTimeout(() => this.forget(above), GRACE_MS).unref();
      this.options.step("merged");
    }
  }

  private forget(files: DiskLayer): void {
    try {
      drop(this.trash, files);
    } catch (error) {
      this.options.failed(error); // the next start sweeps them
    }
  }
}
