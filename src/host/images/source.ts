// Where an image comes from: a registry, or files on this host. Either names a manifest and brings blobs by digest.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createId } from "../id.ts";
import { blobPath, publish, sizeOf, type ImageFiles } from "./files.ts";
import { wrap } from "../../errors.ts";
import type { Descriptor, Manifest } from "./manifest.ts";

export interface Resolved {
  /** Digest of the manifest for our platform. */
  readonly digest: string;
  /** What the name stands for at its source: the index's digest where there is one. */
  readonly resolved: string;
  readonly manifest: Manifest;
  readonly manifestBytes: Uint8Array;
  /** For messages. */
  readonly what: string;
}

export interface ImageSource {
  /** Host and path, as in a name without tag. */
  readonly repository: string;
  resolve(signal: AbortSignal): Promise<Resolved>;
  /** Makes blobs/… hold the blob, verified and synced; `onBytes` is told how much of it is there. */
  bring(blob: Descriptor, signal: AbortSignal, onBytes: (done: number) => void): Promise<void>;
  /** Frees what only this source needs. */
  close(): void;
}

/** Stores bytes whose digest has been checked. */
export async function storeBlob(files: ImageFiles, digest: string, bytes: Uint8Array): Promise<void> {
  if (sizeOf(blobPath(files, digest)) !== null) return;
  const path = join(files.tmp, createId());
  try {
    await writeFile(path, bytes, { mode: 0o600, flush: true });
    await publish(path, blobPath(files, digest));
  } catch (error) {
    files.trash.drop(path);
    throw wrap("host.storage", "Cannot keep what was downloaded", error);
  }
}
