// At start: files of disks that no record tells of, left by a crash, go.
import { readdir, rm, rmdir } from "node:fs/promises";
import { join } from "node:path";
import type { DiskRecords } from "./records.ts";
import type { DiskOwner } from "./service.ts";

/** Names that this domain gives; instances' folders hold other files too. */
const OURS = /^upper(\.[a-z0-9]+)?\.(ext4|map)$/;

export async function sweep(dataDir: string, records: DiskRecords): Promise<void> {
  const layers = join(dataDir, "disks");
  const known = new Set(records.layers().flatMap(({ id, parent }) => [`${id}.img`, ...(parent === null ? [] : [`${id}.map`])]));
  await remove(layers, (await names(layers)).filter((name) => !known.has(name)));
  for (const kind of ["instance", "snapshot"] as const) {
    const folder = join(dataDir, `${kind}s`);
    for (const id of await names(folder)) if (!id.startsWith(".")) await sweepOwner(join(folder, id), records, { kind, id });
  }
}

async function sweepOwner(folder: string, records: DiskRecords, owner: DiskOwner): Promise<void> {
  const { file, layer } = records.top(owner);
  const keep = file === null ? [] : [`${file}.ext4`, ...(layer === null ? [] : [`${file}.map`])];
  await remove(folder, (await names(folder)).filter((name) => OURS.test(name) && !keep.includes(name)));
  if (owner.kind === "snapshot" && records.find(owner) === null) await rmdir(folder).catch(() => {}); // it holds something else, which is not ours
}

async function remove(folder: string, found: readonly string[]): Promise<void> {
  for (const name of found) await rm(join(folder, name), { force: true });
}

const names = (folder: string): Promise<string[]> => readdir(folder).catch((error: NodeJS.ErrnoException) => {
  if (error.code === "ENOENT" || error.code === "ENOTDIR") return [];
  throw error;
});
