// Throws away what nobody needs: contents without name or instance, layers beyond the cache, and what a crash left.
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { Contents } from "./contents.ts";
import { blobFiles, rootfsPath, type ImageFiles } from "./files.ts";
import type { ImageLimits } from "./limits.ts";
import type { Records } from "./records.ts";

export interface SweepContext {
  readonly records: Records;
  readonly files: ImageFiles;
  readonly contents: Contents;
  readonly limits: ImageLimits;
  readonly userOf: (digest: string) => string | null;
  /** Some job is under way: what it will want of partial files is not known yet. */
  readonly busy: boolean;
}

export function sweep(context: SweepContext): void {
  sweepContents(context);
  sweepBlobs(context);
}

/** The record goes first: a file without record is swept at the next start, a record without file would lie. */
function sweepContents({ records, files, contents, userOf }: SweepContext): void {
  const named = new Set(records.names().flatMap((row) => [row.digest, row.previous]));
  for (const { digest } of records.contents()) {
    if (named.has(digest) || contents.isPinned(digest) || userOf(digest) !== null) continue;
    records.deleteContent(digest);
    files.trash.drop(rootfsPath(files, digest));
  }
}

/** Layers of ready images are kept as far as the cache reaches; what no ready image has goes, once no job may want it. */
function sweepBlobs({ records, files, contents, limits, busy }: SweepContext): void {
  const ready = records.contents();
  const kept = new Set(ready.flatMap((content) => [content.digest, content.configDigest]));
  const layers = new Set(ready.flatMap((content) => content.layers));
  const idle = blobFiles(files).filter((blob) => !kept.has(blob.digest) && !contents.isPinned(blob.digest));
  const cached = idle.filter((blob) => !blob.partial && layers.has(blob.digest)).sort((a, b) => b.usedMs - a.usedMs);
  if (!busy) for (const blob of idle) if (!cached.includes(blob)) files.trash.drop(blob.path);
  let room = limits.layerCacheBytes;
  for (const blob of cached) {
    room -= blob.size;
    if (room < 0) files.trash.drop(blob.path);
  }
}

/** At start: temporary files and root file systems that no record knows go; ready names whose file is gone say so. */
export function recoverFiles(files: ImageFiles, records: Records): void {
  for (const name of readdirSync(files.tmp)) files.trash.drop(join(files.tmp, name));
  const known = new Set(records.contents().map((content) => rootfsPath(files, content.digest)));
  for (const name of readdirSync(files.rootfs)) if (!known.has(join(files.rootfs, name))) files.trash.drop(join(files.rootfs, name));
  for (const { digest } of records.contents()) {
    if (existsSync(rootfsPath(files, digest))) continue;
    records.deleteContent(digest);
    for (const row of records.names()) {
      if (row.previous === digest) records.changeName(row.name, { previous: "" });
      if (row.digest === digest && row.status === "ready") records.changeName(row.name, { status: "failed", error: "Its file is gone from the images folder; pull it again" });
    }
  }
}
