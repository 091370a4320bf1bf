// Writable disks and who owns them. A clone shares blocks where the file system can; elsewhere what the source wrote until now becomes
// an immutable layer, by a second name of the same file, and everybody goes on in an empty file above it. What has written nothing since
// its last clone gives the layer that it has already: its own file and record stay as they are, as with shared blocks.
//
// Order, and what a crash leaves of a clone:
//   1. files are made under names that no row tells of: the next start sweeps them; the source is as it was;
//   2. a layer was needed: one transaction records it, and the source's new file as an open clone;
//   3. the caller gives the new file to the source's monitor (addLayer);
//   4. finish(): one transaction gives the source its new top and the target its disk. The old name goes.
// Between 2 and 4 nobody can tell whether a monitor that lives on writes to the old file or to the new one. So start-up, and undo() too,
// let the source have the new file over the old one: empty it shows the old one's content, whoever still writes there; not empty
// it holds what came later. The target has no disk then, and nobody else refers to the layer.
import type { Database } from "bun:sqlite";
import { mkdirSync, statSync } from "node:fs";
import { err, ok, ResultAsync } from "neverthrow";
import { fail, wrap, type AsyncRes, type DormouseError, type Res } from "../../errors.ts";
import { bootId } from "../../ffi/process.ts";
import type { Trash } from "../trash.ts";
import { Compactor } from "./compact.ts";
import { exists, revert } from "./files.ts";
import { DiskPaths, drop, requireAll } from "./paths.ts";
import { Preparer } from "./prepare.ts";
import { DiskRecords } from "./records.ts";
import type { Clone, DiskLayer, DiskOwner, DiskService } from "./service.ts";
import { sweep } from "./sweep.ts";

export { diskMigrations } from "./migrations.ts";

/** st_blocks counts in these, stat(2). */
const STAT_BLOCK = 512;

export interface DisksOptions {
  /** With `diskMigrations` applied. */
  readonly db: Database;
  /** Layers are in `disks/`, owners' folders in `instances/` and `snapshots/` of it. */
  readonly dataDir: string;
  /** On the file system of `dataDir`. */
  readonly trash: Trash;
  /** Hears of layers that can't be merged: nothing is lost but space and time. */
  readonly onError?: (error: unknown) => void;
  /** For tests: called after each step of a clone or merge. */
  readonly onStep?: (step: string) => void;
}

export class Disks implements DiskService {
  private readonly records: DiskRecords;
  private readonly paths: DiskPaths;
  private readonly preparer: Preparer;
  private readonly compactor: Compactor;
  /** Sources of clones that are not finished, `kind/id`. */
  private readonly cloning = new Set<string>();
  private exchanges = 0;

  private constructor(private readonly options: DisksOptions) {
    this.records = new DiskRecords(options.db);
    this.paths = new DiskPaths(options.dataDir, this.records);
    this.preparer = new Preparer(this.records, this.paths, options.trash, (name) => this.step(name));
    this.compactor = new Compactor(this.records, this.paths, options.trash, {
      quiet: () => this.cloning.size === 0 && this.exchanges === 0, failed: (error) => options.onError?.(error), step: (name) => this.step(name),
    });
  }

  /** Settles what a crash of the daemon or the host has left, before any monitor is started. */
  static open(options: DisksOptions): AsyncRes<Disks> {
    const disks = new Disks(options);
    return ResultAsync.fromPromise(disks.recover().then(() => disks), (cause) => wrap("host.storage", "Cannot settle the disks of instances", cause));
  }

  private async recover(): Promise<void> {
    const { records } = this;
    mkdirSync(this.paths.layerDir, { recursive: true, mode: 0o700 });
    records.transaction(() => {
      for (const { from, top } of records.openClones()) {
        records.setTop(from, top);
        records.closeClone(from);
      }
      records.dropUnused();
    });
    await sweep(this.options.dataDir, records, this.options.trash);
    const boot = bootId();
    if (records.boot !== boot) {
      for (const map of this.paths.maps()) if (await exists(map)) await revert(map);
      records.seal(null); // no monitor of before lives
      records.boot = boot;
    }
    this.compactor.soon();
  }

  files(owner: DiskOwner, used = false): Res<readonly DiskLayer[]> {
    return this.attempt(`Cannot find the disk of ${nameOf(owner)}`, () => {
      const files = this.paths.stack(owner, this.records.top(owner));
      const mayMiss = !used && files.length === 1 && this.records.top(owner).file !== null;
      requireAll(mayMiss ? [] : files);
      return files;
    });
  }

  clone(from: DiskOwner, to: DiskOwner): AsyncRes<Clone> {
    const key = keyOf(from);
    if (this.records.find(to) !== null) return failed("conflict", `Cannot clone the disk of ${nameOf(from)}: ${nameOf(to)} has a disk already`);
    if (this.cloning.has(key)) return failed("conflict", `Cannot clone the disk of ${nameOf(from)}: another clone of it is under way`);
    this.cloning.add(key);
    return ResultAsync.fromPromise(this.begin(from, to), (cause) => {
      this.cloning.delete(key);
      this.compactor.soon();
      return wrap("host.storage", `Cannot clone the disk of ${nameOf(from)}`, cause);
    });
  }

