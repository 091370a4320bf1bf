// What the disk domain offers to instances and snapshots: writable disks whose content another owner can have as it is now, while
// their guest stands still for milliseconds only. Implemented in this folder.
import type { AsyncRes, Res } from "../../errors.ts";

export interface DiskOwner { readonly kind: "instance" | "snapshot"; readonly id: string }

/** One file of a disk; `map` is null for one that has nothing below it. */
export interface DiskLayer { readonly path: string; readonly map: string | null }

export interface Clone {
  /** What the source writes to from now on: its monitor, where it has one, must get it by `addLayer` before it runs on. Null: nothing changes for it. */
  readonly newTop: DiskLayer | null;
  /** The source's monitor has the new top, or there is no monitor. */
  finish(): Res<void>;
  /** It came to nothing: `to` has no disk, and the source writes where it wrote. Only before finish(). */
  undo(): Res<void>;
}

export interface DiskService {
  /** Newest first. Without a record: one plain file, `<folder of the owner>/upper.ext4`. A single file may not be there yet, unless it was `used`. */
  files(owner: DiskOwner, used?: boolean): Res<readonly DiskLayer[]>;
  /** Gives `to`, which has none, a disk with what `from`'s holds now; nobody may write to that meanwhile. Blocks are shared (reflink), or layers. */
  clone(from: DiskOwner, to: DiskOwner): AsyncRes<Clone>;
  /** `to` gets `from`'s content instead of its own, in one step as far as a crash can tell. `from` has no monitor; one of `to` is void from then on, and to be ended. `also` is part of its transaction. */
  replace(from: DiskOwner, to: DiskOwner, also: () => void): AsyncRes<void>;
  /** Drops the owner's disk; layers that nobody needs any more go. Idempotent. */
  remove(owner: DiskOwner): Res<void>;
  /** All that have a record. */
  owners(): DiskOwner[];
  /** Bytes on disk of what is the owner's own. */
  bytes(owner: DiskOwner): number;
}
