// The image service with a real registry: names, shared flights, tags, removal, restarts.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { image } from "../../support/images.ts";
import { OciLayout } from "../../support/oci.ts";
import { Registry } from "../../support/registry.ts";
import { FAILURE, failing } from "../../support/failing.ts";
import { TempDir } from "../../support/paths.ts";
import { until } from "../../support/until.ts";
import { mkdirSync, writeFileSync } from "node:fs";
import { Images, random, tinyImage } from "./harness.ts";
import { listImage, sha256 } from "./mounted.ts";
import { file } from "./tar-builder.ts";
import { Unruly } from "./unruly.ts";

describe("with docker-registry", () => {
  let registry: Registry;
  let temp: TempDir;
  const layouts = new Map<string, string>();

  /** A small image pushed as `name`, with this text in it. */
  async function push(name: string, text: string, compression: "gzip" | "zstd" | "none" = "gzip", dialect: "oci" | "docker" = "oci"): Promise<string> {
    const root = temp.join(`root-${name}-${text}`);
    mkdirSync(root, { recursive: true });
    writeFileSync(`${root}/text`, text);
    const layout = await OciLayout.create(temp.join(`layout-${name}-${text}`));
    await layout.finish([await layout.addFolder(root, compression, dialect)], { Cmd: ["/text"], Env: ["A=b"], Labels: { l: "1" } }, dialect);
    layouts.set(name, layout.folder);
    return layout.push(registry.host, name);
  }

  beforeAll(async () => {
    temp = new TempDir("pushed");
    registry = await Registry.start();
  });
  afterAll(async () => {
    await registry.stop();
    temp[Symbol.dispose]();
  });

  test("pull() makes real images ready, with their configuration", async () => {
    await using images = new Images();
    const busybox = await (await image("busybox")).push(registry.host, "real/busybox");
    const record = await images.pulled(busybox, { tags: { team: "x" } });
    expect(record).toMatchObject({ name: busybox, status: "ready", error: null, platform: "linux/amd64", tags: { team: "x" }, progress: null, queuePosition: null });
    const ready = images.service.ready(busybox)._unsafeUnwrap();
    expect(record.sizeBytes).toBe(Bun.file(ready.rootfsPath).size);
    const listed = await listImage(ready.rootfsPath);
    expect(listed["bin/busybox"] ?? listed["usr/bin/busybox"]).toMatchObject({ uid: 0, gid: 0 });
    expect(images.service.usage()).toMatchObject({ images: 1, rootfsBytes: record.sizeBytes! });
  });

  test("several layers with whiteouts, hard links, volumes, a user and an entrypoint", async () => {
    await using images = new Images();
    const name = await (await image("layers")).push(registry.host, "real/layers");
    expect(await images.pulled(name)).toMatchObject({ status: "ready" });
    const { config, rootfsPath } = images.service.ready(name)._unsafeUnwrap();
    const listed = await listImage(rootfsPath);
    expect(Object.keys(listed).filter((path) => /(^|\/)\.wh\./.test(path))).toEqual([]);
    expect(Object.values(listed).some((entry) => (entry.nlink ?? 1) > 1)).toBe(true);
    expect(config.volumes.length).toBeGreaterThan(0);
    expect({ user: config.user !== null, entrypoint: config.entrypoint !== null }).toEqual({ user: true, entrypoint: true });
  });

  for (const compression of ["gzip", "zstd", "none"] as const)
    for (const dialect of ["oci", "docker"] as const)
      test(`layers with ${compression}, media types of ${dialect}`, async () => {
        await using images = new Images();
        const name = await push(`kinds-${compression}-${dialect}`, "same", compression, dialect);
        expect(await images.pulled(name)).toMatchObject({ status: "ready" });
        const { config, rootfsPath } = images.service.ready(name)._unsafeUnwrap();
        expect((await listImage(rootfsPath))["text"]).toMatchObject({ size: 4 });
        expect(config).toEqual({ entrypoint: null, cmd: ["/text"], env: ["A=b"], workingDir: null, user: null, volumes: [], stopSignal: null, exposedPorts: [], labels: { l: "1" } });
      });

  test("a tag that moves is pulled again, and the old digest serves an instance until it lets go", async () => {
    await using images = new Images();
    const name = await push("moving", "one");
    const first = await images.pulled(name);
    expect((await images.service.pull({ name }))._unsafeUnwrap()).toMatchObject({ status: "ready", digest: first.digest });
    await push("moving", "two");
    images.used.add(first.digest);
    const second = await images.pulled(name);
    expect(second).toMatchObject({ status: "ready", createdAt: first.createdAt });
    expect(second.digest).not.toBe(first.digest);
    expect(images.service.ready(first.digest)._unsafeUnwrap().record).toMatchObject({ digest: first.digest, status: "ready" });
    images.used.clear();
    const other = await push("moving-other", "three");
    await images.pulled(other);
    expect(images.service.ready(first.digest)._unsafeUnwrapErr().code).toBe("image.not_found");
  });

  test("the registry killed in the middle is a clear error, and the image that was ready stays so", async () => {
    const mortal = await Registry.start();
    await using images = new Images({ limits: { attempts: 2 } });
    const layout = OciLayout.open(layouts.get("kinds-gzip-oci")!);
    const name = await layout.push(mortal.host, "mortal");
    const before = await images.pulled(name);
    await mortal.stop();
    expect((await images.service.pull({ name }))._unsafeUnwrapErr().code).toBe("registry.unreachable");
    expect(images.service.get(name)._unsafeUnwrap()).toEqual(before);
    expect(await images.pulled(`${mortal.host}/other`)).toMatchObject({ status: "failed", error: expect.stringContaining("cannot reach") });
  });
});

