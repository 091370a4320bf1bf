// What is kept of images, over restarts of the daemon and over what goes wrong.
import { describe, expect, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { until } from "../../support/until.ts";
import { Images, random, tinyImage } from "./harness.ts";
import { sha256 } from "./mounted.ts";
import { file } from "./tar-builder.ts";
import { Unruly } from "./unruly.ts";

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
