// Lays out the tree and writes what follows the files' blocks: directory blocks, inodes, and at last the superblock.
// Image: superblock (block 0) | file blocks in order of arrival | directory blocks | inodes with tails, maps and xattrs.
import { writeSync } from "node:fs";
import type { File } from "../tree.ts";
import { Dir, inodeOf, Symlink, type AnyInode } from "../tree.ts";
import { Appender, readExactly } from "./append.ts";
import { MAX_INLINE } from "./data.ts";
import { BLOCK, BLOCK_BITS, CHUNK_BASED, DIRENT, FEATURE_COMPAT_MTIME, FEATURE_COMPAT_SB_CHKSUM, FEATURE_INCOMPAT_CHUNKED_FILE, FLAT_INLINE, FLAT_PLAIN, FT, INODE, INODE_EXTENDED, S_IF, SLOT, SUPER, SUPER_MAGIC, SUPER_OFFSET } from "./layout.ts";
import { crc32c } from "./crc32c.ts";
import { xattrIcount } from "./xattr.ts";

/** A readdir entry with inode number 0 is passed over by C libraries, so the root does not get nid 0. */
const FIRST_INODE = 2 * SLOT;

/** How one inode lies on disk. A class, because there is one for each entry: a literal with spreads took six times the memory. */
class Placed {
  constructor(
    readonly inode: AnyInode,
    readonly parent: Dir,
    readonly layout: number,
    /** i_u: first block, device number or chunk format. */
    readonly u: number,
    readonly size: number,
    /** Bytes behind the inode and its xattrs: a tail, a block map, or nothing. */
    readonly inlineLength: number,
    /** Sorted names of a directory with "." and "..", null for all else. */
    readonly names: readonly string[] | null = null,
  ) {}
}

/** Writes everything behind the files' blocks that `image` holds already. Returns the image's size in bytes. */
export function finishImage(image: Appender, spool: Appender, root: Dir, options: { uuid: Uint8Array; label: string; chunked: boolean }): number {
  image.align(BLOCK);
  spool.flush();
  const placed = place(root, image.position / BLOCK);
  const directoryBlocks = placed.nextBlock;
  assignNids(placed.all);
  for (const one of placed.all) writeOutOfLine(image, one);
  const metaBlock = image.position / BLOCK;
  if (metaBlock !== directoryBlocks) throw new Error(`Cannot finish the image: directory blocks end at ${metaBlock}, not ${directoryBlocks}`);
  writeInodes(image, spool, placed.all);
  image.align(BLOCK);
  image.flush();
  const blocks = image.position / BLOCK;
  writeSuper(image.fd, { ...options, blocks, metaBlock, rootNid: root.nid, inodes: placed.all.length });
  return image.position;
}

/** Decides each inode's layout in the order in which they will lie on disk: a directory's children follow it closely. */
function place(root: Dir, firstBlock: number): { all: Placed[]; nextBlock: number } {
  const all: Placed[] = [];
  const pending: { inode: AnyInode; parent: Dir }[] = [{ inode: root, parent: root }];
  let block = firstBlock;
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const { inode, parent } = next;
    // A directory has "." and its name in the parent (the root, whose parent it is, ".."), and adds a ".." to its parent.
    if (inode.kind === "dir") inode.nlink += 2;
    else if (inode.nlink++ > 0) continue;
    if (inode.kind === "dir" && inode !== parent) parent.nlink++;
    const names = inode.kind === "dir" ? sortedNames(inode) : null;
    const one = placeInode(inode, parent, names, block);
    block += outOfLineBlocks(one);
    all.push(one);
    if (inode.kind === "dir") for (const name of names!.toReversed()) if (!isDots(name)) pending.push({ inode: inodeOf(inode.children.get(name)!), parent: inode });
  }
  return { all, nextBlock: block };
}

const isDots = (name: string): boolean => name === "." || name === "..";

/** Byte order: names are latin1 strings, so the default order is it. */
const sortedNames = (dir: Dir): string[] => [".", "..", ...dir.children.keys()].sort();

