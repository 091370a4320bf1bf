// Makes two layers of a chain one, where the lower one is read through the upper one only: the upper one's blocks are copied down.
// Nobody sees it happen: every reader takes those blocks from the upper one, before and after. A crash at any point leaves both as good
// as they were; what was copied is copied again.
import { open, type FileHandle } from "node:fs/promises";
import { MAP_BLOCK, mapFault, mapLayout } from "../../block-map.ts";
import { E } from "../../ffi/abi/errno.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { syscall, SysError } from "../../ffi/syscall.ts";
import type { DiskLayer } from "./service.ts";

const SEEK_DATA = 3, SEEK_HOLE = 4; // linux/fs.h
const FALLOC_FL_KEEP_SIZE = 1, FALLOC_FL_PUNCH_HOLE = 2; // linux/falloc.h
/** Of a map, and of data: little enough to stay out of others' way. */
const CHUNK = 64 * 1024, COPY = 1 << 20;
/** Most of a file that is freed in one call, which holds up everybody. */
const PUNCH = 64 << 20;

/** `upper`'s map and data are sealed, and so are `lower`'s afterwards. */
export async function mergeInto(lower: DiskLayer, upper: DiskLayer): Promise<void> {
  const files: FileHandle[] = [];
  const opened = async (path: string, flags: string) => {
    const file = await open(path, flags);
    files.push(file);
    return file;
  };
  try {
    const from = await opened(upper.path, "r"), to = await opened(lower.path, "r+"), map = await opened(upper.map!, "r");
    const { size } = await from.stat(), { regionBytes, nowAt, flushedAt } = mapLayout(size);
    const fault = mapFault(await part(map, 0, MAP_BLOCK), (await map.stat()).size, size);
    if (fault !== null) throw new Error(`Cannot merge ${upper.path}: its map can't be used: ${fault}`);
    for (let at = 0; at < regionBytes; at += CHUNK) {
      const bits = await part(map, nowAt + at, Math.min(CHUNK, regionBytes - at));
      for (const [first, end] of runs(bits)) await copy(from, to, (at * 8 + first) * MAP_BLOCK, Math.min((at * 8 + end) * MAP_BLOCK, size));
    }
    await to.sync();
    if (lower.map === null) return;
    const lowerMap = await opened(lower.map, "r+");
    for (let at = 0; at < regionBytes; at += CHUNK) {
      const length = Math.min(CHUNK, regionBytes - at), bits = await part(map, nowAt + at, length);
      if (!bits.some((byte) => byte !== 0)) continue;
      const both = await part(lowerMap, nowAt + at, length);
      bits.forEach((byte, i) => void (both[i]! |= byte));
      for (const region of [nowAt, flushedAt]) await writeAll(lowerMap, both, region + at);
    }
    await lowerMap.sync();
  } finally {
    for (const file of files) await file.close();
  }
}

/** Bytes of a file; what is behind its end is zero. */
async function part(file: FileHandle, offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length; ) {
    const { bytesRead } = await file.read(bytes, done, length - done, offset + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return bytes;
}

async function writeAll(file: FileHandle, bytes: Uint8Array, offset: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) done += (await file.write(bytes, done, bytes.length - done, offset + done)).bytesWritten;
}

/** Where bits are set: [first, end). */
function* runs(bits: Uint8Array): Generator<[number, number]> {
  let first = -1;
  for (let bit = 0; bit < bits.length * 8; bit++) {
    const set = (bits[bit >>> 3]! & (1 << (bit & 7))) !== 0;
    if (set && first < 0) first = bit;
    else if (!set && first >= 0) {
      yield [first, bit];
      first = -1;
    }
  }
  if (first >= 0) yield [first, bits.length * 8];
}

/** [start, end) of `to` becomes as in `from`, holes too. */
async function copy(from: FileHandle, to: FileHandle, start: number, end: number): Promise<void> {
  for (let at = start; at < end; ) {
    const data = seek(from, at, SEEK_DATA, end);
    if (data > at) await punch(to, at, data - at);
    const hole = data < end ? seek(from, data, SEEK_HOLE, end) : end;
    for (let done = data; done < hole; done += COPY) {
      const bytes = await part(from, done, Math.min(COPY, hole - done));
      await writeAll(to, bytes, done);
    }
    at = hole;
  }
}

/** At most `end`. */
function seek(file: FileHandle, offset: number, whence: number, end: number): number {
  const found = syscall(SYS.lseek, file.fd, offset, whence);
  if (found === -E.ENXIO) return end;
  if (found < 0) throw new SysError("Cannot find the data of a layer", -found);
  return Math.min(found, end);
}

async function punch(file: FileHandle, offset: number, length: number): Promise<void> {
  for (let done = 0; done < length; done += PUNCH) {
    const result = syscall(SYS.fallocate, file.fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset + done, Math.min(PUNCH, length - done));
    if (result < 0) throw new SysError("Cannot make a hole in a layer", -result);
    await new Promise(setImmediate); // others' turn
  }
}
