// The image domain on a folder of its own, and small images made in memory.
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { imageMigrations, openImages, type OpenImages } from "../../../src/host/images/images.ts";
import type { ImageRecord, ImageService } from "../../../src/host/images/service.ts";
import { openStore, type Store } from "../../../src/host/store/store.ts";
import { TempDir } from "../../support/paths.ts";
import { dir, file, tar, type Made } from "./tar-builder.ts";
import { sha256 } from "./mounted.ts";
import { trashIn } from "../../support/trash.ts";

type Options = Partial<Omit<OpenImages, "db" | "dir">>;

/** A database and an images folder; `restart()` is what a new daemon does. */
export class Images {
  readonly temp: TempDir;
  readonly used = new Set<string>();
  store: Store;
  service: ImageService;

  constructor(private readonly options: Options = {}, temp?: TempDir) {
    this.temp = temp ?? new TempDir("service");
    [this.store, this.service] = this.open();
  }

  private open(): [Store, ImageService] {
    const store = openStore(this.temp.join("db"), imageMigrations)._unsafeUnwrap();
    const service = openImages({
      db: store.db, dir: this.temp.join("images"), trash: trashIn(this.temp.path), userOf: (digest) => (this.used.has(digest) ? "the instance web" : null), dockerConfigPath: this.temp.join("none.json"), ...this.options,
      // Tests don't wait for patience: pauses are short, silence is noticed soon.
      limits: { retryDelayMs: 5, ...this.options.limits },
    })._unsafeUnwrap();
    return [store, service];
  }

  async restart(): Promise<void> {
    await this.service.close();
    this.store.close();
    [this.store, this.service] = this.open();
  }

  /** Pulls and waits; the record as it ends. */
  async pulled(name: string, more: Omit<Parameters<ImageService["pull"]>[0], "name"> = {}): Promise<ImageRecord> {
    (await this.service.pull({ name, ...more }))._unsafeUnwrap();
    return (await this.service.settled(name))._unsafeUnwrap();
  }

  /** Every file below the images folder, but those of blobs that ready images keep. */
  files(): string[] {
    return listFiles(this.temp.join("images"));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.service.close();
    this.store.close();
    this.temp[Symbol.dispose]();
  }
}

export function listFiles(root: string): string[] {
  mkdirSync(root, { recursive: true });
  return readdirSync(root, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1)).sort();
}

export interface TinyImage {
  readonly blobs: ReadonlyMap<string, Buffer>;
  /** `[digest, bytes]` of each layer's blob. */
  readonly layers: readonly (readonly [digest: string, bytes: Buffer])[];
  readonly configDigest: string;
  readonly manifest: Buffer;
  readonly digest: string;
}

const TYPE = "application/vnd.oci.image.";

/** An image of these layers (tar entries each), gzip. */
export function tinyImage(layers: readonly (readonly Made[])[] = [[dir("etc"), file("etc/hello", "hello\n")]], config: Record<string, unknown> = {}): TinyImage {
  const tars = layers.map((entries) => tar(entries));
  const packed = tars.map((bytes) => gzipSync(bytes));
  const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
  const configBytes = json({ architecture: "amd64", os: "linux", config: { Cmd: ["/bin/true"], Env: ["A=b"] }, rootfs: { type: "layers", diff_ids: tars.map(sha256) }, ...config });
  const describe = (mediaType: string, bytes: Buffer) => ({ mediaType: TYPE + mediaType, digest: sha256(bytes), size: bytes.length });
  const manifest = json({ schemaVersion: 2, mediaType: `${TYPE}manifest.v1+json`, config: describe("config.v1+json", configBytes), layers: packed.map((bytes) => describe("layer.v1.tar+gzip", bytes)) });
  return {
    blobs: new Map([configBytes, ...packed].map((bytes) => [sha256(bytes), bytes])),
    layers: packed.map((bytes) => [sha256(bytes), bytes] as const),
    configDigest: sha256(configBytes), manifest, digest: sha256(manifest),
  };
}

/** Bytes that don't compress. */
export const random = (length: number): Uint8Array => {
  const out = new Uint8Array(length);
  for (let at = 0; at < length; at += 65536) crypto.getRandomValues(out.subarray(at, Math.min(at + 65536, length)));
  return out;
};
