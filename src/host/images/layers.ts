// Applies layers to the tree, base to top: OCI image-spec, layer.md (whiteouts, opaque directories, replacement rules).
// Every path is resolved in the tree, as in a chroot: nothing outside of it exists here, so nothing can be reached.
import { TarError } from "../tar/error.ts";
import type { TarEntry, TarHandler } from "../tar/reader.ts";
import { Dir, File, HardLink, inodeOf, Special, Symlink, type AnyInode, type TreeEntry } from "./tree.ts";
import { encodeXattrs } from "./erofs/xattr.ts";

const WHITEOUT = ".wh.";
const OPAQUE = ".wh..wh..opq";
/** What AUFS kept for itself in a branch (`.wh..wh.plnk`, `.wh..wh.orph`, …): no content. */
const AUFS_META = ".wh..wh.";
/** As in Linux (MAXSYMLINKS, NAME_MAX, PATH_MAX). */
const MAX_SYMLINKS = 40, NAME_MAX = 255, PATH_MAX = 4096;

/** Where a file's bytes go; see erofs/data.ts. */
export interface FileSink {
  begin(file: File, entry: TarEntry): void;
  data(chunk: Buffer): void;
  end(): void;
}

export interface TreeLimits {
  readonly maxEntries: number;
  /** Bytes of names, link targets and extended attributes, which stay in memory. */
  readonly maxMetadataBytes: number;
}

/** A limit was passed: told apart from a damaged archive. */
export class LimitError extends Error {
  override readonly name = "LimitError";
}

export class LayerApplier implements TarHandler {
  readonly root = new Dir(0);
  /** Entries seen so far, over all layers. */
  entries = 0;
  private metadataBytes = 0;
  private layer = 0;
  private writing = false;

  constructor(private readonly sink: FileSink, private readonly limits: TreeLimits) {}

  beginLayer(number: number): void {
    this.layer = number;
  }

  entry(entry: TarEntry): void {
    this.count(entry);
    const parts = splitPath(entry.path);
    const name = parts.pop();
    if (name === undefined) return this.rootEntry(entry);
    if (name.startsWith(WHITEOUT)) return this.whiteout(parts, name);
    const parent = this.directory(parts, true)!;
    if (entry.type === "dir") this.dirEntry(parent, name, entry);
    else if (entry.type === "link") this.linkEntry(parent, name, entry);
    else this.put(parent, name, this.newInode(entry), entry);
  }

  data(chunk: Buffer): void {
    if (this.writing) this.sink.data(chunk);
  }

  endEntry(): void {
    if (this.writing) this.sink.end();
    this.writing = false;
  }

  private count(entry: TarEntry): void {
    let bytes = entry.path.length + entry.linkpath.length;
    for (const [name, value] of entry.xattrs ?? []) bytes += name.length + value.length;
    this.metadataBytes += bytes;
    if (++this.entries > this.limits.maxEntries) throw new LimitError(`it has more than ${this.limits.maxEntries} entries`);
    if (this.metadataBytes > this.limits.maxMetadataBytes) throw new LimitError(`its names and attributes take more than ${this.limits.maxMetadataBytes} bytes`);
  }

  private rootEntry(entry: TarEntry): void {
    if (entry.type !== "dir") throw new TarError(`the root directory can't be a ${entry.type}`);
    setMetadata(this.root, entry);
  }

  private dirEntry(parent: Dir, name: string, entry: TarEntry): void {
    const known = parent.children.get(name);
    if (known?.kind !== "dir") return this.put(parent, name, new Dir(this.layer), entry);
    known.layer = this.layer;
    setMetadata(known, entry);
  }

  private newInode(entry: TarEntry): AnyInode {
    switch (entry.type) {
      case "file": return new File(this.layer);
      case "symlink":
        if (entry.linkpath === "" || entry.linkpath.length >= PATH_MAX) throw new TarError(`the symbolic link ${show(entry.path)} has an impossible target`);
        return new Symlink(this.layer, entry.linkpath);
      case "char": case "block": case "fifo": return new Special(this.layer, entry.type, entry.major, entry.minor);
      default: throw new TarError(`${show(entry.path)} has an unexpected type`);
    }
  }

  private put(parent: Dir, name: string, inode: AnyInode, entry: TarEntry): void {
    setMetadata(inode, entry);
    if (inode.kind === "file") {
      this.sink.begin(inode, entry);
      this.writing = true;
    }
    parent.children.set(compact(name), inode);
  }

  private linkEntry(parent: Dir, name: string, entry: TarEntry): void {
    const parts = splitPath(entry.linkpath);
    const last = parts.pop();
    const directory = last === undefined ? null : this.directory(parts, false);
    const found = last === undefined ? undefined : directory?.children.get(last);
    if (found === undefined) throw new TarError(`the hard link ${show(entry.path)} names ${show(entry.linkpath)}, which is not in the image`);
    const target = inodeOf(found);
    if (target.kind === "dir") throw new TarError(`the hard link ${show(entry.path)} names a directory`);
    // A link to itself changes nothing.
    if (directory !== parent || last !== name) parent.children.set(name, new HardLink(this.layer, target));
  }

