// What is done to the files of disks: shared copies, new empty tops, maps settled. Everything here is on the storage when it returns.
import { constants } from "node:fs";
import { copyFile, open, rm, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { MAP_BLOCK, mapFault, mapHeader, mapLayout, type MapLayout } from "../../block-map.ts";
import { closeFd, fileSize, O_RDONLY, O_RDWR, openFd, pwriteAll } from "../../ffi/fd.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { must } from "../../ffi/syscall.ts";
import { sync } from "../sync.ts";
import type { DiskLayer } from "./service.ts";

const CHUNK = 256 * 1024;
/** Of file systems that share no blocks, or not between these two places (ioctl_ficlone(2)). */
const NO_REFLINK = new Set(["ENOTSUP", "EOPNOTSUPP", "ENOTTY", "EXDEV", "EINVAL", "ENOSYS"]);

/** Makes `to` a copy of `from` that shares its blocks. False, with nothing left, where the file system can't. */
export async function reflink(from: string, to: string): Promise<boolean> {
  try {
    await copyFile(from, to, constants.COPYFILE_FICLONE_FORCE | constants.COPYFILE_EXCL);
  } catch (error) {
    await rm(to, { force: true });
    if (NO_REFLINK.has((error as NodeJS.ErrnoException).code ?? "")) return false;
    throw error;
  }
  await sync(to);
  return true;
}

/** A disk that holds nothing of its own yet, over others. */
export async function makeTop({ path, map }: DiskLayer, bytes: number): Promise<void> {
  const make = async (at: string, length: number, head: Uint8Array) => {
    const file = await open(at, "wx", 0o600);
    try {
      if (head.length > 0) await file.write(head, 0, head.length, 0);
      await file.truncate(length);
      await file.sync();
    } finally {
      await file.close();
    }
  };
  await make(path, bytes, new Uint8Array(0));
  if (map !== null) await make(map, mapLayout(bytes).fileBytes, mapHeader(bytes));
}

/** What is in the files now is to stay, also if the host loses its power: the data is synced, and the map says that it is. */
export async function seal({ path, map }: DiskLayer): Promise<void> {
  await sync(path);
  if (map === null) return;
  copyRegion(map, "now");
  await sync(map);
}

/** After a boot of the host: what was not flushed may have lost its data, and counts as not written. */
export async function revert(map: string): Promise<void> {
  copyRegion(map, "flushed");
  await sync(map);
}

/** Whether a disk with this map holds nothing of its own: it reads as what is below it. */
export function holdsNothing(map: string): boolean {
  return withMap(map, O_RDONLY, false, (fd, { regionBytes, nowAt }) => {
    for (let at = 0; at < regionBytes; at += CHUNK) {
      const bits = Buffer.alloc(Math.min(CHUNK, regionBytes - at));
      read(fd, bits, nowAt + at);
      if (!bits.equals(Buffer.alloc(bits.length))) return false;
    }
    return true;
  });
}

/** Makes the other region of a map as this one is. */
function copyRegion(path: string, source: "now" | "flushed"): void {
  withMap(path, O_RDWR, undefined, (fd, { regionBytes, nowAt, flushedAt }) => {
    const [from, to] = source === "now" ? [nowAt, flushedAt] : [flushedAt, nowAt];
    for (let at = 0; at < regionBytes; at += CHUNK) {
      const length = Math.min(CHUNK, regionBytes - at), wanted = new Uint8Array(length), found = new Uint8Array(length);
      read(fd, wanted, from + at);
      read(fd, found, to + at);
      if (Buffer.compare(wanted, found) !== 0) pwriteAll(fd, wanted, to + at);
    }
  });
}

/** `work`'s answer, or `damaged` where it is no map: the monitor refuses those, and says why. */
function withMap<T>(path: string, flags: number, damaged: T, work: (fd: number, layout: MapLayout) => T): T {
  const fd = openFd(path, flags);
  try {
    const header = new Uint8Array(MAP_BLOCK), size = fileSize(fd);
    read(fd, header, 0);
    const bytes = Number(new DataView(header.buffer).getBigUint64(16, true));
    return mapFault(header, size, bytes) === null ? work(fd, mapLayout(bytes)) : damaged;
  } finally {
    closeFd(fd);
  }
}

function read(fd: number, into: Uint8Array, offset: number): void {
  for (let done = 0; done < into.length; ) {
    const got = must("Cannot read a block map", SYS.pread64, fd, into.subarray(done), into.length - done, offset + done);
    if (got === 0) return; // what is missing reads as zeroes
    done += got;
  }
}

/** Names that were made or removed in the folders of these paths. */
export async function syncFolders(...paths: readonly string[]): Promise<void> {
  for (const folder of new Set(paths.map(dirname))) await sync(folder);
}

export const exists = (path: string): Promise<boolean> => stat(path).then(() => true, () => false);
