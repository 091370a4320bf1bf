// Whiteouts as the OCI specification says, and archives that are damaged or mean harm.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { DormouseError } from "../../../src/errors.ts";
import type { ConvertJob } from "../../../src/host/images/convert.ts";
import { command } from "../../support/command.ts";
import { TempDir } from "../../support/paths.ts";
import type { Listed } from "./list-tree.ts";
import { convertTars, listImage } from "./mounted.ts";
import { dir, entryBytes, file, hardlink, paxRecord, symlink, tar, type Made } from "./tar-builder.ts";

let temp: TempDir;
beforeAll(() => void (temp = new TempDir("layers")));
afterAll(() => temp[Symbol.dispose]());

let count = 0;
const write = (bytes: Uint8Array): string => {
  const path = temp.join(`layer-${count++}`);
  writeFileSync(path, bytes);
  return path;
};

/** The names that Linux finds in the image of these layers, with what it finds. */
async function image(...layers: readonly (readonly Made[])[]): Promise<Record<string, Listed>> {
  const output = temp.join(`image-${count++}.erofs`);
  await convertTars(layers.map((entries) => write(tar(entries))), output);
  return listImage(output);
}
const names = async (...layers: readonly (readonly Made[])[]): Promise<string[]> => Object.keys(await image(...layers)).filter((name) => name !== "").sort();

/** The error that these bytes lead to; nothing may be left of the image. */
async function failure(bytes: Uint8Array, limits: Partial<ConvertJob["limits"]> = {}): Promise<{ code: string; message: string }> {
  const output = temp.join(`failed-${count++}.erofs`);
  const outcome = await convertTars([write(bytes)], output, limits).then(() => null, (error: unknown) => error);
  expect(outcome).toBeInstanceOf(DormouseError);
  expect(existsSync(output)).toBe(false);
  expect(readdirSync(temp.path).filter((name) => name.endsWith(".spool"))).toEqual([]);
  const { code, message } = outcome as DormouseError;
  return { code, message };
}

describe("whiteouts", () => {
  const base = [dir("a"), file("a/one"), file("a/two"), dir("a/sub"), file("a/sub/three"), file("b")];

  test("a whiteout takes a file of a lower layer", async () => {
    expect(await names(base, [dir("a"), file("a/.wh.one")])).toEqual(["a", "a/sub", "a/sub/three", "a/two", "b"]);
  });

  test("a whiteout takes a directory with all that is in it", async () => {
    expect(await names(base, [file(".wh.a")])).toEqual(["b"]);
  });

  test("a whiteout spares what its own layer has, wherever it stands", async () => {
    const expected = ["a", "a/new", "b"];
    expect(await names(base, [dir("a"), file("a/new"), file(".wh.a")])).toEqual(expected);
    expect(await names(base, [file(".wh.a"), dir("a"), file("a/new")])).toEqual(expected);
  });

  test("an opaque directory hides what lower layers have, wherever its mark stands", async () => {
    const expected = ["a", "a/new", "b"];
    expect(await names(base, [dir("a"), file("a/.wh..wh..opq"), file("a/new")])).toEqual(expected);
    expect(await names(base, [dir("a"), file("a/new"), file("a/.wh..wh..opq")])).toEqual(expected);
  });

  test("a deleted name can come back in a higher layer", async () => {
    expect(await names(base, [file(".wh.a")], [dir("a"), file("a/again")])).toEqual(["a", "a/again", "b"]);
  });

  test("a whiteout of nothing, and AUFS's own files, change nothing", async () => {
    expect(await names(base, [file(".wh.none"), file("none/.wh.none"), file(".wh..wh.plnk"), file("a/.wh..wh.aufs")])).toEqual(["a", "a/one", "a/sub", "a/sub/three", "a/two", "b"]);
  });

  test("a hard link keeps the content when its first name goes", async () => {
    const found = await image([file("first", "content"), hardlink("second", "first")], [file(".wh.first")]);
    expect(Object.keys(found)).toEqual(["", "second"]);
    expect(found["second"]).toMatchObject({ size: 7, nlink: 1 });
  });

  test("a hard link in a higher layer shares the lower inode, and a whiteout tells the names apart", async () => {
    const found = await image([file("first", "content")], [hardlink("second", "first"), hardlink("third", "first"), file(".wh.first")]);
    expect(Object.keys(found)).toEqual(["", "second", "third"]);
    expect(found["third"]).toMatchObject({ same: "second", nlink: 2 });
  });

  test("a whiteout that names nothing is refused", async () => {
    expect(await failure(tar([file(".wh..")]))).toMatchObject({ code: "image.convert_failed" });
  });
});

