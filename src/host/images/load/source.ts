// An image in an OCI layout or a `docker save` archive, as a source. Blobs are copied, so the files may go afterwards.
import { open } from "node:fs/promises";
import { DormouseError, wrap } from "../../../errors.ts";
import { blobPath, partialPath, publish, sizeOf, type ImageFiles } from "../files.ts";
import type { ImageLimits } from "../limits.ts";
import { choosePlatform, digestOf, MEDIA, parseConfig, parseManifest, type Descriptor, type Index } from "../manifest.ts";
import type { ImageSource, Resolved } from "../source.ts";
import { nameIn, readHeld, type SavedImage } from "./inspect.ts";
import { compressionOfMember, openTree, readMember, type FileTree, type Member } from "./tree.ts";

const MAX_NESTING = 3;
const COPY = 1 << 20;

export interface FileOrigin { readonly path: string; readonly pick: string | null }

export class FileSource implements ImageSource {
  readonly repository: string;
  /** Members by digest, for archives that don't name them so. */
  private readonly members = new Map<string, Member>();

  /** `tree` saves opening the file again; it is released by close(). */
  constructor(private readonly origin: FileOrigin, private readonly name: string, private readonly files: ImageFiles, private readonly limits: ImageLimits, private tree: FileTree | null = null) {
    this.repository = name.replace(/(?:@.*|:[^:/]*)$/, "");
  }

  async resolve(signal: AbortSignal): Promise<Resolved> {
    this.tree ??= await openTree(this.origin.path, this.files, this.limits, signal);
    const held = await readHeld(this.tree, this.origin.path, this.limits);
    if (held.kind === "oci") return this.resolveIndex(held.index);
    const image = held.images[Number(this.origin.pick ?? 0)];
    if (image === undefined) throw this.missing("the image");
    return this.resolveSaved(image, signal);
  }

  private async resolveIndex(index: Index): Promise<Resolved> {
    const { pick } = this.origin;
    const entries = pick === null ? index.entries : index.entries.filter((entry) => nameIn(entry.annotations) === pick);
    // A single entry may leave its platform out, or be an index itself; its configuration is checked later.
    let at: Descriptor = entries.length === 1 ? entries[0]! : choosePlatform({ kind: "index", entries }, this.name);
    const top = at.digest;
    for (let depth = 0; depth <= MAX_NESTING; depth++) {
      const bytes = await readMember(this.blobMember(at.digest), this.limits.maxManifestBytes, `the manifest ${at.digest}`);
      if (digestOf(bytes, at.digest) !== at.digest) throw new DormouseError("image.convert_failed", `Cannot load ${this.origin.path}: the manifest ${at.digest} has another digest; the file is damaged`);
      const parsed = parseManifest(bytes, at.mediaType, this.name, this.limits);
      if (parsed.kind === "manifest") return { digest: at.digest, resolved: top, manifest: parsed, manifestBytes: bytes, what: this.name };
      at = choosePlatform(parsed, this.name);
    }
    throw new DormouseError("image.convert_failed", `Cannot load ${this.origin.path}: its indexes name indexes without end`);
  }

  /** `docker save` without OCI's files has no manifest: one is made, always the same for the same image. */
  private async resolveSaved(image: SavedImage, signal: AbortSignal): Promise<Resolved> {
    const configMember = this.member(image.config);
    const configBytes = await readMember(configMember, this.limits.maxConfigBytes, image.config);
    const { diffIds } = parseConfig(configBytes, this.name);
    const config = this.describe(MEDIA.ociConfig, digestOf(configBytes), configMember);
    const layers: Descriptor[] = [];
    for (const [position, path] of image.layers.entries()) {
      const member = this.member(path);
      // An uncompressed layer's digest is its diff id; it is checked when the blob is copied.
      const plain = compressionOfMember(member) === "none" && diffIds[position] !== undefined;
      layers.push(this.describe(MEDIA.ociLayer, plain ? diffIds[position]! : await hashMember(member, signal), member));
    }
    const manifestBytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: MEDIA.ociManifest, config, layers }));
    const parsed = parseManifest(manifestBytes, MEDIA.ociManifest, this.name, this.limits);
    if (parsed.kind !== "manifest") throw this.missing("the manifest");
    const digest = digestOf(manifestBytes);
    return { digest, resolved: digest, manifest: parsed, manifestBytes, what: this.name };
  }

  private describe(mediaType: string, digest: string, member: Member): Descriptor {
    this.members.set(digest, member);
    return { mediaType, digest, size: member.size };
  }

  private member(name: string): Member {
    const found = this.tree?.find(name) ?? null;
    if (found === null) throw this.missing(name);
    return found;
  }

  private blobMember(digest: string): Member {
    return this.members.get(digest) ?? this.member(`blobs/${digest.replace(":", "/")}`);
  }

  private missing(what: string): DormouseError {
    return new DormouseError("image.convert_failed", `Cannot load ${this.origin.path}: ${what} is missing in it`);
  }

  async bring(blob: Descriptor, signal: AbortSignal, onBytes: (done: number) => void): Promise<void> {
    if (sizeOf(blobPath(this.files, blob.digest)) !== null) return onBytes(blob.size);
    const member = this.blobMember(blob.digest);
    const path = partialPath(this.files, blob.digest);
    try {
      const digest = await copyMember(member, path, blob.digest, signal, onBytes);
      if (digest !== blob.digest || member.size !== blob.size) throw new DormouseError("image.convert_failed", `Cannot load ${this.origin.path}: the blob ${blob.digest} has the digest ${digest}; the file is damaged`);
      await publish(path, blobPath(this.files, blob.digest));
    } catch (error) {
      this.files.trash.drop(path);
      signal.throwIfAborted();
      throw wrap("host.storage", `Cannot load ${this.origin.path}`, error);
    }
  }

  close(): void {
    this.tree?.release();
    this.tree = null;
  }
}

async function hashMember(member: Member, signal: AbortSignal): Promise<string> {
  const hash = new Bun.CryptoHasher("sha256");
  await eachChunk(member, signal, async (chunk) => void hash.update(chunk));
  return `sha256:${hash.digest("hex")}`;
}

/** Copies and syncs; returns the digest of what was copied, by the algorithm of `like`. */
async function copyMember(member: Member, to: string, like: string, signal: AbortSignal, onBytes: (done: number) => void): Promise<string> {
  const algorithm = like.startsWith("sha512:") ? "sha512" : "sha256";
  const hash = new Bun.CryptoHasher(algorithm);
  const out = await open(to, "w", 0o600);
  try {
    let done = 0;
    await eachChunk(member, signal, async (chunk) => {
      hash.update(chunk);
      for (let at = 0; at < chunk.length; ) at += (await out.write(chunk, at, chunk.length - at, null)).bytesWritten;
      onBytes((done += chunk.length));
    });
    await out.sync();
  } finally {
    await out.close();
  }
  return `${algorithm}:${hash.digest("hex")}`;
}

async function eachChunk({ path, offset, size }: Member, signal: AbortSignal, use: (chunk: Buffer) => Promise<void>): Promise<void> {
  const file = await open(path, "r");
  try {
    const buffer = Buffer.allocUnsafe(COPY);
    for (let done = 0; done < size; ) {
      signal.throwIfAborted();
      const { bytesRead } = await file.read(buffer, 0, Math.min(COPY, size - done), offset + done);
      if (bytesRead === 0) throw new DormouseError("image.convert_failed", `Cannot load ${path}: it is truncated`);
      await use(buffer.subarray(0, bytesRead));
      done += bytesRead;
    }
  } finally {
    await file.close();
  }
}