test("basic authentication of docker-registry", async () => {
  await using registry = await Registry.start({ credentials: { username: "me", password: "geheim" } });
  const authorization = `Basic ${Buffer.from("me:geheim").toString("base64")}`;
  const name = await (await image("busybox")).push(registry.host, "private/busybox", "latest", { authorization });
  await using images = new Images();
  expect(await images.pulled(name)).toMatchObject({ status: "failed", error: expect.stringContaining("user name and a password") });
  expect(await images.pulled(name, { credentials: { username: "me", password: "falsch" } })).toMatchObject({ status: "failed", error: expect.stringContaining("denied") });
  expect(await images.pulled(name, { credentials: { username: "me", password: "geheim" } })).toMatchObject({ status: "ready" });
});

test("a database that fails in the middle of a pull is told of, and the next pull brings the image", async () => {
  await using registry = new Unruly(tinyImage([[file("noise", random(2_000))]]));
  const told: string[] = [];
  await using images = new Images({ failed: (what, error) => void told.push(`${what}: ${String(error)}`) });
  const name = registry.repository;
  (await images.service.pull({ name }))._unsafeUnwrap();
  const settled = images.service.settled(name);
  {
    using _ = failing(images.store.db);
    expect((await settled)._unsafeUnwrapErr().message).toContain(FAILURE);
  }
  expect(told).toEqual([`record how the pull of ${name}:latest has ended: Error: ${FAILURE}`]);
  expect(images.service.get(name)._unsafeUnwrap().status).not.toBe("ready");
  expect(await images.pulled(name)).toMatchObject({ status: "ready" });
});