describe("names", () => {
  test("an entry that climbs out of the image is refused", async () => {
    for (const name of ["../escape", "a/../../escape", "/../escape"]) {
      const { code, message } = await failure(tar([file(name, "x")]));
      expect({ code, says: message.includes("points outside of the image") }).toEqual({ code: "image.convert_failed", says: true });
    }
  });

  test("an absolute name is one of the image", async () => {
    expect(await names([file("/etc/passwd", "x")])).toEqual(["etc", "etc/passwd"]);
  });

  test("symbolic links are followed inside of the image, as in a chroot", async () => {
    const chain = [dir("c"), dir("d"), symlink("a", "/b"), symlink("b", "../../../c/../d"), file("a/inside", "x")];
    expect(await names(chain)).toEqual(["a", "b", "c", "d", "d/inside"]);
    expect(await names([symlink("up", "../../../../.."), file("up/etc/shadow", "x")])).toEqual(["etc", "etc/shadow", "up"]);
  });

  test("links that go round in a circle are refused", async () => {
    expect((await failure(tar([symlink("a", "b"), symlink("b", "a"), file("a/x")]))).message).toContain("too many symbolic links");
  });

  test("a link itself is replaced, never written through", async () => {
    const found = await image([dir("etc"), file("etc/passwd", "original"), symlink("link", "etc/passwd")], [file("link", "new")]);
    expect(found["link"]).toMatchObject({ size: 3 });
    expect(found["etc/passwd"]).toMatchObject({ size: 8 });
  });

  test("a path through a file is refused", async () => {
    expect((await failure(tar([file("a", "x"), file("a/b", "y")]))).message).toContain("not a directory");
  });

  test("a hard link to nothing, to a directory, or out of the image is refused", async () => {
    for (const target of ["none", "d", "../../etc/passwd"]) expect(await failure(tar([dir("d"), hardlink("h", target)]))).toMatchObject({ code: "image.convert_failed" });
  });

  test("a hard link to itself changes nothing", async () => {
    expect(await image([file("a", "x"), hardlink("a", "./a")])).toMatchObject({ a: { nlink: 1, size: 1 } });
  });

  test("names that are too long, or hold a NUL, are refused", async () => {
    expect(await failure(tar([file("x", "", { pax: { path: "n".repeat(256) } })]))).toMatchObject({ code: "image.convert_failed" });
    expect(await failure(tar([file("x", "", { pax: { path: "d/".repeat(2100) } })]))).toMatchObject({ code: "image.convert_failed" });
    expect(await failure(tar([file("x", "", { pax: { path: "a\0b" } })]))).toMatchObject({ code: "image.convert_failed" });
  });

  test("a tree deeper than any path allows still ends, and can be whited out", async () => {
    const deep: Made[] = [];
    // Each step goes through a link to the deepest directory so far.
    for (let i = 0; i < 300; i++) deep.push(dir(`${i === 0 ? "" : `l${i - 1}/`}${"d/".repeat(10)}`), symlink(`l${i}`, `${i === 0 ? "" : `l${i - 1}/`}${"d/".repeat(10).slice(0, -1)}`));
    const failed = await convertTars([write(tar(deep)), write(tar([file(".wh.d")]))], temp.join("deep.erofs")).then(() => null, (error: unknown) => error);
    // Links that name links are followed 40 deep, as in Linux.
    expect((failed as DormouseError).message).toContain("too many symbolic links");
    expect(await names(deep.slice(0, 60), [file(".wh.d"), ...Array.from({ length: 30 }, (_, i) => file(`.wh.l${i}`))])).toEqual([]);
  });
});

