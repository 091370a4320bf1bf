// An archive's entries as files below one folder: owners, modes, times, hard links, holes, and the attributes that mean the same everywhere.
// Nothing of it leads out of that folder: the kernel resolves every name below it, and follows no link on the way (src/ffi/beneath.ts).
import * as beneath from "../../../ffi/beneath.ts";
import { E, errnoName } from "../../../ffi/abi/errno.ts";
import { SYS } from "../../../ffi/abi/syscalls.ts";
import { closeFd, O_RDONLY, openFd } from "../../../ffi/fd.ts";
import { syscall, SysError } from "../../../ffi/syscall.ts";
import type { RootMeta } from "../../ext4-images.ts";
import { TarError } from "../../tar/error.ts";
import type { TarEntry, TarHandler } from "../../tar/reader.ts";
import { Extents } from "./extents.ts";

export interface UnpackLimits { readonly maxBytes: number; readonly maxEntries: number }

/** `root`: what the archive says of its own root; it need not. */
export interface Unpacked { readonly entries: number; readonly root: RootMeta | null }

/** The content passes a limit: told apart from a damaged archive. */
export class TooLarge extends Error {
  override readonly name = "TooLarge";
}

/** Whoever deletes the folder does so by paths, which PATH_MAX (4096) limits together with where it lies. */
const MAX_PATH = 3000;
/** (uid_t) -1 means "as it is" to chown(2). */
const MAX_ID = 0xffff_fffe;
/** inode(7) */
const S_IF = { char: 0o020000, block: 0o060000, fifo: 0o010000 } as const;
/** mkfs.ext4 (1.47.0) looks through all of a folder for each name that it puts into it: 20,000 take 23 s, and a hundred thousand more than ten minutes. */
const MAX_IN_FOLDER = 32_768;
/** Slots to count them in: two folders of that size that share one are hardly ever met, and small ones add next to nothing. */
const COUNTERS = 1 << 20;
/** The host's storage is at fault, and not the archive. */
const STORAGE: readonly number[] = [E.ENOSPC, E.EDQUOT, E.EIO, E.EROFS, E.ENOMEM, E.EMFILE, E.ENFILE];

export class Staging implements TarHandler {
  private readonly root: number;
  private entries = 0;
  private bytes = 0;
  private readonly inFolder = new Uint32Array(COUNTERS);
  private rootMeta: RootMeta | null = null;
  /** The folder that was used last, kept open: entries of one folder come together. */
  private folder = { path: "", fd: -1 };
  private file: { readonly fd: number; readonly entry: TarEntry; readonly extents: Extents } | null = null;
  /** Folders that are being filled, the outer one first: their times are set once nothing is put into them any more. */
  private readonly filling: { readonly path: string; readonly entry: TarEntry }[] = [];

  constructor(path: string, private readonly limits: UnpackLimits) {
    this.root = openFd(path, O_RDONLY);
  }

  entry(entry: TarEntry): void {
    if (++this.entries > this.limits.maxEntries) throw new TooLarge(`it has more than ${this.limits.maxEntries} entries; give a larger size`);
    if (entry.uid < 0 || entry.uid > MAX_ID || entry.gid < 0 || entry.gid > MAX_ID) throw new TarError(`${show(entry.path)} has an impossible owner`);
    const parts = partsOf(entry.path), name = parts.pop(), parent = parts.join("/");
    if (name === undefined) return this.rootEntry(entry);
    if (++this.inFolder[Bun.hash.crc32(parent) % COUNTERS]! > MAX_IN_FOLDER) throw new TooLarge(`its folder ${show(parent)} has more than ${MAX_IN_FOLDER} entries, which can't be made in a bearable time; unpack it in an instance that the volume is attached to`);
    this.leave(parent);
    if (entry.type === "dir") return this.dirEntry(parent, name, entry);
    const folder = this.folderAt(parent, true);
    if (entry.type === "link") this.linkEntry(folder, name, entry);
    else if (entry.type === "file") this.file = { fd: this.put(folder, name, entry, () => beneath.createFile(folder, name)), entry, extents: new Extents(entry) };
    else if (entry.type === "symlink") this.symlinkEntry(folder, name, entry);
    else this.nodeEntry(folder, name, entry);
  }

