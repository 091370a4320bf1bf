import { describe, expect, test } from "bun:test";
import { closeSync, openSync, renameSync, statSync, truncateSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { Res } from "../../../src/errors.ts";
import { failing } from "../../support/failing.ts";
import { instance, MIB, mount, snapshot, wanted, World } from "./world.ts";

const code = (result: Res<unknown>) => result._unsafeUnwrapErr().code;
const words = (result: Res<unknown>) => result._unsafeUnwrapErr().message;
const fsck = (path: string) => Bun.spawn(["e2fsck", "-fn", path], { stdout: "ignore", stderr: "ignore" }).exited;

describe("volumes", () => {
  test("create, get by id, name and prefix, list by tags, delete", async () => {
    using world = new World();
    const { volumes } = world;
    const made = (await volumes.create(wanted("data", { tags: { team: "web" } })))._unsafeUnwrap();
    expect(made).toEqual({ id: made.id, name: "data", sizeBytes: 64 * MIB, createdAt: made.createdAt, tags: { team: "web" }, attachments: [] });
    const other = (await volumes.create(wanted("logs", { id: "my-logs" })))._unsafeUnwrap();
    for (const ref of [made.id, "data", made.id.slice(0, 8)]) expect(volumes.get(ref)._unsafeUnwrap()).toEqual(made);
    expect(volumes.get("my-l")._unsafeUnwrap()).toEqual(other);
    expect(volumes.list()).toEqual([made, other]);
    expect(volumes.list({ team: "web" })).toEqual([made]);
    const file = join(world.dir, made.id, "data.ext4");
    expect(statSync(file).size).toBe(64 * MIB);
    expect(statSync(file).blocks * 512).toBeLessThan(8 * MIB);
    expect(await fsck(file)).toBe(0);
    volumes.remove("data")._unsafeUnwrap();
    expect(code(volumes.get(made.id))).toBe("volume.not_found");
    expect(code(volumes.remove("data"))).toBe("volume.not_found");
    expect(world.folders()).toEqual(["my-logs"]);
    world.reopen();
    expect(world.volumes.list()).toEqual([other]);
  });

  test("names and ids are one's alone, also while one is being made", async () => {
    using world = new World();
    const { volumes } = world;
    const [first, second] = await Promise.all([volumes.create(wanted("data", { id: "one" })), volumes.create(wanted("data"))]);
    expect(first.isOk()).toBe(true);
    expect(code(second)).toBe("volume.already_exists");
    for (const request of [wanted("data"), wanted("other", { id: "one" }), wanted("one"), wanted("other", { id: "data" })]) expect(code(await volumes.create(request))).toBe("volume.already_exists");
    expect(world.folders()).toEqual(["one"]);
    (await volumes.create(wanted("other")))._unsafeUnwrap();
  });

  test.each([
    ["name.invalid", wanted("Data")], ["name.invalid", wanted("")], ["name.invalid", wanted("a".repeat(64))], ["request.bad", wanted("a", { id: "../x" })], ["request.bad", wanted("a", { id: "" })],
    ["size.invalid", wanted("a", { sizeBytes: 0 })], ["size.invalid", wanted("a", { sizeBytes: 63 * MIB })], ["size.invalid", wanted("a", { sizeBytes: 64 * MIB + 1 })], ["size.invalid", wanted("a", { sizeBytes: Number.NaN })], ["size.invalid", wanted("a", { sizeBytes: 16 * 2 ** 40 })],
  ] as const)("%s: %j", async (expected, request) => {
    using world = new World();
    expect(code(await world.volumes.create(request))).toBe(expected);
    expect(world.folders()).toEqual([]);
  });

  test("made() finds what the very same request has made", async () => {
    using world = new World();
    const made = (await world.volumes.create(wanted("data", { tags: { a: "b" } })))._unsafeUnwrap();
    expect(world.volumes.made(wanted("data", { tags: { a: "b" } }))).toEqual(made);
    for (const other of [wanted("data"), wanted("data", { tags: { a: "b" }, sizeBytes: 128 * MIB }), wanted("data", { tags: { a: "b" }, id: "x" }), wanted("more")]) expect(world.volumes.made(other)).toBeNull();
  });

  test("what fails leaves nothing", async () => {
    using world = new World({ mkfs: "mkfs.nonesuch" });
    expect(code(await world.volumes.create(wanted("data")))).toBe("host.storage");
    expect([world.folders(), world.parts(), world.volumes.list()]).toEqual([[], [], []]);
    using other = new World();
    (await other.volumes.create(wanted("data")))._unsafeUnwrap();
    const made = other.volumes.create(wanted("more"));
    {
      using _ = failing(other.store.db);
      expect(code(await made)).toBe("host.storage");
      expect(code(other.volumes.remove("data"))).toBe("host.storage");
    }
    expect(other.folders()).toEqual([other.volumes.get("data")._unsafeUnwrap().id]);
    expect(other.volumes.list()).toHaveLength(1);
    (await other.volumes.create(wanted("more")))._unsafeUnwrap();
  });
});

describe("attachments", () => {
  test("one writes, or many read; who has it is named; a volume that somebody has is not deleted", async () => {
    using world = new World();
    const { volumes } = world, { id } = (await volumes.create(wanted("data")))._unsafeUnwrap();
    expect(volumes.attach(instance("a"), [mount("data")])._unsafeUnwrap()).toEqual([mount(id)]);
    expect(volumes.get("data")._unsafeUnwrap().attachments).toEqual([{ instanceId: "a", mountPath: "/data", readonly: false }]);
    for (const readonly of [true, false]) {
      const refused = volumes.attach(instance("b"), [mount("data", { readonly })]);
      expect([code(refused), words(refused)]).toEqual(["volume.in_use", expect.stringContaining("instance a has it for writing")]);
    }
    expect(code(volumes.attach(instance("a"), [mount("data", { mountPath: "/again" })]))).toBe("volume.in_use");
    expect([code(volumes.remove("data")), words(volumes.remove("data"))]).toEqual(["volume.in_use", expect.stringContaining("instance a has it")]);
    expect(volumes.detach(instance("a"), "data")._unsafeUnwrap()).toEqual(mount(id));
    expect(code(volumes.detach(instance("a"), "data"))).toBe("volume.not_found");
    for (const owner of [instance("a"), instance("b"), snapshot("s")]) volumes.attach(owner, [mount("data", { readonly: true })])._unsafeUnwrap();
    expect(volumes.get("data")._unsafeUnwrap().attachments.map(({ instanceId }) => instanceId)).toEqual(["a", "b"]);
    expect(words(volumes.attach(instance("c"), [mount("data")]))).toContain("instance a has it; many may have it, but all readonly");
    for (const owner of [instance("a"), instance("b")]) volumes.release(owner);
    expect(words(volumes.remove("data"))).toContain("snapshot s has it");
    volumes.release(snapshot("s"));
    volumes.remove("data")._unsafeUnwrap();
  });

  test("several are attached together or not at all, also inside of a caller's transaction", async () => {
    using world = new World();
    const { volumes, store } = world;
    for (const name of ["one", "two", "three"]) (await volumes.create(wanted(name, { id: `id-${name}` })))._unsafeUnwrap();
    volumes.attach(instance("b"), [mount("two")])._unsafeUnwrap();
    const both = [mount("one", { mountPath: "/one" }), mount("two", { mountPath: "/two" })];
    expect(code(volumes.attach(instance("a"), both))).toBe("volume.in_use");
    expect(volumes.mountsOf(instance("a"))).toEqual([]);
    volumes.release(instance("b"));
    expect(() => store.db.transaction(() => { volumes.attach(instance("a"), both)._unsafeUnwrap(); throw new Error("no"); })()).toThrow("no");
    expect(volumes.mountsOf(instance("a"))).toEqual([]);
    store.db.transaction(() => volumes.attach(instance("a"), both))()._unsafeUnwrap();
    volumes.attach(instance("a"), [mount("three", { mountPath: "/one/three", readonly: true, overlayBytes: 64 * MIB })])._unsafeUnwrap();
    world.reopen();
    expect(world.volumes.mountsOf(instance("a"))).toEqual([
      mount("id-one", { mountPath: "/one" }), mount("id-two", { mountPath: "/two" }), mount("id-three", { mountPath: "/one/three", readonly: true, overlayBytes: 64 * MIB }),
    ]);
  });

  test.each(["", "data", "/", "/data/", "//data", "/data/../x", "/./data", "/a b", "/a\n", "/a\0", "/proc", "/sys/x", "/dev", `/${"a".repeat(1024)}`, "/had", "/outer"])("%j is no mount path", async (mountPath) => {
    using world = new World();
    const { volumes } = world;
    for (const name of ["had", "inner", "wanted"]) (await volumes.create(wanted(name)))._unsafeUnwrap();
    volumes.attach(instance("a"), [mount("had", { mountPath: "/had" }), mount("inner", { mountPath: "/outer/inner" })])._unsafeUnwrap();
    expect(code(volumes.attach(instance("a"), [mount("wanted", { mountPath })]))).toBe("request.bad");
    for (const fine of ["/processes", "/var/lib/x", "/had/below", "/...", "/ü"]) {
      volumes.attach(instance("a"), [mount("wanted", { mountPath: fine })])._unsafeUnwrap();
      volumes.detach(instance("a"), "wanted")._unsafeUnwrap();
    }
  });

  test("an overlay is over a readonly volume, of a size that a disk has, and counts as a disk", async () => {
    using world = new World();
    const { volumes } = world;
    (await volumes.create(wanted("data")))._unsafeUnwrap();
    expect(code(volumes.attach(instance("a"), [mount("data", { overlayBytes: 64 * MIB })]))).toBe("request.bad");
    expect(code(volumes.attach(instance("a"), [mount("data", { readonly: true, overlayBytes: 1 })]))).toBe("size.invalid");
    const many = (count: number) => Array.from({ length: count }, (_, i) => mount("data", { mountPath: `/${i}`, readonly: true, overlayBytes: 64 * MIB }));
    expect(words(volumes.attach(instance("a"), many(12)))).toContain("23 disks");
    expect(code(volumes.attach(instance("a"), [mount("none")]))).toBe("volume.not_found");
  });
});

test("files() names a file that is missing or short, and is content once it is back", async () => {
  using world = new World();
  const { volumes } = world, { id } = (await volumes.create(wanted("data")))._unsafeUnwrap(), path = join(world.dir, id, "data.ext4");
  volumes.attach(instance("a"), [mount("data")])._unsafeUnwrap();
  expect(volumes.files(instance("a"))._unsafeUnwrap()).toEqual([{ ...mount(id), path, sizeBytes: 64 * MIB }]);
  renameSync(path, `${path}.away`);
  expect([code(volumes.files(instance("a"))), words(volumes.files(instance("a")))]).toEqual(["volume.missing", expect.stringContaining(`${path} is missing`)]);
  renameSync(`${path}.away`, path);
  truncateSync(path, 63 * MIB);
  expect([code(volumes.files(instance("a"))), words(volumes.files(instance("a")))]).toEqual(["volume.missing", expect.stringContaining("instead of 67108864")]);
  truncateSync(path, 64 * MIB);
  volumes.files(instance("a"))._unsafeUnwrap();
  expect(volumes.files(instance("b"))._unsafeUnwrap()).toEqual([]);
});

test("files() refuses to have a volume read whose journal must be written first", async () => {
  using world = new World();
  const { volumes } = world, { id } = (await volumes.create(wanted("data")))._unsafeUnwrap(), path = join(world.dir, id, "data.ext4");
  // needs_recovery of s_feature_incompat, fs/ext4/ext4.h
  const fd = openSync(path, "r+"), incompat = new Uint32Array([0x2c2 | 0x4]);
  writeSync(fd, new Uint8Array(incompat.buffer), 0, 4, 1024 + 96);
  closeSync(fd);
  volumes.attach(instance("a"), [mount("data", { readonly: true })])._unsafeUnwrap();
  expect(code(volumes.files(instance("a")))).toBe("volume.unclean");
  volumes.release(instance("a"));
  volumes.attach(instance("a"), [mount("data")])._unsafeUnwrap();
  volumes.files(instance("a"))._unsafeUnwrap();
});