function placeInode(inode: AnyInode, parent: Dir, names: readonly string[] | null, block: number): Placed {
  switch (inode.kind) {
    case "special": return new Placed(inode, parent, FLAT_PLAIN, inode.type === "fifo" ? 0 : deviceNumber(inode.major, inode.minor), 0, 0);
    case "file": return placeFile(inode, parent);
    case "symlink": return placeBytes(inode, parent, inode.target.length, block, null);
    case "dir": return placeBytes(inode, parent, directorySize(names!), block, names);
  }
}

function placeFile(file: File, parent: Dir): Placed {
  if (file.chunkBits >= 0) return new Placed(file, parent, CHUNK_BASED, file.chunkBits, file.size, file.spoolLength);
  return new Placed(file, parent, file.spoolLength > 0 ? FLAT_INLINE : FLAT_PLAIN, Math.max(file.block, 0), file.size, file.spoolLength);
}

/** Bytes that are made now: whole blocks at `block`, the tail beside the inode where it fits. */
function placeBytes(inode: Dir | Symlink, parent: Dir, size: number, block: number, names: readonly string[] | null): Placed {
  const tail = size % BLOCK;
  const inline = tail > 0 && tail <= MAX_INLINE && INODE.size + (inode.xattrs?.length ?? 0) + tail <= BLOCK;
  return new Placed(inode, parent, inline ? FLAT_INLINE : FLAT_PLAIN, size > tail || !inline ? block : 0, size, inline ? tail : 0, names);
}

/** Whole blocks that this inode takes in the directory area (files have theirs already). */
function outOfLineBlocks({ inode, size, inlineLength }: Placed): number {
  return inode.kind === "dir" || inode.kind === "symlink" ? Math.ceil((size - inlineLength) / BLOCK) : 0;
}

/** Linux's new_encode_dev(). */
const deviceNumber = (major: number, minor: number): number => ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;

// ---- directories

/** Splits names into blocks of entries: 12 bytes and the name each. */
function* directoryChunks(names: readonly string[]): Generator<{ from: number; to: number; used: number }> {
  let from = 0;
  let used = 0;
  for (let i = 0; i < names.length; i++) {
    const need = DIRENT.size + names[i]!.length;
    if (used + need > BLOCK) {
      yield { from, to: i, used };
      from = i;
      used = 0;
    }
    used += need;
  }
  yield { from, to: names.length, used };
}

function directorySize(names: readonly string[]): number {
  let blocks = 0;
  let last = 0;
  for (const { used } of directoryChunks(names)) {
    blocks++;
    last = used;
  }
  return (blocks - 1) * BLOCK + last;
}

function encodeDirectory({ names, size, inode, parent }: Placed): Buffer {
  const out = Buffer.alloc(size);
  const dir = inode as Dir;
  let base = 0;
  for (const { from, to } of directoryChunks(names!)) {
    let nameoff = (to - from) * DIRENT.size;
    for (let i = from; i < to; i++) {
      const name = names![i]!;
      const target = name === "." ? dir : name === ".." ? parent : inodeOf(dir.children.get(name)!);
      const at = base + (i - from) * DIRENT.size;
      out.writeUIntLE(target.nid, at + DIRENT.nid, 6);
      out.writeUInt16LE(nameoff, at + DIRENT.nameoff);
      out[at + DIRENT.fileType] = fileType(target);
      out.write(name, base + nameoff, "latin1");
      nameoff += name.length;
    }
    base += BLOCK;
  }
  return out;
}

const fileType = (inode: AnyInode): number => FT[inode.kind === "special" ? inode.type : inode.kind];

function contentOf(one: Placed): Buffer {
  return one.inode instanceof Symlink ? Buffer.from(one.inode.target, "latin1") : encodeDirectory(one);
}

function writeOutOfLine(image: Appender, one: Placed): void {
  if (outOfLineBlocks(one) === 0) return;
  image.append(contentOf(one).subarray(0, one.size - one.inlineLength));
  image.align(BLOCK);
}

// ---- inodes

const unitSize = ({ inode, inlineLength }: Placed): number => INODE.size + (inode.xattrs?.length ?? 0) + inlineLength;

/** Where a unit may start: one that fits a block does not cross one (a tail must not), a larger one starts a block. */
function unitStart(cursor: number, size: number): number {
  const used = cursor % BLOCK;
  return used === 0 || used + size <= BLOCK ? cursor : cursor + BLOCK - used;
}