describe("flights", () => {
  const small = tinyImage([[file("noise", random(200_000))]]);

  test("a hundred pulls of one image are one pull, and one conversion", async () => {
    await using registry = new Unruly(small);
    registry.put("other", small.manifest, "application/vnd.oci.image.manifest.v1+json");
    await using images = new Images({ limits: { pulls: 200 } });
    const names = [registry.repository, `${registry.repository}:other`, `${registry.repository}@${small.digest}`];
    for (let i = 0; i < 100; i++) expect((await images.service.pull({ name: names[i % 3]! })).isOk()).toBe(true);
    for (const name of names) expect((await images.service.settled(name))._unsafeUnwrap()).toMatchObject({ status: "ready", digest: small.digest });
    expect(registry.asked.filter((path) => path.includes("blobs")).sort()).toEqual([...small.blobs.keys()].map((digest) => `/v2/x/y/blobs/${digest}`).sort());
    expect(images.service.usage().images).toBe(1);
  });

  test("images that share a layer download it once", async () => {
    const [a, b] = [tinyImage([[file("base", random(100_000).fill(7))], [file("a")]]), tinyImage([[file("base", random(100_000).fill(7))], [file("b")]])];
    await using registry = new Unruly(a);
    registry.add("b", b);
    await using images = new Images();
    await Promise.all([images.pulled(registry.repository), images.pulled(`${registry.repository}:b`)]);
    expect(registry.asked.filter((path) => path.endsWith(a.layers[0]![0])).length).toBe(1);
  });

  test("states and progress are seen in their order, and the queue has positions", async () => {
    const gate = Promise.withResolvers<void>();
    await using registry = new Unruly(small, async ({ path }) => (path.endsWith(small.layers[0]![0]) ? (await gate.promise, null) : null));
    registry.add("second", tinyImage([[file("second")]]));
    await using images = new Images({ limits: { pulls: 1 } });
    const seen: string[] = [];
    (await images.service.pull({ name: registry.repository }))._unsafeUnwrap();
    const settled = images.service.settled(registry.repository, (record) => seen.push(record.status));
    expect((await images.service.pull({ name: `${registry.repository}:second` }))._unsafeUnwrap()).toMatchObject({ status: "pending" });
    await until("the first to be pulled", () => images.service.get(registry.repository)._unsafeUnwrap().progress?.totalBytes);
    expect(images.service.get(`${registry.repository}:second`)._unsafeUnwrap()).toMatchObject({ status: "pending", queuePosition: 1 });
    expect(images.service.ready(registry.repository)._unsafeUnwrapErr().code).toBe("image.not_ready");
    gate.resolve();
    expect((await settled)._unsafeUnwrap()).toMatchObject({ status: "ready", progress: null });
    expect((await images.service.settled(`${registry.repository}:second`))._unsafeUnwrap()).toMatchObject({ status: "ready", queuePosition: null });
    expect([...new Set(seen)]).toEqual(["pulling", "converting", "ready"]);
  });

  test("layers come concurrently, but not all at once", async () => {
    const many = tinyImage(Array.from({ length: 8 }, (_, i) => [file(`f${i}`, random(1000))]));
    const layers = new Set(many.layers.map(([digest]) => digest));
    let now = 0, most = 0;
    await using registry = new Unruly(many, async ({ path }) => {
      if (!layers.has(path.split("/").at(-1)!)) return null;
      most = Math.max(most, ++now);
      await Bun.sleep(20);
      now--;
      return null;
    });
    await using images = new Images({ limits: { layersAtOnce: 3 } });
    expect(await images.pulled(registry.repository)).toMatchObject({ status: "ready" });
    expect(most).toBe(3);
  });

  test("remove() calls off a pull that is under way; whoever waits is told", async () => {
    await using registry = new Unruly(small, ({ path }) => (path.endsWith(small.layers[0]![0]) ? new Promise(() => {}) : null));
    await using images = new Images();
    (await images.service.pull({ name: registry.repository }))._unsafeUnwrap();
    const settled = images.service.settled(registry.repository);
    await until("the layer to be asked for", () => registry.asked.some((path) => path.endsWith(small.layers[0]![0])));
    (await images.service.remove(registry.repository))._unsafeUnwrap();
    expect((await settled)._unsafeUnwrapErr().code).toBe("image.not_found");
    expect({ list: images.service.list(), files: images.files() }).toEqual({ list: [], files: [] });
  });

  test("one of two names removed in the middle leaves the other its flight", async () => {
    const gate = Promise.withResolvers<void>();
    await using registry = new Unruly(small, async ({ path }) => (path.endsWith(small.layers[0]![0]) ? (await gate.promise, null) : null));
    registry.put("other", small.manifest, "application/vnd.oci.image.manifest.v1+json");
    await using images = new Images();
    for (const tag of ["latest", "other"]) (await images.service.pull({ name: `${registry.repository}:${tag}` }))._unsafeUnwrap();
    await until("both to know their digest", () => images.service.list().every((record) => record.digest === small.digest));
    (await images.service.remove(`${registry.repository}:latest`))._unsafeUnwrap();
    gate.resolve();
    expect((await images.service.settled(`${registry.repository}:other`))._unsafeUnwrap()).toMatchObject({ status: "ready" });
  });
});

