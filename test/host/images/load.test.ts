// Images from files: OCI layouts as folder and tar, and both shapes of `docker save`.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, cpSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { command } from "../../support/command.ts";
import { TempDir } from "../../support/paths.ts";
import { Images, tinyImage, type TinyImage } from "./harness.ts";
import { listImage, sha256 } from "./mounted.ts";
import { dir, file, hardlink, symlink, tar, type Made } from "./tar-builder.ts";

let temp: TempDir;
beforeAll(() => void (temp = new TempDir("load")));
afterAll(() => temp[Symbol.dispose]());

const base: Made[] = [dir("etc"), file("etc/a", "lower")];
const upper: Made[] = [file("etc/b", "upper")];
const image = tinyImage([base, upper]);
const INDEX = "application/vnd.oci.image.index.v1+json", MANIFEST = "application/vnd.oci.image.manifest.v1+json";

/** An OCI layout; `entries` are the index's, a name each. */
function layout(name: string, images: readonly { image: TinyImage; annotations?: Record<string, string>; platform?: object }[]): string {
  const root = temp.join(name);
  mkdirSync(`${root}/blobs/sha256`, { recursive: true });
  const put = (digest: string, bytes: Uint8Array): void => writeFileSync(`${root}/blobs/${digest.replace(":", "/")}`, bytes);
  for (const { image: one } of images) {
    for (const [digest, bytes] of one.blobs) put(digest, bytes);
    put(one.digest, one.manifest);
  }
  writeFileSync(`${root}/oci-layout`, `{"imageLayoutVersion":"1.0.0"}`);
  const manifests = images.map(({ image: one, annotations, platform }) => ({ mediaType: MANIFEST, digest: one.digest, size: one.manifest.length, ...(annotations ? { annotations } : {}), ...(platform ? { platform } : {}) }));
  writeFileSync(`${root}/index.json`, JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests }));
  return root;
}

/** What `docker save` wrote before OCI: a folder a layer, repeated layers as symbolic links. */
function saved(name: string, layers: readonly (readonly Made[])[], tags: readonly string[], wrap: (layer: Buffer) => Uint8Array = (layer) => layer): Buffer {
  const tars = layers.map((entries) => tar(entries));
  const config = Buffer.from(JSON.stringify({ architecture: "amd64", os: "linux", config: { Cmd: ["/saved"] }, rootfs: { type: "layers", diff_ids: tars.map(sha256) } }));
  const configName = `${sha256(config).slice(7)}.json`;
  const paths = tars.map((_, i) => `${i}${name}/layer.tar`);
  const members = tars.flatMap((bytes, i): Made[] => {
    const before = tars.findIndex((other) => other.equals(bytes));
    return [dir(`${i}${name}/`), before < i ? symlink(paths[i]!, `../${before}${name}/layer.tar`) : file(paths[i]!, wrap(bytes))];
  });
  return tar([...members, file(configName, config), file("manifest.json", JSON.stringify([{ Config: configName, RepoTags: tags, Layers: paths }])), file("repositories", "{}")]);
}

async function loaded(path: string, name?: string) {
  const images = new Images();
  const started = await images.service.load(path, name);
  if (started.isErr()) return { images, error: started.error.message, code: started.error.code, record: null };
  return { images, error: null, code: null, record: (await images.service.settled(started.value.name))._unsafeUnwrap() };
}

/** The names in the image that comes out. */
async function content(path: string, name?: string): Promise<{ name: string; digest: string; paths: string[] }> {
  const { images, record, error } = await loaded(path, name);
  await using _ = images;
  expect({ error, status: record?.status, why: record?.error }).toEqual({ error: null, status: "ready", why: null });
  const { rootfsPath } = images.service.ready(record!.name)._unsafeUnwrap();
  expect(readdirSync(images.temp.join("images/tmp"))).toEqual([]);
  return { name: record!.name, digest: record!.digest, paths: Object.keys(await listImage(rootfsPath)).sort() };
}

const bothLayers = ["", "etc", "etc/a", "etc/b"];

describe("OCI layouts", () => {
  test("a folder, named by its annotation or by who loads it", async () => {
    const root = layout("one", [{ image, annotations: { "org.opencontainers.image.ref.name": "v3" } }]);
    expect(await content(root)).toEqual({ name: "docker.io/library/one:v3", digest: image.digest, paths: bothLayers });
    expect(await content(root, "mine:v1")).toEqual({ name: "docker.io/library/mine:v1", digest: image.digest, paths: bothLayers });
    const whole = layout("two", [{ image, annotations: { "io.containerd.image.name": "ghcr.io/a/b:c", "org.opencontainers.image.ref.name": "c" } }]);
    expect(await content(whole)).toMatchObject({ name: "ghcr.io/a/b:c" });
    expect(await content(layout("Un Named", [{ image }]))).toMatchObject({ name: "docker.io/library/un-named:latest" });
  });

  test("a tar of it, plain, gzip and zstd", async () => {
    const root = layout("packed", [{ image }]);
    const path = temp.join("packed.tar");
    await command(["tar", "-C", root, "-cf", path, "."]);
    const bytes = Buffer.from(await Bun.file(path).bytes());
    writeFileSync(temp.join("packed.tar.gz"), gzipSync(bytes));
    writeFileSync(temp.join("packed.tar.zst"), zstdCompressSync(bytes));
    for (const name of ["packed.tar", "packed.tar.gz", "packed.tar.zst"]) expect(await content(temp.join(name))).toEqual({ name: "docker.io/library/packed:latest", digest: image.digest, paths: bothLayers });
  });

  test("several platforms: ours is taken", async () => {
    const arm = tinyImage([[file("arm")]], { architecture: "arm64" });
    const root = layout("platforms", [{ image: arm, platform: { os: "linux", architecture: "arm64" } }, { image, platform: { os: "linux", architecture: "amd64" } }]);
    expect(await content(root)).toMatchObject({ digest: image.digest });
  });

  test("several images: one must be named", async () => {
    const other = tinyImage([[file("other")]]);
    const root = layout("several", [{ image, annotations: { "org.opencontainers.image.ref.name": "x/a:1" } }, { image: other, annotations: { "org.opencontainers.image.ref.name": "x/b:1" } }]);
    const { images, error, code } = await loaded(root);
    await using _ = images;
    expect(code).toBe("request.bad");
    expect(error).toContain("docker.io/x/a:1, docker.io/x/b:1");
    expect(await content(root, "x/b:1")).toMatchObject({ digest: other.digest, paths: ["", "other"] });
  });
});

