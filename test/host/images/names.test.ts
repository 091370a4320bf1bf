// Names of images: given, asked for, taken away.
import { describe, expect, test } from "bun:test";
import { Images, tinyImage } from "./harness.ts";
import { file } from "./tar-builder.ts";
import { Unruly } from "./unruly.ts";

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
