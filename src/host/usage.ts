// What the data folder holds of instances, snapshots and volumes, and what is free beside it; allocated bytes, so that sparse files count as
// they cost. Blocks that a file system shares between files count in each.
import { readdir, stat, statfs } from "node:fs/promises";
import { join } from "node:path";

/** st_blocks counts in these, whatever the file system's own block size (stat(2)). */
const STAT_BLOCK = 512;

export interface DiskUsage {
  /** Writable disks and logs of instances; disks of named snapshots; layers that disks of either share; volumes; guest memory of instances and snapshots. */
  readonly instanceBytes: number;
  readonly snapshotBytes: number;
  readonly layerBytes: number;
  readonly volumeBytes: number;
  readonly memoryBytes: number;
  readonly freeBytes: number;
}

/** Of `dataDir`'s folders and its file system. Throws what the file system does. */
export async function diskUsage(dataDir: string): Promise<DiskUsage> {
  const { bavail, bsize } = await statfs(dataDir);
  const [instanceBytes = 0, snapshotBytes = 0, layerBytes = 0, volumeBytes = 0, memoryBytes = 0] = await Promise.all(["instances", "snapshots", "disks", "volumes", "memory"].map((name) => allocated(join(dataDir, name))));
  return { instanceBytes, snapshotBytes, layerBytes, volumeBytes, memoryBytes, freeBytes: bavail * bsize };
}

/** A folder or file that goes away meanwhile (an instance being deleted) counts nothing. */
async function allocated(dir: string): Promise<number> {
  let total = 0;
  for (const entry of await orGone(readdir(dir, { withFileTypes: true }), [])) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) total += await allocated(path);
    else if (entry.isFile()) total += (await orGone(stat(path), { blocks: 0 })).blocks * STAT_BLOCK;
  }
  return total;
}

const orGone = <T, F>(found: Promise<T>, gone: F): Promise<T | F> =>
  found.catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return gone;
    throw error;
  });