describe("names", () => {
  const small = tinyImage();

  test("get() takes a name, a digest, or the beginning of one", async () => {
    await using registry = new Unruly(small);
    await using images = new Images();
    const record = await images.pulled(registry.repository);
    for (const name of [registry.repository, `${registry.repository}:latest`, small.digest, small.digest.slice(0, 20), small.digest.slice(7, 19), `${registry.repository}@${small.digest}`, `elsewhere.example/z@${small.digest}`])
      expect(images.service.get(name)._unsafeUnwrap()).toEqual(record);
    for (const name of ["nginx", "sha256:00000000", "cafecafe"]) expect(images.service.get(name)._unsafeUnwrapErr().code).toBe("image.not_found");
    expect(images.service.get("No Name")._unsafeUnwrapErr().code).toBe("request.bad");
  });

  test("an index is one image under both of its digests", async () => {
    await using registry = new Unruly(small);
    const index = registry.putIndex("latest", [
      { digest: `sha256:${"0".repeat(64)}`, size: 1, platform: { os: "linux", architecture: "arm64" } },
      { digest: small.digest, size: small.manifest.length, platform: { os: "linux", architecture: "amd64" } },
      { digest: `sha256:${"1".repeat(64)}`, size: 1, platform: { os: "unknown", architecture: "unknown" } },
    ]);
    await using images = new Images();
    expect(await images.pulled(registry.repository)).toMatchObject({ status: "ready", digest: small.digest });
    expect(images.service.get(index)._unsafeUnwrap()).toMatchObject({ digest: small.digest });
    const asked = registry.asked.length;
    expect((await images.service.pull({ name: registry.repository }))._unsafeUnwrap()).toMatchObject({ status: "ready" });
    // One look at the tag is all that it takes to know.
    expect(registry.asked.length).toBe(asked + 1);
    // A digest that is ready needs no look at all, whichever of the two it is.
    for (const digest of [index, small.digest]) expect((await images.service.pull({ name: `${registry.repository}@${digest}` }))._unsafeUnwrap()).toMatchObject({ status: "ready", digest: small.digest });
    expect(registry.asked.length).toBe(asked + 1);
  });

  test("tag() gives a further name, and remove() takes one at a time", async () => {
    await using registry = new Unruly(small);
    await using images = new Images();
    await images.pulled(registry.repository);
    expect(images.service.tag(registry.repository, "mine:v1")._unsafeUnwrap()).toMatchObject({ name: "docker.io/library/mine:v1", status: "ready", digest: small.digest });
    expect(images.service.tag(registry.repository, `mine@${small.digest}`)._unsafeUnwrapErr().code).toBe("request.bad");
    expect(images.service.tag("none", "mine")._unsafeUnwrapErr().code).toBe("image.not_found");
    (await images.service.remove(registry.repository))._unsafeUnwrap();
    expect(images.service.list().map((record) => record.name)).toEqual(["docker.io/library/mine:v1"]);
    expect(images.service.ready("mine:v1").isOk()).toBe(true);
    (await images.service.remove("mine:v1"))._unsafeUnwrap();
    expect(images.files()).toEqual([]);
  });

  test("remove() by digest takes all names", async () => {
    await using registry = new Unruly(small);
    await using images = new Images();
    await images.pulled(registry.repository);
    images.service.tag(registry.repository, "mine")._unsafeUnwrap();
    (await images.service.remove(small.digest))._unsafeUnwrap();
    expect({ list: images.service.list(), files: images.files() }).toEqual({ list: [], files: [] });
  });

  test("remove() refuses while an instance uses the image, and is told apart from nothing to remove", async () => {
    await using registry = new Unruly(small);
    await using images = new Images();
    await images.pulled(registry.repository);
    images.used.add(small.digest);
    expect((await images.service.remove(registry.repository))._unsafeUnwrapErr()).toMatchObject({ code: "image.in_use", message: expect.stringContaining("the instance web uses it") });
    expect((await images.service.remove(small.digest))._unsafeUnwrapErr().code).toBe("image.in_use");
    expect(images.service.ready(registry.repository).isOk()).toBe(true);
    images.used.clear();
    expect((await images.service.remove(registry.repository)).isOk()).toBe(true);
    expect((await images.service.remove(registry.repository))._unsafeUnwrapErr().code).toBe("image.not_found");
  });

  test("list() filters by tags, which a repeated pull may change", async () => {
    await using registry = new Unruly(small);
    registry.add("b", tinyImage([[file("b")]]));
    await using images = new Images();
    await images.pulled(registry.repository, { tags: { team: "x", env: "prod" } });
    await images.pulled(`${registry.repository}:b`, { tags: { team: "y" } });
    const found = (tags: Record<string, string>) => images.service.list({ tags }).map((record) => record.name.split(":").at(-1));
    expect([found({}), found({ team: "x" }), found({ team: "x", env: "dev" })]).toEqual([["b", "latest"], ["latest"], []]);
    (await images.service.pull({ name: registry.repository, tags: { team: "z" } }))._unsafeUnwrap();
    expect(found({ team: "z" })).toEqual(["latest"]);
  });

  test("pull() refuses other platforms and malformed names, and records nothing", async () => {
    await using images = new Images();
    expect((await images.service.pull({ name: "nginx", platform: "linux/arm64" }))._unsafeUnwrapErr().code).toBe("platform.invalid");
    expect((await images.service.pull({ name: "No Name" }))._unsafeUnwrapErr().code).toBe("request.bad");
    expect(images.service.list()).toEqual([]);
  });
});

