// The files of an OCI layout folder, or of a tar of one, or of a `docker save` archive, by name.
import { closeSync, existsSync, openSync, readSync, statSync, writeSync } from "node:fs";
import { open } from "node:fs/promises";
import { posix, join } from "node:path";
import { createId } from "../../id.ts";
import { DormouseError } from "../../../errors.ts";
import { compressionOf, readLayer, type Compression } from "../decompress.ts";
import type { ImageFiles } from "../files.ts";
import type { ImageLimits } from "../limits.ts";
import { BLOCK } from "../../tar/header.ts";
import { TarReader } from "../../tar/reader.ts";

/** A stretch of a file. */
export interface Member { readonly path: string; readonly offset: number; readonly size: number }

export interface FileTree {
  find(name: string): Member | null;
  /** Who hands the tree on says so; the last release frees what was unpacked. */
  retain(): void;
  release(): void;
}

/** An archive of more members is no image. */
const MAX_MEMBERS = 100_000;
/** As in layers.ts: a link may name a link. */
const MAX_LINKS = 40;

/** Opens a folder or an archive (also gzip or zstd). Throws DormouseError or what the file system says. */
export async function openTree(path: string, files: ImageFiles, limits: ImageLimits, signal: AbortSignal): Promise<FileTree> {
  if (!existsSync(path)) throw new DormouseError("request.bad", `Cannot load ${path}: there is no such file or folder on the daemon's host`);
  if (statSync(path).isDirectory()) return new Folder(path);
  if (compressionOfMember({ path, offset: 0, size: 8 }) === "none") return new Archive(path, () => {});
  const unpacked = join(files.tmp, `${createId()}.tar`), drop = () => files.trash.drop(unpacked);
  try {
    await unpack(path, unpacked, limits, signal);
    return new Archive(unpacked, drop);
  } catch (error) {
    drop();
    throw error;
  }
}

/** Synchronous writes between chunks: the decompressor is what takes the time, and nothing piles up. */
async function unpack(from: string, to: string, limits: ImageLimits, signal: AbortSignal): Promise<void> {
  const fd = openSync(to, "wx", 0o600);
  let bytes = 0;
  try {
    await readLayer(from, (chunk) => {
      signal.throwIfAborted();
      bytes += chunk.length;
      if (bytes > limits.maxBytes) throw new DormouseError("image.too_large", `Cannot load ${from}: it unpacks to more than ${limits.maxBytes} bytes`);
      for (let at = 0; at < chunk.length; ) at += writeSync(fd, chunk, at, chunk.length - at);
    }, () => {});
  } finally {
    closeSync(fd);
  }
}

class Folder implements FileTree {
  constructor(private readonly root: string) {}

  find(name: string): Member | null {
    const path = join(this.root, posix.normalize(`/${name}`));
    return existsSync(path) && statSync(path).isFile() ? { path, offset: 0, size: statSync(path).size } : null;
  }

  retain(): void {}
  release(): void {}
}

class Archive implements FileTree {
  private readonly members = new Map<string, Member>();
  private readonly links = new Map<string, string>();
  private users = 1;

  /** `unused` is called when the last user has released it. */
  constructor(private readonly path: string, private readonly unused: () => void) {
    const fd = openSync(path, "r");
    try {
      this.index(fd);
    } finally {
      closeSync(fd);
    }
  }

  /** Reads headers only: an archive may be large, its members are few. */
  private index(fd: number): void {
    let position = 0;
    let count = 0;
    const reader = new TarReader({
      entry: ({ type, path, linkpath, size }) => {
        if (++count > MAX_MEMBERS) throw new DormouseError("image.too_large", `Cannot load ${this.path}: it has more than ${MAX_MEMBERS} members`);
        const name = clean(path);
        // Docker writes a layer that it has written before as a link to it, by either kind of link.
        if (type === "symlink") this.links.set(name, clean(posix.join(posix.dirname(name), linkpath)));
        else if (type === "link") this.links.set(name, clean(linkpath));
        else if (type === "file") this.members.set(name, { path: this.path, offset: position + BLOCK, size });
      },
      data: () => {},
      endEntry: () => {},
    });
    const block = Buffer.alloc(BLOCK);
    while (!reader.ended) {
      if (readSync(fd, block, 0, BLOCK, position) < BLOCK) break;
      reader.push(block);
      position += BLOCK + reader.skipEntry();
    }
    if (position > statSync(this.path).size) throw new DormouseError("image.convert_failed", `Cannot load ${this.path}: the archive is truncated`);
    reader.finish();
  }

  find(name: string): Member | null {
    let at = clean(name);
    for (let hops = 0; hops <= MAX_LINKS; hops++) {
      const member = this.members.get(at);
      if (member !== undefined) return member;
      const next = this.links.get(at);
      if (next === undefined) return null;
      at = next;
    }
    return null;
  }

  retain(): void {
    this.users++;
  }

  release(): void {
    if (--this.users === 0) this.unused();
  }
}

const clean = (name: string): string => posix.normalize(`/${name}`).slice(1);

/** A whole member, which must not be larger than `max` bytes. */
export async function readMember({ path, offset, size }: Member, max: number, what: string): Promise<Uint8Array> {
  if (size > max) throw new DormouseError("image.too_large", `Cannot load ${path}: ${what} takes ${size} bytes, more than ${max}`);
  const file = await open(path, "r");
  try {
    const bytes = Buffer.alloc(size);
    for (let done = 0; done < size; ) {
      const { bytesRead } = await file.read(bytes, done, size - done, offset + done);
      if (bytesRead === 0) throw new DormouseError("image.convert_failed", `Cannot load ${path}: ${what} is truncated`);
      done += bytesRead;
    }
    return bytes;
  } finally {
    await file.close();
  }
}

/** From a member's first bytes. */
export function compressionOfMember({ path, offset, size }: Member): Compression {
  const fd = openSync(path, "r");
  try {
    const head = Buffer.alloc(Math.min(8, size));
    return compressionOf(head.subarray(0, readSync(fd, head, 0, head.length, offset)));
  } finally {
    closeSync(fd);
  }
}
