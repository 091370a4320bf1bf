// OCI image layouts (image-spec 1.0, image-layout.md), written from folders, and pushed to a registry (distribution-spec 1.0).
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { command } from "./command.ts";

export type Compression = "gzip" | "zstd" | "none";

export interface ImageSettings {
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly Env?: readonly string[];
  readonly WorkingDir?: string;
  readonly User?: string;
  readonly Volumes?: Readonly<Record<string, object>>;
  readonly ExposedPorts?: Readonly<Record<string, object>>;
  readonly StopSignal?: string;
  readonly Labels?: Readonly<Record<string, string>>;
}

export interface Descriptor { readonly mediaType: string; readonly digest: string; readonly size: number }
export interface Layer { readonly descriptor: Descriptor; readonly diffId: string }
interface Manifest { readonly mediaType: string; readonly config: Descriptor; readonly layers: readonly Descriptor[] }

/** Which names the media types have. */
export type Dialect = "oci" | "docker";
const MEDIA = {
  oci: {
    manifest: "application/vnd.oci.image.manifest.v1+json", config: "application/vnd.oci.image.config.v1+json",
    layer: { gzip: "application/vnd.oci.image.layer.v1.tar+gzip", zstd: "application/vnd.oci.image.layer.v1.tar+zstd", none: "application/vnd.oci.image.layer.v1.tar" },
  },
  docker: {
    manifest: "application/vnd.docker.distribution.manifest.v2+json", config: "application/vnd.docker.container.image.v1+json",
    layer: { gzip: "application/vnd.docker.image.rootfs.diff.tar.gzip", zstd: "application/vnd.docker.image.rootfs.diff.tar.zstd", none: "application/vnd.docker.image.rootfs.diff.tar" },
  },
} as const;

const sha256 = (bytes: Uint8Array): string => `sha256:${new Bun.CryptoHasher("sha256").update(bytes).digest("hex")}`;
/** Every file in our images has this time: the same content gives the same digest. */
const MTIME = "@1577836800";

/** An OCI layout in a folder. Layers may be shared between images of one layout, or copied by digest from another. */
export class OciLayout {
  private constructor(readonly folder: string) {}

  static async create(folder: string): Promise<OciLayout> {
    await mkdir(join(folder, "blobs/sha256"), { recursive: true });
    await writeFile(join(folder, "oci-layout"), `{"imageLayoutVersion":"1.0.0"}`);
    return new OciLayout(folder);
  }
  /** One that create() made before. */
  static open(folder: string): OciLayout { return new OciLayout(folder); }

  blobPath(digest: string): string { return join(this.folder, "blobs", digest.replace(":", "/")); }

  async addBlob(mediaType: string, bytes: Uint8Array): Promise<Descriptor> {
    const digest = sha256(bytes);
    await writeFile(this.blobPath(digest), bytes);
    return { mediaType, digest, size: bytes.length };
  }

  /** The contents of `root` as one layer. Whiteouts are files named `.wh.…` in it. */
  async addFolder(root: string, compression: Compression = "gzip", dialect: Dialect = "oci"): Promise<Layer> {
    const tarPath = join(this.folder, `layer-${crypto.randomUUID()}`);
    const format = ["--format=posix", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"];
    await command(["tar", "-C", root, ...format, "--sort=name", `--mtime=${MTIME}`, "--numeric-owner", "--xattrs", "--xattrs-include=*", "-cf", tarPath, "."]);
    const tar = await readFile(tarPath);
    await command(["rm", tarPath]);
    const bytes = compression === "gzip" ? Bun.gzipSync(tar, { level: 6 }) : compression === "zstd" ? Bun.zstdCompressSync(tar, { level: 3 }) : tar;
    return { descriptor: await this.addBlob(MEDIA[dialect].layer[compression], bytes), diffId: sha256(tar) };
  }

  /** Writes configuration, manifest and index: the layout then holds this one image. */
  async finish(layers: readonly Layer[], settings: ImageSettings, dialect: Dialect = "oci"): Promise<Descriptor> {
    const json = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value));
    const config = await this.addBlob(MEDIA[dialect].config, json({
      created: "2020-01-01T00:00:00Z", architecture: "amd64", os: "linux", config: settings,
      rootfs: { type: "layers", diff_ids: layers.map((l) => l.diffId) },
      history: layers.map((_, i) => ({ created: "2020-01-01T00:00:00Z", created_by: `layer ${i + 1}` })),
    }));
    const mediaType = MEDIA[dialect].manifest;
    const manifest = await this.addBlob(mediaType, json({ schemaVersion: 2, mediaType, config, layers: layers.map((l) => l.descriptor) }));
    const entry = { ...manifest, platform: { architecture: "amd64", os: "linux" }, annotations: { "org.opencontainers.image.ref.name": "latest" } };
    await writeFile(join(this.folder, "index.json"), json({ schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [entry] }));
    return manifest;
  }

  /** The descriptor of the one image in it. */
  async manifest(): Promise<Descriptor> {
    const index: { manifests: Descriptor[] } = JSON.parse(await readFile(join(this.folder, "index.json"), "utf8"));
    return index.manifests[0]!;
  }

  /** Pushes the image as `repository:tag` to the registry at `host` (over HTTP). Returns the reference. `headers`: authorization. */
  async push(host: string, repository: string, tag = "latest", headers: Record<string, string> = {}): Promise<string> {
    const { digest } = await this.manifest();
    const body = await readFile(this.blobPath(digest));
    const manifest: Manifest = JSON.parse(body.toString());
    const base = `http://${host}/v2/${repository}`;
    for (const blob of [...manifest.layers, manifest.config]) await this.pushBlob(base, blob.digest, headers);
    const put = await fetch(`${base}/manifests/${tag}`, { method: "PUT", body, headers: { ...headers, "content-type": manifest.mediaType } });
    if (put.status !== 201) throw new Error(`Cannot push ${repository}:${tag} to ${host}: ${put.status} ${await put.text()}`);
    return `${host}/${repository}:${tag}`;
  }

  private async pushBlob(base: string, digest: string, headers: Record<string, string>): Promise<void> {
    const there = await fetch(`${base}/blobs/${digest}`, { method: "HEAD", headers });
    if (there.ok) return;
    const upload = await fetch(`${base}/blobs/uploads/`, { method: "POST", headers });
    const location = upload.headers.get("location");
    if (upload.status !== 202 || location === null) throw new Error(`Cannot push to ${base}: ${upload.status} ${await upload.text()}`);
    const url = new URL(location, base);
    url.searchParams.set("digest", digest);
    const put = await fetch(url, { method: "PUT", body: await readFile(this.blobPath(digest)), headers: { ...headers, "content-type": "application/octet-stream" } });
    if (put.status !== 201) throw new Error(`Cannot push ${digest} to ${base}: ${put.status} ${await put.text()}`);
  }
}
