// The files of this domain and the rules by which they appear: a name is only ever given to a whole, synced file.
import { existsSync, mkdirSync, readdirSync, statSync } from "node:fs";
import { rename } from "node:fs/promises";
import { dirname, join } from "node:path";
import { sync } from "../sync.ts";
import type { Trash } from "../trash.ts";

export interface ImageFiles {
  readonly root: string;
  readonly blobs: string;
  readonly rootfs: string;
  /** Emptied at every start. */
  readonly tmp: string;
  /** Where all of them go that are not wanted any more. */
  readonly trash: Trash;
}

/** Makes the folders where they are missing. */
export function imageFiles(root: string, trash: Trash): ImageFiles {
  const files = { root, blobs: join(root, "blobs"), rootfs: join(root, "rootfs"), tmp: join(root, "tmp"), trash };
  for (const path of [files.blobs, join(files.blobs, "sha256"), join(files.blobs, "sha512"), files.rootfs, files.tmp]) mkdirSync(path, { recursive: true, mode: 0o700 });
  return files;
}

export const blobPath = (files: ImageFiles, digest: string): string => join(files.blobs, ...digest.split(":"));
/** What is there of a blob while it comes; a crash leaves it, the next attempt goes on from it. */
export const partialPath = (files: ImageFiles, digest: string): string => `${blobPath(files, digest)}.part`;
export const rootfsPath = (files: ImageFiles, digest: string): string => join(files.rootfs, `${digest.slice(digest.indexOf(":") + 1)}.erofs`);

/** Gives a synced file its name for good. Not synchronous: a disk may take half a second for it. */
export async function publish(from: string, to: string): Promise<void> {
  await rename(from, to);
  await sync(dirname(to));
}

/** Bytes of a file, null where there is none. */
export const sizeOf = (path: string): number | null => (existsSync(path) ? statSync(path).size : null);

export interface BlobFile { readonly digest: string; readonly path: string; readonly size: number; readonly usedMs: number; readonly partial: boolean }

/** All that lies under blobs/. */
export function blobFiles(files: ImageFiles): BlobFile[] {
  return ["sha256", "sha512"].flatMap((algorithm) =>
    readdirSync(join(files.blobs, algorithm)).map((name) => {
      const path = join(files.blobs, algorithm, name);
      const stat = statSync(path);
      return { digest: `${algorithm}:${name.replace(/\.part$/, "")}`, path, size: stat.size, usedMs: stat.mtimeMs, partial: name.endsWith(".part") };
    }),
  );
}
