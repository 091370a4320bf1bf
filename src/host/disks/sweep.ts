// At start: files of disks that no record tells of, left by a crash, go.
import { readdir, rmdir } from "node:fs/promises";
import { join } from "node:path";
import type { Trash } from "../trash.ts";
import type { DiskRecords } from "./records.ts";
import type { DiskOwner } from "./service.ts";

/** Names that this domain gives; instances' folders hold other files too. */
const OURS = /^upper(\.[a-z0-9]+)?\.(ext4|map)$/;

export async function sweep(dataDir: string, records: DiskRecords, trash: Trash): Promise<void> {
  const layers = join(dataDir, "disks");
  const known = new Set(records.layers().flatMap(({ id, parent }) => [`${id}.img`, ...(parent === null ? [] : [`${id}.map`])]));
  for (const name of await names(layers)) if (!known.has(name)) trash.drop(join(layers, name));
  for (const kind of ["instance", "snapshot"] as const) {
    const folder = join(dataDir, `${kind}s`);
    for (const id of await names(folder)) if (!id.startsWith(".")) await sweepOwner(join(folder, id), records, trash, { kind, id });
  }
}

async function sweepOwner(folder: string, records: DiskRecords, trash: Trash, owner: DiskOwner): Promise<void> {
  const { file, layer } = records.top(owner);
  const keep = file === null ? [] : [`${file}.ext4`, ...(layer === null ? [] : [`${file}.map`])];
  for (const name of await names(folder)) if (OURS.test(name) && !keep.includes(name)) trash.drop(join(folder, name));
  if (owner.kind === "snapshot" && records.find(owner) === null) await rmdir(folder).catch(() => {}); // it holds something else, which is not ours
}

const names = (folder: string): Promise<string[]> => readdir(folder).catch((error: NodeJS.ErrnoException) => {
  if (error.code === "ENOENT" || error.code === "ENOTDIR") return [];
  throw error;
});
