// Volumes made of archives: what is in them, seen by the kernel's own ext4; and archives that are damaged, hostile or too large.
import { describe, expect, test } from "bun:test";
import { lstatSync, mkdirSync, readFileSync, readlinkSync, existsSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import type { CreateVolume, Volume } from "../../../src/host/volumes/service.ts";
import { SILENCE_MS } from "../../../src/host/volumes/archive/unpack.ts";
import { ManualClock } from "../../support/clock.ts";
import { command } from "../../support/command.ts";
import { TempDir } from "../../support/paths.ts";
import { dir, file, hardlink, symlink, tar, type Made } from "../images/tar-builder.ts";
import { MIB, wanted, World } from "./world.ts";

/** In pieces that end in the middle of everything. */
async function* pieces(bytes: Uint8Array, size = 1000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}
const targz = (entries: readonly Made[]) => pieces(gzipSync(tar(entries)));
const create = (world: World, entries: readonly Made[], change: Partial<CreateVolume> = {}) => world.volumes.createFromArchive(wanted("data", change), targz(entries));

/** What the kernel shows of it, readonly. */
async function seen<T>(world: World, { id }: Volume, look: (root: string) => T | Promise<T>): Promise<T> {
  const image = join(world.dir, id, "data.ext4");
  await command(["e2fsck", "-fn", image]);
  using at = new TempDir("mounted");
  await command(["mount", "-o", "loop,ro", image, at.path]);
  try {
    return await look(at.path);
  } finally {
    await command(["umount", at.path]);
  }
}

const nothingIn = (world: World) => expect([world.folders(), world.volumes.list()]).toEqual([[], []]);

describe("what an archive holds", () => {
  test("files, folders, links, owners, modes, times, attributes and holes are in the volume", async () => {
    using world = new World();
    const capability = Buffer.from("0100000200040000000000000000000000000000", "hex");
    const entries = [
      dir("./", { mode: 0o1750, uid: 999, gid: 70_000 }),
      dir("./etc/", { mode: 0o700, uid: 5, mtime: 1_000_000_000 }), file("./etc/a", "hello", { mode: 0o640, uid: 1000, gid: 1001, mtime: 1_100_000_000 }), file("./etc/empty"),
      symlink("./etc/link", "/nowhere/at/all"), hardlink("./b", "./etc/a"), file("/set", "x", { mode: 0o4755, uid: 7 }), file("unnamed/deep/c", "c"),
      file("cap", "cap", { pax: { "SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.note": "hi", "SCHILY.xattr.trusted.overlay.opaque": "y" } }),
      { name: "null", type: "3", mode: 0o666, major: 1, minor: 3 }, { name: "pipe", type: "6", mode: 0o600 }, file("big", new Uint8Array(3 * MIB).fill(7)),
      { name: "sparse", data: "tail", pax: { "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": String(200 * MIB), "GNU.sparse.map": `${200 * MIB - 4},4` } },
      file("\u00c3\u00a4", "latin"), // "ä" in UTF-8, as bytes
    ];
    const made = (await create(world, entries, { tags: { a: "b" } }))._unsafeUnwrap();
    expect(made).toEqual({ id: made.id, name: "data", sizeBytes: 64 * MIB, createdAt: made.createdAt, tags: { a: "b" }, attachments: [] });
    expect(readdirSync(join(world.dir, made.id))).toEqual(["data.ext4"]);
    await seen(world, made, async (root) => {
      const of = (name: string) => { const { mode, uid, gid } = lstatSync(join(root, name)); return [mode.toString(8), uid, gid]; };
      expect([of("."), of("etc"), of("etc/a"), of("set"), of("unnamed/deep"), of("null"), of("pipe")]).toEqual([
        ["41750", 999, 70_000], ["40700", 5, 0], ["100640", 1000, 1001], ["104755", 7, 0], ["40755", 0, 0], ["20666", 0, 0], ["10600", 0, 0],
      ]);
      expect(readdirSync(root).sort()).toEqual(["b", "big", "cap", "etc", "lost+found", "null", "pipe", "set", "sparse", "unnamed", "ä"].sort());
      expect(["etc/a", "b", "unnamed/deep/c", "ä"].map((name) => readFileSync(join(root, name), "utf8"))).toEqual(["hello", "hello", "c", "latin"]);
      expect(lstatSync(join(root, "b")).ino).toBe(lstatSync(join(root, "etc/a")).ino);
      expect(readlinkSync(join(root, "etc/link"))).toBe("/nowhere/at/all");
      expect([lstatSync(join(root, "etc")).mtimeMs, lstatSync(join(root, "b")).mtimeMs]).toEqual([1e12, 1.1e12]);
      expect(lstatSync(join(root, "null")).rdev).toBe((1 << 8) | 3);
      expect(readFileSync(join(root, "big")).equals(Buffer.alloc(3 * MIB, 7))).toBe(true);
      const sparse = statSync(join(root, "sparse"));
      expect([sparse.size, sparse.blocks * 512 < MIB, await Bun.file(join(root, "sparse")).slice(200 * MIB - 4).text()]).toEqual([200 * MIB, true, "tail"]);
      const attributes = await command(["python3", "-c", "import os,sys; p=sys.argv[1]; print({n: os.getxattr(p,n).hex() for n in sorted(os.listxattr(p))})", join(root, "cap")]);
      expect(attributes.trim()).toBe(`{'security.capability': '${capability.toString("hex")}', 'user.note': '6869'}`);
    });
  });

  test("a later entry takes the place of an earlier one", async () => {
    using world = new World();
    const entries = [file("a", "one"), file("a", "two"), dir("d"), file("d", "file now"), symlink("s", "/etc"), file("s", "file now"), file("f"), dir("f"), file("f/in", "in"), hardlink("a", "a"), file("x", "x"), hardlink("a2", "a"), hardlink("x", "a2"), dir("empty"), symlink("empty", "a"), dir("again"), file("again"), dir("again"), file("again/in", "in")];
    await seen(world, (await create(world, entries))._unsafeUnwrap(), (root) => {
      expect(["a", "d", "s", "f/in", "x", "a2", "empty", "again/in"].map((name) => readFileSync(join(root, name), "utf8"))).toEqual(["two", "file now", "file now", "in", "two", "two", "two", "in"]);
    });
  });

  test("as many small files as a volume of its size has entries for", async () => {
    using world = new World();
    const entries = Array.from({ length: 16_000 }, (_, i) => file(`d${i % 100}/f${i}`));
    await seen(world, (await create(world, entries))._unsafeUnwrap(), (root) => expect(readdirSync(join(root, "d7"))).toHaveLength(160));
  });

  test("GNU tar's own archives, one with nothing in it included", async () => {
    using world = new World();
    using at = new TempDir("tar");
    mkdirSync(at.join("in/some/where"), { recursive: true });
    writeFileSync(at.join("in/some/where/file"), "words");
    await command(["tar", "-czf", at.join("full.tgz"), "-C", at.join("in"), "."]);
    await command(["tar", "-czf", at.join("empty.tgz"), "-T", "/dev/null"]);
    const of = async (name: string) => (await world.volumes.createFromArchive(wanted(name), pieces(readFileSync(at.join(`${name}.tgz`)), 7)))._unsafeUnwrap();
    await seen(world, await of("full"), (root) => expect(readFileSync(join(root, "some/where/file"), "utf8")).toBe("words"));
    await seen(world, await of("empty"), (root) => expect(readdirSync(root)).toEqual(["lost+found"]));
  });
});

describe("archives that are refused", () => {
  const long = "d/".repeat(1501);
  test.each<[string, Made[], string]>([
    ["a name that climbs out", [file("../out")], "lies outside"], ["one that does so later", [file("a/../../out")], "lies outside"],
    ["something behind a link", [symlink("l", "/tmp"), file("l/out")], "symbolic link"], ["something behind a link further up", [symlink("l", "."), file("l/a/b")], "symbolic link"],
    ["a folder over a link, and something behind it", [symlink("l", "/"), hardlink("k", "l"), file("k/x")], "symbolic link"],
    ["a hard link to the outside", [hardlink("a", "/etc/passwd")], "not in it"], ["one that climbs out", [hardlink("a", "../a")], "lies outside"], ["one through a link", [symlink("l", "/etc"), hardlink("a", "l/passwd")], "not in it"], ["one to a folder", [dir("d"), hardlink("a", "d")], "is a folder"],
    ["something in a file", [file("a"), file("a/b")], "no folder"], ["a file over a folder with content", [file("d/a"), file("d")], "not empty"],
    ["a root that is a file", [symlink("./", "x")], "its root"], ["a name too long", [file("n".repeat(50), "", { pax: { path: "n".repeat(256) } })], "ENAMETOOLONG"], ["a path too long", [file("x", "", { pax: { path: `${long}x` } })], "longer than 3000"],
    ["an impossible owner", [file("x", "", { pax: { uid: String(2 ** 32 - 1) } })], "owner"], ["a device that can't be", [{ name: "x", type: "3", major: 5000 }], "number"], ["a link to nothing", [symlink("l", "")], "can't be made"],
  ])("%s", async (_, entries, why) => {
    using world = new World();
    const error = (await create(world, entries))._unsafeUnwrapErr();
    expect([error.code, error.message]).toEqual(["volume.archive_invalid", expect.stringContaining(why)]);
    expect(error.message).toStartWith("Cannot create the volume data from the archive: ");
    nothingIn(world);
    (await create(world, [file("fine")]))._unsafeUnwrap();
  });

  const whole = gzipSync(tar([file("a", "hello"), file("b", Buffer.alloc(5000, 1))]), { level: 0 });
  test.each<[string, AsyncIterable<Uint8Array>, string]>([
    ["no gzip", pieces(tar([file("a")])), "it is no gzip"], ["nothing", pieces(Buffer.alloc(0)), "it is"], ["a gzip that is cut off", pieces(whole.subarray(0, 3000)), "cut off"], ["one of no tar", pieces(gzipSync("hello".repeat(1000))), "checksum"],
    ["a tar that is cut off", pieces(gzipSync(tar([file("a", Buffer.alloc(5000))]).subarray(0, 3000))), "truncated"], ["a gzip that is damaged", pieces(Buffer.from(whole).fill(9, 600, 700)), "damaged"], ["what never ends", endless(), "goes on after its end"],
    ["one whose sender goes away", breaking(whole), "it broke off (gone)"],
  ])("%s", async (_, body, why) => {
    using world = new World();
    expect((await world.volumes.createFromArchive(wanted("data"), body))._unsafeUnwrapErr()).toMatchObject({ code: "volume.archive_invalid", message: expect.stringContaining(why) });
    nothingIn(world);
  });

  test("content larger than the volume, and many entries, long before its end", async () => {
    using world = new World();
    const large = (await world.volumes.createFromArchive(wanted("data"), endlessFile()))._unsafeUnwrapErr();
    expect(large).toMatchObject({ code: "volume.archive_too_large", message: expect.stringContaining("more than 67108864 bytes; give a larger size") });
    const many = (await create(world, Array.from({ length: 16_385 }, () => dir("d"))))._unsafeUnwrapErr();
    expect(many).toMatchObject({ code: "volume.archive_too_large", message: expect.stringContaining("more than 16384 entries") });
    const tight = (await create(world, [file("a", Buffer.alloc(62 * MIB, 1))]))._unsafeUnwrapErr();
    expect(tight).toMatchObject({ code: "volume.archive_too_large", message: expect.stringContaining("does not fit") });
    const crowded = (await create(world, Array.from({ length: 32_769 }, () => dir("d/e")), { sizeBytes: 256 * MIB }))._unsafeUnwrapErr();
    expect([crowded.code, crowded.message]).toEqual(["volume.archive_too_large", expect.stringContaining('its folder "d" has more than 32768 entries')]);
    nothingIn(world);
  });

  test("a sender that says nothing more is given up: what it has begun goes, and the name is free", async () => {
    const clock = new ManualClock(), archive = gzipSync(tar([file("a", "b")]));
    using world = new World({ clock });
    const { promise: never } = Promise.withResolvers<never>(), { promise: silent, resolve: fallSilent } = Promise.withResolvers<void>();
    const made = world.volumes.createFromArchive(wanted("data"), { async *[Symbol.asyncIterator]() {
      clock.advance(SILENCE_MS - 1);
      yield archive.subarray(0, 20);
      clock.advance(SILENCE_MS - 1);
      yield archive.subarray(20, 30);
      fallSilent();
      yield await never;
    } });
    await silent;
    clock.advance(SILENCE_MS);
    expect((await made)._unsafeUnwrapErr()).toMatchObject({ code: "volume.archive_invalid", message: "Cannot create the volume data from the archive: it broke off (nothing came for 5 minutes)" });
    nothingIn(world);
    expect(clock.waiting).toBe(0);
    expect((await create(world, [file("a", "b")])).isOk()).toBe(true);
  });

  test("a taken name is told before the archive is read", async () => {
    using world = new World();
    (await world.volumes.create(wanted("data")))._unsafeUnwrap();
    let read = false;
    const body = { async *[Symbol.asyncIterator]() { read = true; yield new Uint8Array(1); } };
    expect((await world.volumes.createFromArchive(wanted("data"), body))._unsafeUnwrapErr().code).toBe("volume.already_exists");
    expect(read).toBe(false);
  });
});

test("no descriptor stays open, whether an archive was fine or not", async () => {
  using world = new World();
  const open = () => readdirSync("/proc/self/fd").map((fd) => { try { return readlinkSync(`/proc/self/fd/${fd}`); } catch { return ""; } }).filter((path) => path.startsWith(world.dir));
  for (const [i, entries] of [[file("a", "b"), dir("d"), file("d/e")], [file("a", "b"), file("d/e"), file("../x")], [file("x/y", "long", { size: 100_000 })]].entries()) await world.volumes.createFromArchive(wanted(`v${i}`), targz(entries));
  await world.volumes.createFromArchive(wanted("broken"), breaking(gzipSync(tar([file("a/b/c", Buffer.alloc(4000))]), { level: 0 })));
  expect(open()).toEqual([]);
  expect(existsSync(join(world.root, "x"))).toBe(false);
});

async function* endless(): AsyncGenerator<Uint8Array> {
  yield* pieces(gzipSync(tar([file("a")])));
  for (const zeroes = gzipSync(Buffer.alloc(MIB)); ; ) yield zeroes;
}

/** A file of a terabyte, as far as anybody reads it. */
async function* endlessFile(): AsyncGenerator<Uint8Array> {
  yield gzipSync(tar([file("a", "", { size: 2 ** 33 - 512 })]).subarray(0, 512));
  for (const ones = gzipSync(Buffer.alloc(MIB, 1)); ; ) yield ones;
}

async function* breaking(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes.subarray(0, 1500);
  throw new Error("gone");
}
