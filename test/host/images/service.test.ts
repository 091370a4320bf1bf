// The image service with a real registry, and the flights of pulls.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { image } from "../../support/images.ts";
import { OciLayout } from "../../support/oci.ts";
import { Registry } from "../../support/registry.ts";
import { FAILURE, failing } from "../../support/failing.ts";
import { TempDir } from "../../support/paths.ts";
import { until } from "../../support/until.ts";
import { SharedFlights } from "../../../src/host/images/shared.ts";
import { Images, random, tinyImage } from "./harness.ts";
import { listImage } from "./mounted.ts";
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
    const together = Promise.withResolvers<void>();
    await using registry = new Unruly(many, async ({ path }) => {
      if (!layers.has(path.split("/").at(-1)!)) return null;
      most = Math.max(most, ++now);
      // None is answered before three are there, and whoever was sent with them: another question comes after those.
      if (now === 3) void fetch(registry.url).then(() => together.resolve());
      await together.promise;
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

  test("a name that is pulled again while its pull is being called off is pulled anew", async () => {
    let stuck = true;
    await using registry = new Unruly(small, ({ path }) => (stuck && path.endsWith(small.layers[0]![0]) ? new Promise(() => {}) : null));
    await using images = new Images();
    (await images.service.pull({ name: registry.repository }))._unsafeUnwrap();
    await until("the layer to be asked for", () => registry.asked.some((path) => path.endsWith(small.layers[0]![0])));
    stuck = false;
    const removed = images.service.remove(registry.repository), again = images.service.pull({ name: registry.repository });
    (await removed)._unsafeUnwrap();
    expect((await again)._unsafeUnwrap()).toMatchObject({ status: "pending" });
    expect((await images.service.settled(registry.repository))._unsafeUnwrap()).toMatchObject({ status: "ready" });
  });

  test("a pull that failed as it joined a flight hears nothing of it: it stays failed, whatever becomes of others", async () => {
    await using registry = new Unruly(small);
    registry.put("other", small.manifest, "application/vnd.oci.image.manifest.v1+json");
    await using images = new Images();
    // The second write of a name whose digest is known: that of the flight's own state.
    images.store.db.run("CREATE TEMP TABLE written (name TEXT)");
    images.store.db.run(`CREATE TEMP TRIGGER full BEFORE INSERT ON image_names WHEN NEW.name LIKE '%:latest' AND NEW.status = 'pulling' AND NEW.digest <> '' BEGIN
      SELECT RAISE(ABORT, 'database or disk is full') WHERE EXISTS (SELECT 1 FROM written); INSERT INTO written VALUES (NEW.name); END`);
    expect(await images.pulled(registry.repository)).toMatchObject({ status: "failed", error: expect.stringContaining("disk is full") });
    images.store.db.run("DROP TRIGGER full");
    expect(await images.pulled(`${registry.repository}:other`)).toMatchObject({ status: "ready" });
    expect(images.service.get(registry.repository)._unsafeUnwrap().status).toBe("failed");
  });

  test("a flight begins only once one of its key that was called off has cleaned up", async () => {
    const flights = new SharedFlights<string>(), log: string[] = [], cleaned = Promise.withResolvers<void>();
    const first = new AbortController(), second = new AbortController(), third = new AbortController();
    const leaves = flights.join("k", first.signal, async (signal) => {
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      log.push("cleans up");
      await cleaned.promise;
      log.push("has cleaned up");
      throw signal.reason;
    });
    first.abort(new Error("gone"));
    const never = flights.join("k", second.signal, async () => (log.push("never begins"), "second"));
    second.abort(new Error("gone too"));
    const anew = flights.join("k", third.signal, async () => (log.push("begins"), "third"));
    await until("the first to clean up", () => log.length > 0);
    expect(log).toEqual(["cleans up"]);
    cleaned.resolve();
    expect(await Promise.allSettled([leaves, never, anew])).toMatchObject([{ reason: { message: "gone" } }, { reason: { message: "gone too" } }, { value: "third" }]);
    expect(log).toEqual(["cleans up", "has cleaned up", "begins"]);
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