  private whiteout(parts: string[], name: string): void {
    const opaque = name === OPAQUE;
    if (name.startsWith(AUFS_META) && !opaque) return;
    const directory = this.directory(parts, false);
    if (directory === null) return;
    if (opaque) return this.pruneChildren(directory);
    const target = name.slice(WHITEOUT.length);
    if (target === "" || target === "." || target === "..") throw new TarError(`the whiteout ${show(name)} names nothing`);
    const found = directory.children.get(target);
    if (found !== undefined && !this.prune(found)) directory.children.delete(target);
  }

  /** A whiteout hides what lower layers have, wherever in its layer it stands. True if something of this layer stays. */
  private prune(entry: TreeEntry): boolean {
    if (entry.kind !== "dir") return entry.layer === this.layer;
    this.pruneChildren(entry);
    return entry.layer === this.layer || entry.children.size > 0;
  }

  /** Iterative, because symlinks let a tar nest deeper than any one path. */
  private pruneChildren(top: Dir): void {
    const visited: { dir: Dir; parent: Dir | null; name: string }[] = [{ dir: top, parent: null, name: "" }];
    for (let i = 0; i < visited.length; i++) {
      const { dir } = visited[i]!;
      for (const [name, child] of dir.children) {
        if (child.kind === "dir") visited.push({ dir: child, parent: dir, name });
        else if (child.layer !== this.layer) dir.children.delete(name);
      }
    }
    for (const { dir, parent, name } of visited.reverse()) if (parent !== null && dir.layer !== this.layer && dir.children.size === 0) parent.children.delete(name);
  }

  /** The directory at `parts`, symbolic links followed inside the tree; null if it is missing and not to be made. */
  private directory(parts: readonly string[], make: boolean): Dir | null {
    const pending = parts.toReversed();
    const stack: Dir[] = [this.root];
    let links = 0;
    for (let part = pending.pop(); part !== undefined; part = pending.pop()) {
      const here = stack.at(-1)!;
      if (part === "..") {
        // As in a chroot: above the root is the root.
        if (stack.length > 1) stack.pop();
        continue;
      }
      const found = here.children.get(part) ?? (make ? this.implied(here, part) : undefined);
      if (found === undefined) return null;
      const inode = inodeOf(found);
      if (inode.kind === "dir") stack.push(inode);
      else if (inode.kind === "symlink") {
        if (++links > MAX_SYMLINKS) throw new TarError(`too many symbolic links in the path ${show(parts.join("/"))}`);
        if (inode.target.startsWith("/")) stack.length = 1;
        pending.push(...linkParts(inode.target).reverse());
      } else if (make) throw new TarError(`${show(parts.join("/"))} goes through ${show(part)}, which is not a directory`);
      else return null;
    }
    return stack.at(-1)!;
  }

  /** A directory that a layer uses without having an entry for it. */
  private implied(parent: Dir, name: string): Dir {
    if (++this.entries > this.limits.maxEntries) throw new LimitError(`it has more than ${this.limits.maxEntries} entries`);
    const made = new Dir(this.layer);
    parent.children.set(name, made);
    return made;
  }
}

function setMetadata(inode: AnyInode, entry: TarEntry): void {
  if (entry.uid < 0 || entry.uid > 0xffffffff || entry.gid < 0 || entry.gid > 0xffffffff) throw new TarError(`${show(entry.path)} has an impossible owner`);
  inode.mode = entry.mode;
  inode.uid = entry.uid;
  inode.gid = entry.gid;
  inode.mtimeSec = entry.mtimeSec;
  inode.mtimeNsec = entry.mtimeNsec;
  inode.xattrs = entry.xattrs === null ? null : encodeXattrs(entry.xattrs, show(entry.path));
}

/** Components of an entry's name; an absolute one is taken from the image's root, and one that climbs above it is refused. */
function splitPath(path: string): string[] {
  if (path.length > PATH_MAX) throw new TarError(`a name of ${path.length} bytes is too long`);
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "" || part === ".") continue;
    if (part.length > NAME_MAX) throw new TarError(`a name component of ${part.length} bytes is too long`);
    if (part !== "..") parts.push(part);
    else if (parts.pop() === undefined) throw new TarError(`${show(path)} points outside of the image`);
  }
  return parts;
}

const linkParts = (target: string): string[] => target.split("/").filter((part) => part !== "" && part !== ".");

/** A copy: a part of a string would keep the whole of it in memory. */
const compact = (name: string): string => Buffer.from(name, "latin1").toString("latin1");

/** A byte string for people. */
export const show = (bytes: string): string => JSON.stringify(Buffer.from(bytes, "latin1").toString("utf8"));