describe("docker save", () => {
  test("the old shape, with a repeated layer as a link", async () => {
    writeFileSync(temp.join("old.tar"), saved("x", [base, upper, base], ["saved:v1"]));
    const first = await content(temp.join("old.tar"));
    expect(first).toMatchObject({ name: "docker.io/library/saved:v1", paths: bothLayers });
    expect(await content(temp.join("old.tar"), "again")).toMatchObject({ digest: first.digest });
  });

  test("layers that somebody compressed", async () => {
    writeFileSync(temp.join("zipped.tar"), saved("z", [base, upper], ["zipped"], gzipSync));
    expect(await content(temp.join("zipped.tar"))).toMatchObject({ name: "docker.io/library/zipped:latest", paths: bothLayers });
  });

  test("several tags are several names", async () => {
    writeFileSync(temp.join("tags.tar"), saved("t", [base], ["tags:v1", "tags:v2"]));
    const { images, record } = await loaded(temp.join("tags.tar"));
    await using _ = images;
    expect(record?.status).toBe("ready");
    (await images.service.settled("tags:v2"))._unsafeUnwrap();
    expect(images.service.list().map(({ name, status }) => [name, status])).toEqual([["docker.io/library/tags:v1", "ready"], ["docker.io/library/tags:v2", "ready"]]);
  });

  test("members by hard link are found", async () => {
    const [layer, config] = [tar(base), Buffer.from(JSON.stringify({ architecture: "amd64", os: "linux", rootfs: { type: "layers", diff_ids: [sha256(tar(base))] } }))];
    writeFileSync(temp.join("hard.tar"), tar([file("a/layer.tar", layer), hardlink("b/layer.tar", "a/layer.tar"), file("c.json", config), file("manifest.json", JSON.stringify([{ Config: "c.json", RepoTags: null, Layers: ["b/layer.tar"] }]))]));
    expect(await content(temp.join("hard.tar"))).toMatchObject({ name: "docker.io/library/hard:latest", paths: ["", "etc", "etc/a"] });
  });
});

describe("what can't be loaded", () => {
  const refused = async (path: string, name?: string): Promise<string> => {
    const { images, error, record } = await loaded(path, name);
    await using _ = images;
    expect(images.files()).toEqual([]);
    return error ?? record?.error ?? "loaded";
  };

  test("nothing there, a relative path, and what is no image", async () => {
    expect(await refused(temp.join("none.tar"))).toContain("no such file");
    expect(await refused("relative.tar")).toContain("must be absolute");
    writeFileSync(temp.join("plain.tar"), tar([file("hello")]));
    expect(await refused(temp.join("plain.tar"))).toContain("neither an OCI layout");
    writeFileSync(temp.join("junk"), "junk ".repeat(1000));
    expect(await refused(temp.join("junk"))).toContain("checksum");
    expect(await refused(temp.join("plain.tar"), "No Name")).toContain("No Name");
  });

  test("a truncated archive", async () => {
    const whole = saved("tr", [base, upper], ["tr"]);
    writeFileSync(temp.join("truncated.tar"), whole.subarray(0, 3000));
    expect(await refused(temp.join("truncated.tar"))).toMatch(/truncated|neither/);
    writeFileSync(temp.join("truncated.tar.gz"), gzipSync(whole).subarray(0, 400));
    expect(await refused(temp.join("truncated.tar.gz"))).toMatch(/damaged|truncated/);
  });

  test("a blob that was changed, and one that is missing", async () => {
    const root = layout("damaged", [{ image }]);
    const blob = `${root}/blobs/${image.layers[0]![0].replace(":", "/")}`;
    cpSync(root, temp.join("missing"), { recursive: true });
    copyFileSync(`${root}/index.json`, blob);
    expect(await refused(root)).toContain("the file is damaged");
    await command(["rm", `${temp.join("missing")}/blobs/${image.layers[1]![0].replace(":", "/")}`]);
    expect(await refused(temp.join("missing"))).toContain("is missing in it");
  });

  test("an archive that unpacks without end", async () => {
    writeFileSync(temp.join("bomb.tar.gz"), gzipSync(tar([file("index.json", new Uint8Array(4 << 20))])));
    await using images = new Images({ limits: { maxBytes: 1 << 20 } });
    expect((await images.service.load(temp.join("bomb.tar.gz")))._unsafeUnwrapErr().code).toBe("image.too_large");
    expect(images.files()).toEqual([]);
  });

  test("names that lead out of a layout's folder", async () => {
    const root = temp.join("outside");
    mkdirSync(root);
    writeFileSync(temp.join("secret.json"), "{}");
    writeFileSync(`${root}/manifest.json`, JSON.stringify([{ Config: "../secret.json", RepoTags: ["x"], Layers: [] }]));
    expect(await refused(root)).toContain("../secret.json is missing in it");
  });
});