describe("what is kept", () => {
  const layered = tinyImage([[file("a", random(10_000))], [file("b", random(10_000))]]);
  const files = (digest: string): string => digest.replace(":", "/");

  test("layers stay in the cache as far as it reaches", async () => {
    await using registry = new Unruly(layered);
    await using images = new Images({ limits: { layerCacheBytes: 15_000 } });
    await images.pulled(registry.repository);
    const blobs = images.files().filter((name) => name.startsWith("blobs/"));
    expect(blobs.length).toBe(3);
    expect(blobs).toContain(`blobs/${files(layered.digest)}`);
    expect(blobs).toContain(`blobs/${files(layered.configDigest)}`);
  });

  test("a restart finds ready images again, and throws away what no record knows", async () => {
    await using registry = new Unruly(layered);
    await using images = new Images();
    const record = await images.pulled(registry.repository);
    const before = images.files();
    for (const stray of ["tmp/stray", `rootfs/${"0".repeat(64)}.erofs`, `blobs/sha256/${"0".repeat(64)}`, `blobs/sha256/${"1".repeat(64)}.part`]) writeFileSync(images.temp.join("images", stray), "x");
    await images.restart();
    expect(images.service.list()).toEqual([record]);
    expect(images.files()).toEqual(before);
  });

  test("a root file system that was removed behind our back is told, and pulled again", async () => {
    await using registry = new Unruly(layered);
    await using images = new Images();
    await images.pulled(registry.repository);
    rmSync(images.service.ready(registry.repository)._unsafeUnwrap().rootfsPath);
    expect(images.service.ready(registry.repository)._unsafeUnwrapErr().code).toBe("image.not_ready");
    await images.restart();
    expect(images.service.get(registry.repository)._unsafeUnwrap()).toMatchObject({ status: "failed", error: expect.stringContaining("pull it again") });
    expect(await images.pulled(registry.repository)).toMatchObject({ status: "ready", error: null });
  });

  test("a newer image that can't be had leaves the older one ready, and says why", async () => {
    await using registry = new Unruly(layered);
    await using images = new Images();
    const first = await images.pulled(registry.repository);
    registry.add("latest", tinyImage([[file("never")]]));
    registry.rule = ({ path }) => (path.includes("blobs") ? new Response("{}", { status: 404 }) : null);
    const after = await images.pulled(registry.repository);
    expect(after).toMatchObject({ status: "ready", digest: first.digest, error: expect.stringContaining("no blob") });
    expect(images.service.ready(registry.repository).isOk()).toBe(true);
  });

  test("a registry that stays silent about a ready image is given up soon, and the image stays ready", async () => {
    await using registry = new Unruly(layered);
    await using images = new Images({ limits: { lookUpMs: 100 } });
    const before = await images.pulled(registry.repository);
    registry.rule = () => new Promise(() => {});
    expect((await images.service.pull({ name: registry.repository }))._unsafeUnwrapErr()).toMatchObject({ code: "registry.unreachable", message: expect.stringContaining("still ready") });
    expect(images.service.get(registry.repository)._unsafeUnwrap()).toEqual(before);
  });

  test("a pull that the daemon's end interrupts goes on with the next, from where it was", async () => {
    const large = tinyImage([[file("noise", random(3 << 20))]]);
    const [digest, bytes] = large.layers[0]!;
    let held = true;
    const ranges: (string | null)[] = [];
    await using registry = new Unruly(large, ({ path, range }) => {
      if (!path.endsWith(digest)) return null;
      ranges.push(range);
      return held ? new Response(new ReadableStream({ start: (controller) => controller.enqueue(bytes.subarray(0, 1 << 20)) })) : null;
    });
    await using images = new Images();
    (await images.service.pull({ name: registry.repository }))._unsafeUnwrap();
    await until("a megabyte", () => (images.service.get(registry.repository)._unsafeUnwrap().progress?.doneBytes ?? 0) >= 1 << 20);
    held = false;
    await images.restart();
    expect((await images.service.settled(registry.repository))._unsafeUnwrap()).toMatchObject({ status: "ready" });
    expect(ranges).toEqual([null, `bytes=${1 << 20}-`]);
    expect(sha256(bytes)).toBe(digest);
  });

  test("an interrupted pull with the request's credentials fails, because they are not kept", async () => {
    await using registry = new Unruly(layered, ({ path }) => (path.includes("blobs") ? new Promise(() => {}) : null));
    await using images = new Images();
    (await images.service.pull({ name: registry.repository, credentials: { username: "me", password: "hunter2" } }))._unsafeUnwrap();
    await until("the pull to begin", () => registry.asked.length > 1);
    await images.restart();
    expect(images.service.get(registry.repository)._unsafeUnwrap()).toMatchObject({ status: "failed", error: expect.stringContaining("credentials are not kept") });
    expect(images.files()).toEqual([]);
  });
});