  private async begin(from: DiskOwner, to: DiskOwner): Promise<Clone> {
    const { records } = this;
    const prepared = await this.preparer.prepare(from, to), { source, target, empty } = prepared;
    try {
      if (source !== null) records.transaction(() => {
        records.addLayer(source.after.layer, source.before.layer);
        records.openClone({ from, top: source.after });
      });
    } catch (error) {
      this.preparer.discard(prepared.made);
      this.paths.dropFolder(to);
      throw error;
    }
    this.step("recorded");
    const close = (given: boolean): Res<void> => this.attempt(`Cannot ${given ? "finish" : "take back"} the clone of the disk of ${nameOf(from)}`, () => {
      records.transaction(() => {
        if (source !== null) {
          records.setTop(from, source.after);
          records.closeClone(from);
        }
        if (!given) return;
        if (empty !== true) records.setTop(to, target);
        if (source !== null) records.seal(from);
      });
      this.step("finished");
      this.cloning.delete(keyOf(from));
      if (!given) {
        this.drop(this.paths.own(to, target));
        this.paths.dropFolder(to);
      }
      if (source !== null) this.drop(this.paths.own(from, source.before));
      this.compactor.soon();
    });
    return { newTop: source === null ? null : this.paths.own(from, source.after), finish: () => close(true), undo: () => close(false) };
  }

  replace(from: DiskOwner, to: DiskOwner, also: () => void): AsyncRes<void> {
    this.exchanges++;
    const over = () => (this.exchanges--, this.compactor.soon());
    return ResultAsync.fromPromise(this.exchange(from, to, also).finally(over), (cause) => wrap("host.storage", `Cannot give ${nameOf(to)} the disk of ${nameOf(from)}`, cause));
  }

  private async exchange(from: DiskOwner, to: DiskOwner, also: () => void): Promise<void> {
    const { records } = this, old = records.top(to);
    const prepared = await this.preparer.prepare(from, to), { source, target } = prepared;
    let dropped: string[] = [];
    try {
      dropped = records.transaction(() => {
        if (source !== null) {
          records.addLayer(source.after.layer, source.before.layer);
          records.setTop(from, source.after);
        }
        records.setTop(to, target);
        records.seal(to);
        also();
        return records.dropUnused();
      });
    } catch (error) {
      this.preparer.discard(prepared.made);
      throw error;
    }
    this.step("finished");
    this.drop(this.paths.own(to, old));
    if (source !== null) this.drop(this.paths.own(from, source.before));
    for (const id of dropped) this.drop(this.paths.layer(id, true));
  }

  remove(owner: DiskOwner): Res<void> {
    if (this.cloning.has(keyOf(owner))) return fail("conflict", `Cannot remove the disk of ${nameOf(owner)}: a clone of it is under way`);
    return this.attempt(`Cannot remove the disk of ${nameOf(owner)}`, () => {
      const top = this.records.top(owner);
      const dropped = this.records.transaction(() => {
        this.records.removeTop(owner);
        return this.records.dropUnused();
      });
      this.drop(this.paths.own(owner, top));
      this.paths.dropFolder(owner);
      for (const id of dropped) this.drop(this.paths.layer(id, true));
      this.compactor.soon();
    });
  }

  /** No layers are being merged. */
  idle(): Promise<void> { return this.compactor.idle(); }

  owners(): DiskOwner[] {
    return this.records.tops().map(({ kind, owner }) => ({ kind, id: owner }));
  }

  /** Its own file, and the layers that nobody else needs. */
  bytes(owner: DiskOwner): number {
    const top = this.records.top(owner), own = this.paths.own(owner, top);
    const files = own === null ? [] : [own];
    const chain = this.records.chain(top.layer);
    const shared = chain.findIndex((id) => this.records.users(id) > 1);
    for (const id of shared < 0 ? chain : chain.slice(0, shared)) files.push(this.paths.layer(id, true));
    return files.flatMap(({ path, map }) => [path, map]).reduce((sum, path) => sum + (path === null ? 0 : (statSync(path, { throwIfNoEntry: false })?.blocks ?? 0) * STAT_BLOCK), 0);
  }

  private drop(files: DiskLayer | null): void { drop(this.options.trash, files); }

  private attempt<T>(what: string, work: () => T): Res<T> {
    try {
      return ok(work());
    } catch (error) {
      return err(wrap("host.storage", what, error));
    }
  }

  private step(name: string): void { this.options.onStep?.(name); }
}

const keyOf = ({ kind, id }: DiskOwner): string => `${kind}/${id}`;
const nameOf = ({ kind, id }: DiskOwner): string => `${kind} ${id}`;
const failed = <T>(code: DormouseError["code"], message: string): AsyncRes<T> => new ResultAsync(Promise.resolve(fail(code, message) as Res<T>));