describe("extended attributes", () => {
  test("what the guest's overlay would take for orders is left out", async () => {
    const found = await image([file("a", "x", { pax: { "SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.kept": "1", "SCHILY.xattr.nonsense": "2" } })]);
    expect(found["a"]?.xattrs).toEqual({ "user.kept": "31" });
  });

  test("attributes beyond what Linux allows are refused", async () => {
    expect(await failure(tar([file("a", "x", { pax: { "SCHILY.xattr.user.big": new Uint8Array(70000) } })]))).toMatchObject({ code: "image.convert_failed" });
  });

  test("attributes larger than a block don't disturb the file's tail", async () => {
    const found = await image([file("a", "tail", { pax: { "SCHILY.xattr.user.big": new Uint8Array(20000).fill(65) } }), file("b", "next")]);
    expect(found["a"]).toMatchObject({ size: 4, content: new Bun.CryptoHasher("sha256").update("tail").digest("hex") });
    expect(found["a"]?.xattrs["user.big"]?.length).toBe(40000);
    expect(found["b"]?.content).toBe(new Bun.CryptoHasher("sha256").update("next").digest("hex"));
  });
});

describe("limits", () => {
  test("a device bomb ends at the number of entries", async () => {
    const bomb = tar(Array.from({ length: 5000 }, (_, i) => ({ name: `dev/${i}`, type: "3", major: 1, minor: i })));
    expect(await failure(bomb, { maxEntries: 1000 })).toMatchObject({ code: "image.too_large" });
  });

  test("directories that no entry names count too", async () => {
    expect(await failure(tar([file("d/".repeat(500) + "x", "", { pax: { path: "d/".repeat(500) + "x" } })]), { maxEntries: 100 })).toMatchObject({ code: "image.too_large" });
  });

  test("a zip bomb ends at the ratio", async () => {
    const zeros = new Uint8Array(64 << 20);
    for (const bomb of [gzipSync(tar([file("zeros", zeros)])), zstdCompressSync(tar([file("zeros", zeros)]))])
      expect(await failure(bomb, { maxRatio: 100, ratioFreeBytes: 1 << 20 })).toMatchObject({ code: "image.too_large" });
  });

  test("a zip bomb ends at the number of bytes", async () => {
    expect(await failure(gzipSync(tar([file("zeros", new Uint8Array(8 << 20))])), { maxBytes: 4 << 20 })).toMatchObject({ code: "image.too_large" });
  });

  test("a file that is said to be enormous is refused before its bytes come", async () => {
    expect(await failure(entryBytes({ name: "huge", size: 0o77777777777 }), { maxBytes: 1 << 30 })).toMatchObject({ code: "image.too_large" });
  });

  test("names and attributes, which stay in memory, end at their limit", async () => {
    const heavy = tar(Array.from({ length: 100 }, (_, i) => file(`f${i}`, "", { pax: { "SCHILY.xattr.user.a": new Uint8Array(60000) } })));
    expect(await failure(heavy, { maxMetadataBytes: 1 << 20 })).toMatchObject({ code: "image.too_large" });
  });

  test("a sparse file of any size costs what its data costs", async () => {
    const size = 2 ** 42;
    const sparse = file("sparse", "end!", { pax: { "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "vast", "GNU.sparse.size": String(size), "GNU.sparse.map": `${size - 4},4` } });
    const output = temp.join("vast.erofs");
    const { sizeBytes } = await convertTars([write(tar([sparse]))], output);
    expect(sizeBytes).toBeLessThan(32 << 20);
    await command(["unshare", "-m", "sh", "-ec", `mkdir -p "$2" && mount -t erofs -o loop,ro "$1" "$2" && [ "$(stat -c %s "$2/vast")" = ${size} ] && [ "$(tail -c 4 "$2/vast")" = 'end!' ]`, "sh", output, temp.join("vast")]);
  });
});

describe("limits on what is small in the archive", () => {
  test("a sparse file with a byte here and there ends at the ratio", async () => {
    const size = 2 ** 42, parts = 100;
    const map = Array.from({ length: parts }, (_, i) => `${i * 2 ** 35},1`).join(",");
    const bomb = tar([file("sparse", "x".repeat(parts), { pax: { "GNU.sparse.size": String(size), "GNU.sparse.map": map, "GNU.sparse.name": "vast" } })]);
    expect(await failure(bomb, { ratioFreeBytes: 64 << 20 })).toMatchObject({ code: "image.too_large" });
  });

  test("extended headers are bounded in their sum, too", async () => {
    const record = paxRecord("comment", "x".repeat(1 << 20));
    const globals = Array.from({ length: 10 }, () => entryBytes({ name: "g", type: "g", data: record }));
    expect((await failure(Buffer.concat([...globals, tar([file("a")])]))).message).toContain("extended headers");
  });
});

describe("damaged archives", () => {
  const whole = tar([file("a", "x".repeat(2000)), file("b", "y")]);

  test("a truncated archive is refused, wherever it ends", async () => {
    for (const length of [100, 512, 700, 2000, 2560 + 100]) expect((await failure(whole.subarray(0, length))).message).toContain("truncated");
  });

  test("a missing end marker is forgiven", async () => {
    const path = write(entryBytes(file("a", "x")));
    expect(await convertTars([path], temp.join("no-end.erofs"))).toMatchObject({ entries: 1 });
  });

  test("compressed data that breaks off or is damaged is refused", async () => {
    const packed = gzipSync(tar([file("noise", crypto.getRandomValues(new Uint8Array(60000)))]));
    expect(await failure(packed.subarray(0, 30000))).toMatchObject({ code: "image.convert_failed" });
    packed.fill(0, 20000, 21000);
    expect(await failure(packed)).toMatchObject({ code: "image.convert_failed" });
    const zstd = zstdCompressSync(tar([file("noise", crypto.getRandomValues(new Uint8Array(60000)))]));
    expect(await failure(zstd.subarray(0, 30000))).toMatchObject({ code: "image.convert_failed" });
  });

  test("a compression that images may not have is named", async () => {
    expect((await failure(Buffer.from("BZh91AY&SY"))).message).toContain("bzip2");
    expect((await failure(Buffer.from("fd377a585a000004", "hex"))).message).toContain("xz");
  });

  test("what is no archive is refused", async () => {
    expect((await failure(Buffer.from("not a tar archive ".repeat(100)))).message).toContain("checksum");
  });

  test("malformed PAX headers, numbers and sparse maps are refused", async () => {
    const withPax = (records: Uint8Array): Buffer => Buffer.concat([entryBytes({ name: "p", type: "x", data: records }), tar([file("a")])]);
    for (const records of ["nonsense", "999 a=b\n", "5 ab\n", "10 path=a"]) expect(await failure(withPax(Buffer.from(records)))).toMatchObject({ code: "image.convert_failed" });
    for (const [key, value] of [["size", "-1"], ["uid", "x"], ["uid", "5000000000"], ["mtime", "soon"], ["GNU.sparse.map", "0,1,0"], ["GNU.sparse.map", "5,1,0,1"], ["GNU.sparse.map", "0,9"]] as const)
      expect(await failure(withPax(paxRecord(key, value)))).toMatchObject({ code: "image.convert_failed" });
  });

  test("a header that is larger than memory should hold is refused", async () => {
    expect((await failure(entryBytes({ name: "p", type: "x", size: 1 << 30 }))).message).toContain("too large");
    expect((await failure(entryBytes({ name: "p", type: "L", size: 1 << 30 }))).message).toContain("too large");
  });

  test("a layer that unpacks to something else than the configuration says is refused", async () => {
    const { convert, CONVERT_LIMITS } = await import("../../../src/host/images/convert.ts");
    const output = temp.join("forged.erofs");
    const outcome = await convert({ layers: [{ path: write(whole), diffId: `sha256:${"0".repeat(64)}` }], output, uuidSeed: "00".repeat(16), label: "x", limits: CONVERT_LIMITS }).then(() => null, (error: unknown) => error);
    expect((outcome as DormouseError).message).toContain("damaged or forged");
    expect(existsSync(output)).toBe(false);
  });

  test("a full disk leaves nothing behind and says so", async () => {
    const layer = write(tar([file("large", new Uint8Array(8 << 20))]));
    mkdirSync(temp.join("full"));
    const script = `mount -t tmpfs -o size=2m none "$1" && cd "$1" && exec "$2" -e '
      const { convertTars } = await import(process.argv[1]);
      const { readdirSync } = await import("node:fs");
      const outcome = await convertTars([process.argv[2]], "full.erofs").then(() => null, (error) => error);
      console.log(JSON.stringify({ code: outcome.code, full: outcome.message.includes("disk is full"), left: readdirSync(".") }));' "$3" "$4"`;
    const said = await command(["unshare", "-m", "sh", "-ec", script, "sh", temp.join("full"), process.execPath, `${import.meta.dir}/mounted.ts`, layer]).catch((error: unknown) => error);
    expect(said).toBe(`${JSON.stringify({ code: "host.storage", full: true, left: [] })}\n`);
  });
});
