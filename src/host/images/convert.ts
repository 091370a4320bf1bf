// Layers to one EROFS image, in one pass: decompress, check the diff id, read tar, apply, write. No file is unpacked.
import { closeSync, fsyncSync, openSync, rmSync, statSync, unlinkSync } from "node:fs";
import { Appender } from "./erofs/append.ts";
import { DataWriter } from "./erofs/data.ts";
import { BLOCK } from "./erofs/layout.ts";
import { finishImage } from "./erofs/image.ts";
import { CompressionError, readLayer } from "./decompress.ts";
import { DormouseError, messageOf, wrap } from "../../errors.ts";
import { LayerApplier, LimitError, show } from "./layers.ts";
import { TarError } from "../tar/error.ts";
import { TarReader } from "../tar/reader.ts";

export interface ConvertLimits {
  /** Bytes of the unpacked image. */
  readonly maxBytes: number;
  readonly maxEntries: number;
  /** Bytes of names and attributes, which are held in memory. */
  readonly maxMetadataBytes: number;
  /** Unpacked bytes for each compressed one, counted from `ratioFreeBytes` on. */
  readonly maxRatio: number;
  readonly ratioFreeBytes: number;
}

export const CONVERT_LIMITS: ConvertLimits = {
  maxBytes: 64 * 2 ** 30,
  maxEntries: 4_000_000,
  maxMetadataBytes: 512 * 2 ** 20,
  // gzip reaches 1,032 on zeros.
  maxRatio: 1100,
  ratioFreeBytes: 2 ** 30,
};

export interface ConvertJob {
  /** Base to top; `diffId` is the digest of the uncompressed tar (`sha256:…`), null to leave it unchecked. */
  readonly layers: readonly { readonly path: string; readonly diffId: string | null }[];
  /** Written whole and synced, or not left at all. `output + ".spool"` is used meanwhile. */
  readonly output: string;
  /** Hex of at least 16 bytes; the same input under the same seed gives the same bytes. */
  readonly uuidSeed: string;
  readonly label: string;
  readonly limits: ConvertLimits;
}

export interface ConvertResult { readonly sizeBytes: number; readonly entries: number; readonly unpackedBytes: number }

/** Runs one conversion on this thread; throws DormouseError. `onProgress` counts bytes of the layers' files. */
export async function convert(job: ConvertJob, onProgress: (doneBytes: number) => void = () => {}): Promise<ConvertResult> {
  const spoolPath = `${job.output}.spool`;
  const open: number[] = [];
  try {
    for (const path of [job.output, spoolPath]) open.push(openSync(path, "w+", 0o600));
    // The spool needs no name: so it never outlives the process.
    unlinkSync(spoolPath);
    const result = await write(job, open[0]!, open[1]!, onProgress);
    fsyncSync(open[0]!);
    return result;
  } catch (error) {
    rmSync(job.output, { force: true });
    throw explain(error);
  } finally {
    for (const fd of open) closeSync(fd);
  }
}

async function write(job: ConvertJob, imageFd: number, spoolFd: number, onProgress: (doneBytes: number) => void): Promise<ConvertResult> {
  const image = new Appender(imageFd);
  const spool = new Appender(spoolFd);
  image.zeros(BLOCK);
  const counter = new RatioCounter(job, onProgress);
  const data = new DataWriter(image, spool, counter.mostBytes());
  const applier = new LayerApplier(data, job.limits);
  for (const [index, layer] of job.layers.entries()) {
    applier.beginLayer(index + 1);
    await applyLayer(applier, layer, index, counter);
  }
  const uuid = Buffer.from(job.uuidSeed, "hex");
  const sizeBytes = finishImage(image, spool, applier.root, { uuid, label: job.label, chunked: data.chunked });
  return { sizeBytes, entries: applier.entries, unpackedBytes: counter.unpacked };
}

async function applyLayer(applier: LayerApplier, layer: ConvertJob["layers"][number], index: number, counter: RatioCounter): Promise<void> {
  const reader = new TarReader(applier);
  const algorithm = layer.diffId?.startsWith("sha512:") ? "sha512" : "sha256";
  const hash = layer.diffId === null ? null : new Bun.CryptoHasher(algorithm);
  try {
    await readLayer(layer.path, (chunk) => {
      counter.unpackedMore(chunk.length);
      hash?.update(chunk);
      reader.push(chunk);
    }, (bytes) => counter.readMore(bytes));
    reader.finish();
  } catch (error) {
    const where = reader.path === "" ? "" : `, near ${show(reader.path)}`;
    throw explain(error, `layer ${index + 1}${where}: `);
  }
  const digest = hash === null ? null : `${algorithm}:${hash.digest("hex")}`;
  if (digest !== layer.diffId) throw new DormouseError("image.convert_failed", `Cannot convert the image: layer ${index + 1} unpacks to ${digest}, but the image's configuration says ${layer.diffId}; the image is damaged or forged`);
}

/** Counts what was read and what came out of it, against the limit on their ratio (a small file that unpacks to a disk full). */
class RatioCounter {
  read = 0;
  unpacked = 0;
  private readonly total: number;
  constructor(private readonly job: ConvertJob, private readonly onProgress: (doneBytes: number) => void) {
    this.total = job.layers.reduce((sum, layer) => sum + statSync(layer.path).size, 0);
  }

  readMore(bytes: number): void {
    this.read += bytes;
    this.onProgress(this.read);
  }

  /** What may be written: a small archive of sparse files could ask for more than its tar bytes. */
  mostBytes(): number {
    const { maxRatio, ratioFreeBytes, maxBytes } = this.job.limits;
    return Math.min(maxBytes, Math.max(ratioFreeBytes, this.total * maxRatio));
  }

  unpackedMore(bytes: number): void {
    const { maxRatio, ratioFreeBytes, maxBytes } = this.job.limits;
    this.unpacked += bytes;
    if (this.unpacked > ratioFreeBytes && this.unpacked > this.total * maxRatio) throw new LimitError(`it unpacks to more than ${maxRatio} times its size`);
    // Headers, whiteouts and what is replaced later count too: a tar of nothing else must also end.
    if (this.unpacked > 2 * maxBytes) throw new LimitError(`its layers unpack to more than ${2 * maxBytes} bytes`);
  }
}

/** The error for the image's record: what is wrong with the image, or with this host's disk. */
function explain(error: unknown, where = ""): DormouseError {
  if (error instanceof DormouseError) return error;
  if (error instanceof LimitError) return new DormouseError("image.too_large", `Cannot convert the image: ${where}${error.message}`, { cause: error });
  if (error instanceof TarError || error instanceof CompressionError)
    return new DormouseError("image.convert_failed", `Cannot convert the image: ${where}${error.message}`, { cause: error });
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG")
    return new DormouseError("host.storage", `Cannot convert the image: the disk is full (${messageOf(error)}); free some space and pull again`, { cause: error });
  return wrap("image.convert_failed", "Cannot convert the image", error);
}
