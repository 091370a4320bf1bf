// Makes the files that a clone of a disk needs: the source's blocks under a name of the target's, or layers of both. None of them is
// anybody's until disks.ts has recorded them.
import { link, mkdir } from "node:fs/promises";
import { createId } from "../id.ts";
import { hasSmallBlocks } from "../ext4-superblock.ts";
import type { Trash } from "../trash.ts";
import { exists, holdsNothing, makeTop, reflink, seal, syncFolders } from "./files.ts";
import { requireAll, type DiskPaths } from "./paths.ts";
import type { DiskRecords, Top } from "./records.ts";
import type { DiskLayer, DiskOwner } from "./service.ts";

/** A monitor takes no more than 64, and the source of a clone needs one. */
const MAX_DEPTH = 63;

/** Files that are there, and what makes them somebody's disk. */
export interface Prepared {
  readonly made: readonly string[];
  readonly target: Top;
  /** The source was never started and has no file yet: neither has a clone, nor a record that says so. */
  readonly empty?: true;
  /** Where the source's file becomes a layer. */
  readonly source: { readonly before: Top; readonly after: Top & { readonly layer: string } } | null;
}

export class Preparer {
  constructor(private readonly records: DiskRecords, private readonly paths: DiskPaths, private readonly trash: Trash, private readonly step: (name: string) => void) {}

  /** On an error nothing is left. */
  async prepare(from: DiskOwner, to: DiskOwner): Promise<Prepared> {
    const source = this.records.top(from), own = this.paths.own(from, source), id = createId();
    const copy: Top = { file: `upper.${id}`, layer: source.layer }, made: string[] = [];
    if (this.records.find(from) === null && !(await exists(own!.path))) return { made, source: null, target: copy, empty: true };
    try {
      requireAll(this.paths.stack(from, source)); // or an empty disk would be made in its place at the next start
      await mkdir(this.paths.folder(to), { recursive: true, mode: 0o700 });
      if (own === null || this.addsNothing(source, own)) return { made, source: null, target: await this.top(to, id, source.layer!, await this.size(from), made) };
      if (await this.share(own, this.paths.own(to, copy)!, made)) return { made, source: null, target: copy };
      return await this.split(from, source, to, id, made);
    } catch (error) {
      this.discard(made);
      this.paths.dropFolder(to);
      throw error;
    }
  }

  /**
   * Its own file is still as the last clone has left it: then a clone needs what is below, and nothing else becomes a layer. Not over a layer
   * that a monitor may still write to.
   */
  private addsNothing({ layer }: Top, { map }: DiskLayer): boolean { return layer !== null && map !== null && this.records.isSealed(layer) && holdsNothing(map); }

  private async share(from: DiskLayer, to: DiskLayer, made: string[]): Promise<boolean> {
    made.push(to.path, ...(to.map === null ? [] : [to.map]));
    if (!(await reflink(from.path, to.path))) return false;
    this.step("reflinked");
    if (from.map !== null && !(await reflink(from.map, to.map!))) throw new Error(`${from.map} can't be shared, and ${from.path} can`);
    await seal(to);
    await syncFolders(to.path);
    this.step("shared");
    return true;
  }

  /** The source's own file gets a second name as layer `id`, and both owners new files above it where they need any. */
  private async split(from: DiskOwner, before: Top, to: DiskOwner, id: string, made: string[]): Promise<Prepared> {
    if (this.records.chain(before.layer).length + 1 >= MAX_DEPTH)
      throw new Error(`it has ${MAX_DEPTH} layers already, which is the limit; delete snapshots and forks that came from it, or put the data folder on a file system with reflinks (XFS, Btrfs)`);
    const own = this.paths.own(from, before)!, layer = this.paths.layer(id, before.layer !== null), bytes = await this.size(from);
    if (before.layer === null && hasSmallBlocks(own.path)) throw new Error("an earlier version made it with blocks below 4 KiB, and layers need that; put the data folder on a file system with reflinks (XFS, Btrfs)");
    await seal(own);
    this.step("sealed");
    for (const [old, name] of [[own.path, layer.path], [own.map, layer.map]] as const) {
      if (old === null || name === null) continue;
      made.push(name);
      await link(old, name);
      this.step(`linked ${name === layer.path ? "file" : "map"}`);
    }
    const after = await this.top(from, id, id, bytes, made);
    this.step("new top of the source");
    const target = await this.top(to, id, id, bytes, made);
    await syncFolders(layer.path);
    this.step("new top of the target");
    return { made, target, source: { before, after: { file: after.file, layer: id } } };
  }

  /** What an owner has over a layer: an instance an empty file, a snapshot nothing. */
  private async top(owner: DiskOwner, id: string, layer: string, bytes: number, made: string[]): Promise<Top> {
    if (owner.kind === "snapshot") return { file: null, layer };
    const top: Top = { file: `upper.${id}`, layer }, own = this.paths.own(owner, top)!;
    made.push(own.path, own.map!);
    await makeTop(own, bytes);
    await syncFolders(own.path);
    return top;
  }

  private async size(owner: DiskOwner): Promise<number> { return Bun.file(this.paths.stack(owner, this.records.top(owner))[0]!.path).size; }

  /** Takes them back. */
  discard(paths: readonly string[]): void {
    for (const path of paths) this.trash.drop(path);
  }
}