  data(chunk: Buffer): void {
    this.bytes += chunk.length;
    if (this.bytes > this.limits.maxBytes) throw new TooLarge(`its content takes more than ${this.limits.maxBytes} bytes; give a larger size`);
    if (this.file === null) return;
    const { fd, entry, extents } = this.file;
    for (const { at, part } of extents.take(chunk)) for (let done = 0; done < part.length; ) done += check(syscall(SYS.pwrite64, fd, part.subarray(done), part.length - done, at + done), entry);
  }

  endEntry(): void {
    if (this.file === null) return;
    const { fd, entry } = this.file;
    if (entry.sparse !== null) check(syscall(SYS.ftruncate, fd, entry.size), entry);
    this.ownOpen(fd, entry);
    check(beneath.setTime(fd, entry.mtimeSec, entry.mtimeNsec), entry);
    this.closeFile();
  }

  /** After the archive's end. */
  finish(): Unpacked {
    while (this.filling.length > 0) this.leaveLast();
    return { entries: this.entries, root: this.rootMeta };
  }

  close(): void {
    this.closeFile();
    this.closeFolder();
    closeFd(this.root);
  }

  private rootEntry(entry: TarEntry): void {
    if (entry.type !== "dir") throw new TarError(`its root can't be a ${entry.type}`);
    this.rootMeta = { mode: entry.mode, uid: entry.uid, gid: entry.gid };
    this.keepAttributes(this.root, entry);
  }

  private dirEntry(parent: string, name: string, entry: TarEntry): void {
    const folder = this.folderAt(parent, true), path = parent === "" ? name : `${parent}/${name}`;
    const made = beneath.makeFolder(folder, name);
    if (made === -E.EEXIST) {
      const there = beneath.openFolder(folder, name);
      if (there >= 0) closeFd(there);
      else this.put(folder, name, entry, () => beneath.makeFolder(folder, name));
    } else check(made, entry);
    this.ownOpen(this.folderAt(path, false), entry);
    this.filling.push({ path, entry });
  }

  private symlinkEntry(folder: number, name: string, entry: TarEntry): void {
    this.put(folder, name, entry, () => beneath.makeSymlink(folder, name, entry.linkpath));
    this.own(folder, name, entry);
  }

  private linkEntry(folder: number, name: string, entry: TarEntry): void {
    const parts = partsOf(entry.linkpath), from = parts.pop(), refuse = () => new TarError(`the hard link ${show(entry.path)} names ${show(entry.linkpath)}, which is a folder or not in it before that`);
    if (from === undefined) throw refuse();
    if ([...parts, from].join("/") === partsOf(entry.path).join("/")) return; // a link to itself changes nothing
    const fromFolder = beneath.openFolder(this.root, parts.length === 0 ? "." : parts.join("/"));
    if (fromFolder < 0) throw refuse();
    try {
      this.put(folder, name, entry, () => {
        const made = beneath.makeLink(fromFolder, from, folder, name);
        if (made === -E.ENOENT || made === -E.EPERM) throw refuse();
        return made;
      });
    } finally {
      closeFd(fromFolder);
    }
  }

  private nodeEntry(folder: number, name: string, entry: TarEntry): void {
    const type = S_IF[entry.type as keyof typeof S_IF], device = beneath.makeDevice(entry.major, entry.minor);
    if (device === null) throw new TarError(`the device ${show(entry.path)} has an impossible number`);
    this.put(folder, name, entry, () => beneath.makeNode(folder, name, type | 0o600, device));
    this.own(folder, name, entry);
    check(beneath.setModeOf(folder, name, entry.mode), entry);
  }

  /** A later entry takes the place of an earlier one. */
  private put(folder: number, name: string, entry: TarEntry, make: () => number): number {
    const made = make();
    if (made !== -E.EEXIST) return check(made, entry);
    const removed = beneath.removeFile(folder, name);
    if (removed === -E.EISDIR) {
      if (beneath.removeFolder(folder, name) < 0) throw new TarError(`${show(entry.path)} is in it before as a folder that is not empty`);
      if (folder === this.root) this.closeFolder(); // it may be that one, which is no more
    }
    return check(make(), entry);
  }

