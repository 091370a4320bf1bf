// ext4 images for guests, and copies of sparse files.
import { afterAll, expect, test } from "bun:test";
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cloneFile } from "../../src/ffi/sparse.ts";
import { Ext4Images } from "../../src/host/ext4-images.ts";

const root = mkdtempSync(join(tmpdir(), "dormouse-ext4-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const MIB = 2 ** 20;
const allocated = (path: string) => statSync(path).blocks * 512;
/** s_volume_name of struct ext4_super_block, fs/ext4/ext4.h. */
const labelOf = (path: string) => readFileSync(path).toString("latin1", 1024 + 120, 1024 + 136).replace(/\0+$/, "");

test("Ext4Images makes sound, sparse ext4 images, one run of mkfs for each size and label", async () => {
  const templates = join(root, "templates");
  const images = new Ext4Images(templates);
  const paths = ["a", "b", "c"].map((name) => join(root, "uppers", name, "upper.ext4"));
  const made = await Promise.all([images.ensure(paths[0]!, 10 * 1024 * MIB, "upper"), images.ensure(paths[1]!, 10 * 1024 * MIB, "upper"), images.ensure(paths[2]!, 64 * MIB, "upper")]);
  made.forEach((result) => result._unsafeUnwrap());
  expect(readdirSync(templates)).toHaveLength(2);
  expect(paths.map((path) => statSync(path).size)).toEqual([10 * 1024 * MIB, 10 * 1024 * MIB, 64 * MIB]);
  for (const path of paths) {
    expect(allocated(path)).toBeLessThan(8 * MIB);
    expect(await Bun.spawn(["e2fsck", "-fn", path], { stdout: "ignore", stderr: "ignore" }).exited).toBe(0);
  }
  const other = join(root, "uppers", "d", "volume.ext4");
  (await images.ensure(other, 64 * MIB, "volume"))._unsafeUnwrap();
  expect([paths[2]!, other].map(labelOf)).toEqual(["upper", "volume"]);
  expect(readdirSync(templates)).toHaveLength(3);
  writeFileSync(paths[2]!, "used");
  (await images.ensure(paths[2]!, 64 * MIB, "upper"))._unsafeUnwrap();
  expect(readFileSync(paths[2]!, "utf8")).toBe("used");
});

test("Ext4Images makes disks of more sizes at once than it keeps templates of", async () => {
  const templates = join(root, "many"), images = new Ext4Images(templates);
  const ensure = (size: number) => images.ensure(join(root, "sizes", `${size}.ext4`), size * MIB, "upper");
  const made = await Promise.all(Array.from({ length: 16 }, (_, i) => ensure(64 + i)));
  expect(made.flatMap((one) => (one.isErr() ? [one.error.message] : []))).toEqual([]);
  (await ensure(80))._unsafeUnwrap();
  expect(readdirSync(templates)).toHaveLength(8);
});

test("Ext4Images says what failed, and leaves nothing half-made", async () => {
  const folder = join(root, "failing");
  const missing = await new Ext4Images(join(folder, "t"), "mkfs.nonesuch").ensure(join(folder, "upper.ext4"), 64 * MIB, "upper");
  expect(missing._unsafeUnwrapErr()).toMatchObject({ code: "host.storage", message: expect.stringContaining("install e2fsprogs") });
  const refused = await new Ext4Images(join(folder, "t")).ensure(join(folder, "upper.ext4"), 4096, "upper");
  expect(refused._unsafeUnwrapErr()).toMatchObject({ code: "host.storage", message: expect.stringContaining("mkfs.ext4") });
  expect(readdirSync(join(folder, "t"))).toEqual([]);
  expect(existsSync(join(folder, "upper.ext4"))).toBe(false);
});

test("Ext4Images starts over where a killed daemon left half a copy", async () => {
  const path = join(root, "half", "upper.ext4");
  const images = new Ext4Images(join(root, "templates"));
  (await images.ensure(path, 64 * MIB, "upper"))._unsafeUnwrap();
  rmSync(path);
  writeFileSync(`${path}.part`, "half");
  (await images.ensure(path, 64 * MIB, "upper"))._unsafeUnwrap();
  expect(existsSync(`${path}.part`)).toBe(false);
  expect(statSync(path).size).toBe(64 * MIB);
});

test("cloneFile() keeps content and holes", async () => {
  const [from, to] = [join(root, "sparse"), join(root, "clone")];
  writeFileSync(from, "head");
  truncateSync(from, 512 * MIB);
  const fd = openSync(from, "r+");
  writeSync(fd, "middle", 256 * MIB);
  closeSync(fd);
  cloneFile(from, to);
  expect(statSync(to).size).toBe(512 * MIB);
  expect(allocated(to)).toBeLessThanOrEqual(64 * 1024);
  expect(await Bun.file(to).slice(256 * MIB, 256 * MIB + 6).text()).toBe("middle");
  expect(() => cloneFile(from, to)).toThrow("EEXIST");
});