function assignNids(all: readonly Placed[]): void {
  let cursor = FIRST_INODE;
  for (const one of all) {
    const size = unitSize(one);
    cursor = unitStart(cursor, size);
    one.inode.nid = cursor / SLOT;
    cursor = Math.ceil((cursor + size) / SLOT) * SLOT;
  }
}

function writeInodes(image: Appender, spool: Appender, all: readonly Placed[]): void {
  const start = image.position;
  const header = Buffer.alloc(INODE.size);
  for (const [index, one] of all.entries()) {
    image.zeros(start + one.inode.nid * SLOT - image.position);
    encodeInode(header, one, index + 1);
    image.append(header);
    if (one.inode.xattrs !== null) image.append(one.inode.xattrs);
    if (one.inlineLength === 0) continue;
    if (one.inode.kind !== "file") image.append(contentOf(one).subarray(one.size - one.inlineLength));
    else copySpool(image, spool, one.inode);
  }
}

const copyBuffer = Buffer.allocUnsafe(1 << 16);

function copySpool(image: Appender, spool: Appender, file: File): void {
  for (let done = 0; done < file.spoolLength; ) {
    const length = Math.min(copyBuffer.length, file.spoolLength - done);
    readExactly(spool.fd, copyBuffer, length, file.spoolOffset + done);
    image.append(copyBuffer.subarray(0, length));
    done += length;
  }
}

/** struct erofs_inode_extended. */
function encodeInode(out: Buffer, { inode, layout, u, size }: Placed, ino: number): void {
  out.fill(0);
  out.writeUInt16LE(INODE_EXTENDED | (layout << 1), INODE.format);
  out.writeUInt16LE(xattrIcount(inode.xattrs), INODE.xattrIcount);
  out.writeUInt16LE(inode.mode | S_IF[inode.kind === "special" ? inode.type : inode.kind], INODE.mode);
  out.writeBigUInt64LE(BigInt(size), INODE.fileSize);
  out.writeUInt32LE(u, INODE.u);
  out.writeUInt32LE(ino, INODE.ino);
  out.writeUInt32LE(inode.uid, INODE.uid);
  out.writeUInt32LE(inode.gid, INODE.gid);
  out.writeBigInt64LE(BigInt(inode.mtimeSec), INODE.mtime);
  out.writeUInt32LE(inode.mtimeNsec, INODE.mtimeNsec);
  out.writeUInt32LE(inode.nlink, INODE.nlink);
}

// ---- superblock

interface SuperFields { readonly uuid: Uint8Array; readonly label: string; readonly chunked: boolean; readonly blocks: number; readonly metaBlock: number; readonly rootNid: number; readonly inodes: number }

/** Written last, over the zeros of block 0: an image that was not finished is not an EROFS. */
function writeSuper(fd: number, fields: SuperFields): void {
  if (fields.blocks > 0xffffffff) throw new Error("Cannot finish the image: it has more blocks than the format can count");
  const block = Buffer.alloc(BLOCK);
  const at = (offset: number) => SUPER_OFFSET + offset;
  block.writeUInt32LE(SUPER_MAGIC, at(SUPER.magic));
  block.writeUInt32LE(FEATURE_COMPAT_SB_CHKSUM | FEATURE_COMPAT_MTIME, at(SUPER.featureCompat));
  block[at(SUPER.blkszbits)] = BLOCK_BITS;
  block.writeUInt16LE(fields.rootNid, at(SUPER.rootNid));
  block.writeBigUInt64LE(BigInt(fields.inodes), at(SUPER.inos));
  block.writeUInt32LE(fields.blocks, at(SUPER.blocks));
  block.writeUInt32LE(fields.metaBlock, at(SUPER.metaBlkaddr));
  block.set(fields.uuid.subarray(0, 16), at(SUPER.uuid));
  block.write(fields.label.slice(0, 15), at(SUPER.volumeName), "latin1");
  block.writeUInt32LE(fields.chunked ? FEATURE_INCOMPAT_CHUNKED_FILE : 0, at(SUPER.featureIncompat));
  block.writeUInt32LE(crc32c(block.subarray(SUPER_OFFSET)), at(SUPER.checksum));
  for (let done = 0; done < BLOCK; ) done += writeSync(fd, block, done, BLOCK - done, done);
}