  private own(folder: number, name: string, entry: TarEntry): void {
    check(beneath.setOwnerOf(folder, name, entry.uid, entry.gid), entry);
    check(beneath.setTimeOf(folder, name, entry.mtimeSec, entry.mtimeNsec), entry);
  }

  /** In this order: a new owner takes set-user-ID bits and capabilities away. */
  private ownOpen(fd: number, entry: TarEntry): void {
    check(beneath.setOwner(fd, entry.uid, entry.gid), entry);
    check(beneath.setMode(fd, entry.mode), entry);
    this.keepAttributes(fd, entry);
  }

  /** Others belong to the machine that the archive was made on (labels, keys), or would be obeyed by an overlay. */
  private keepAttributes(fd: number, { path, xattrs }: TarEntry): void {
    for (const [name, value] of xattrs ?? []) {
      if (!name.startsWith("user.") && name !== "security.capability") continue;
      const result = beneath.setXattr(fd, name, value);
      if (result < 0) throw new TarError(`the extended attribute ${show(name)} of ${show(path)} can't be kept (${errnoName(-result)})`);
    }
  }

  /** A descriptor of the folder, which stays ours; it is valid until the next call. */
  private folderAt(path: string, make: boolean): number {
    if (path === "") return this.root;
    if (this.folder.path === path && this.folder.fd >= 0) return this.folder.fd;
    this.closeFolder();
    let fd = beneath.openFolder(this.root, path);
    if (fd === -E.ENOENT && make) {
      this.makeAll(path);
      fd = beneath.openFolder(this.root, path);
    }
    this.folder = { path, fd: opened(fd, path) };
    return fd;
  }

  /** Folders that the archive does not name. */
  private makeAll(path: string): void {
    let at = this.root;
    try {
      for (const name of path.split("/")) {
        const made = beneath.makeFolder(at, name);
        if (made < 0 && made !== -E.EEXIST) throw fault(made, path);
        const next = opened(beneath.openFolder(at, name), path);
        if (at !== this.root) closeFd(at);
        at = next;
      }
    } finally {
      if (at !== this.root) closeFd(at);
    }
  }

  /** What comes next is put into `folder`: others that it is not in are done. */
  private leave(folder: string): void {
    for (let last = this.filling.at(-1); last !== undefined && folder !== last.path && !folder.startsWith(`${last.path}/`); last = this.filling.at(-1)) this.leaveLast();
  }

  private leaveLast(): void {
    const { path, entry } = this.filling.pop()!, fd = beneath.openFolder(this.root, path);
    if (fd < 0) return; // something else has taken its place
    beneath.setTime(fd, entry.mtimeSec, entry.mtimeNsec);
    closeFd(fd);
  }

  private closeFile(): void {
    if (this.file !== null) closeFd(this.file.fd);
    this.file = null;
  }

  private closeFolder(): void {
    if (this.folder.fd >= 0) closeFd(this.folder.fd);
    this.folder = { path: "", fd: -1 };
  }
}

/** Components of a name that stays inside. */
function partsOf(path: string): string[] {
  if (path.length > MAX_PATH) throw new TarError(`${show(path.slice(0, 80))}… is longer than ${MAX_PATH} bytes`);
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "" || part === ".") continue;
    if (part !== "..") parts.push(part);
    else if (parts.pop() === undefined) throw new TarError(`${show(path)} lies outside of it`);
  }
  return parts;
}

function opened(fd: number, path: string): number {
  if (fd === -E.ELOOP) throw new TarError(`${show(path)} is, or lies behind, a symbolic link, and something is to be put into it`);
  if (fd === -E.ENOTDIR) throw new TarError(`${show(path)} is, or lies in, something that is no folder, and something is to be put into it`);
  if (fd < 0) throw fault(fd, path);
  return fd;
}

function check(result: number, { path }: TarEntry): number {
  if (result < 0) throw fault(result, path);
  return result;
}

const fault = (result: number, path: string): Error =>
  STORAGE.includes(-result) ? new SysError(`Cannot unpack ${show(path)}`, -result) : new TarError(`${show(path)} can't be made (${errnoName(-result)})`);

/** Names are bytes of anybody's. */
const show = (path: string): string => JSON.stringify(Buffer.from(path, "latin1").toString());
