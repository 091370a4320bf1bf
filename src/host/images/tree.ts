// The image's file tree in memory while layers are applied: names, metadata, and where each file's bytes went.
// Memory grows with the number of entries, not with their bytes. Names are byte strings (latin1).

export interface Metadata {
  /** Permission bits, 0 to 0o7777. */
  mode: number;
  uid: number;
  gid: number;
  mtimeSec: number;
  mtimeNsec: number;
  /** On-disk form of the inode's extended attributes (erofs/xattr.ts), null for none. */
  xattrs: Uint8Array | null;
}

/** What every inode has. `layer` is the layer that made it, for whiteouts; `nid` and `nlink` are set when the image is laid out. */
abstract class Inode implements Metadata {
  mode = 0o755;
  uid = 0;
  gid = 0;
  mtimeSec = 0;
  mtimeNsec = 0;
  xattrs: Uint8Array | null = null;
  nid = -1;
  nlink = 0;
  constructor(public layer: number) {}
}

export class Dir extends Inode {
  readonly kind = "dir";
  readonly children = new Map<string, TreeEntry>();
}

export class File extends Inode {
  readonly kind = "file";
  size = 0;
  /** First block of the bytes that lie in whole blocks; -1: none. */
  block = -1;
  /** Where in the spool the rest is, which is written beside the inode: the tail, or a sparse file's block map. */
  spoolOffset = 0;
  spoolLength = 0;
  /** log2 of a chunk's blocks for a sparse file, whose spooled bytes are its block map; -1: not sparse. */
  chunkBits = -1;
}

export class Symlink extends Inode {
  readonly kind = "symlink";
  constructor(layer: number, readonly target: string) { super(layer); }
}

export class Special extends Inode {
  readonly kind = "special";
  constructor(layer: number, readonly type: "char" | "block" | "fifo", readonly major: number, readonly minor: number) { super(layer); }
}

/** A further name of an inode; it has a layer of its own, because a whiteout takes a name, not an inode. */
export class HardLink {
  readonly kind = "link";
  constructor(public layer: number, readonly target: File | Symlink | Special) {}
}

export type AnyInode = Dir | File | Symlink | Special;
export type TreeEntry = AnyInode | HardLink;

export const inodeOf = (entry: TreeEntry): AnyInode => (entry.kind === "link" ? entry.target : entry);
