// Images written by us, as Linux mounts them, against what GNU tar makes of the same layers.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, chownSync, lchownSync, linkSync, lutimesSync, mkdirSync, rmSync, symlinkSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { open, readFile, stat } from "node:fs/promises";
import { command } from "../../support/command.ts";
import { TempDir } from "../../support/paths.ts";
import { syscall } from "../../../src/ffi/syscall.ts";
import type { Listed } from "./list-tree.ts";
import { convertTars, listFolder, listImage } from "./mounted.ts";

const LSETXATTR = 189;
let temp: TempDir;

function setXattr(path: string, name: string, value: Uint8Array): void {
  const result = syscall(LSETXATTR, Buffer.from(`${path}\0`), Buffer.from(`${name}\0`), value.length === 0 ? Buffer.alloc(1) : value, value.length, 0);
  if (result < 0) throw new Error(`Cannot set ${name} on ${path}: ${result}`);
}

const noise = (length: number, seed: number): Buffer => {
  const out = Buffer.alloc(length);
  for (let i = 0, x = seed; i < length; i++) out[i] = (x = (x * 1103515245 + 12345) & 0x7fffffff) >> 16;
  return out;
};

/** Every kind of inode, and sizes around every boundary of the format. */
async function makeTree(root: string): Promise<void> {
  const at = (name: string): string => `${root}/${name}`;
  mkdirSync(at("sizes"), { recursive: true });
  for (const size of [0, 1, 100, 3071, 3072, 3073, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 70000, 1 << 20]) writeFileSync(at(`sizes/${size}`), noise(size, size + 1));
  writeFileSync(at("large"), noise(9_000_001, 7));
  linkSync(at("sizes/100"), at("hard-1"));
  linkSync(at("sizes/100"), at("sizes/hard-2"));
  mkdirSync(at("many"));
  for (let i = 0; i < 700; i++) writeFileSync(at(`many/entry-${i}-${"x".repeat(i % 40)}`), String(i));
  mkdirSync(at("empty"), { mode: 0o1777 });
  mkdirSync(at("deep/" + Array.from({ length: 30 }, (_, i) => `directory-${i}`).join("/")), { recursive: true });
  writeFileSync(at("n".repeat(255)), "long name");
  writeFileSync(Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0xff, 0xe9, 0x20, 0xc3])]), "no UTF-8");
  symlinkSync("sizes/100", at("link"));
  symlinkSync("/absolute/nowhere", at("link-absolute"));
  symlinkSync("../".repeat(1000) + "x", at("link-3001"));
  symlinkSync(`/${"y/".repeat(2000)}z`, at("link-4002"));
  await command(["mkfifo", at("fifo")]);
  await command(["mknod", at("null"), "c", "1", "3"]);
  await command(["mknod", at("disk"), "b", "259", "70000"]);
  writeFileSync(at("setuid"), "s");
  chownSync(at("setuid"), 70000, 4_000_000_000);
  chmodSync(at("setuid"), 0o6755);
  lchownSync(at("link"), 12, 34);
  lutimesSync(at("link"), 1, 1_234_567_890.5);
  utimesSync(at("sizes/1"), 1, 1_500_000_000.123);
  writeFileSync(at("old"), "before 1970");
  await command(["touch", "-d", "1960-01-02 03:04:05.678901234 UTC", at("old")]);
}

async function addXattrs(root: string): Promise<void> {
  setXattr(`${root}/sizes/4096`, "user.one", Buffer.from("value"));
  setXattr(`${root}/sizes/4096`, "user.two", noise(900, 3));
  setXattr(`${root}/sizes/100`, "trusted.of-hard-link", Buffer.from([0, 1, 10, 255]));
  // A version 2 capability: cap_net_bind_service, effective.
  setXattr(`${root}/setuid`, "security.capability", Buffer.from("0100000200040000000000000000000000000000", "hex"));
  setXattr(`${root}/empty`, "user.dir", Buffer.from("d"));
  setXattr(`${root}/link`, "trusted.of-link", Buffer.from("l"));
  setXattr(root, "user.root", Buffer.from("r"));
  // POSIX ACL, version 2: user::rw- user:1000:r-- group::r-- mask::r-- other::r--
  setXattr(`${root}/sizes/1`, "system.posix_acl_access", Buffer.from("0200000001000600ffffffff02000400e803000004000400ffffffff10000400ffffffff20000400ffffffff", "hex"));
  for (let i = 0; i < 3; i++) setXattr(`${root}/sizes/70000`, `user.${"long".repeat(50)}${i}`, noise(1000, i));
}

async function makeSparse(root: string): Promise<void> {
  const holes = async (name: string, size: number, parts: readonly (readonly [offset: number, length: number])[]): Promise<void> => {
    const file = await open(`${root}/${name}`, "w");
    for (const [offset, length] of parts) await file.write(noise(length, offset + 1), 0, length, offset);
    await file.truncate(size);
    await file.close();
  };
  await holes("sparse-hole-at-end", 10_000_000, [[0, 5000]]);
  await holes("sparse-all-hole", 3_000_000, []);
  await holes("sparse-many", 4_000_001, Array.from({ length: 60 }, (_, i) => [i * 65536 + 4096, 4096 + i] as const));
  await holes("sparse-data-at-end", 5_000_001, [[4_997_120, 2881]]);
  truncateSync(`${root}/sparse-all-hole`, 3_000_000);
}

/** The tar extracted by GNU tar: what it should look like. */
async function reference(tars: readonly string[], name: string): Promise<Record<string, Listed>> {
  const folder = temp.join(name);
  mkdirSync(folder);
  for (const path of tars) await command(["tar", "-C", folder, "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", path]);
  return listFolder(folder);
}

beforeAll(async () => {
  temp = new TempDir("images");
  mkdirSync(temp.join("tree"));
  await makeTree(temp.join("tree"));
  await addXattrs(temp.join("tree"));
  mkdirSync(temp.join("sparse"));
  await makeSparse(temp.join("sparse"));
});
afterAll(() => temp[Symbol.dispose]());

describe("convert()", () => {
  const formats: readonly (readonly [name: string, tree: string, flags: readonly string[], compress?: string])[] = [
    ["PAX with xattrs", "tree", ["--format=posix", "--xattrs", "--xattrs-include=*"]],
    ["PAX with xattrs, gzip", "tree", ["--format=posix", "--xattrs", "--xattrs-include=*", "--gzip"]],
    ["PAX with xattrs, zstd", "tree", ["--format=posix", "--xattrs", "--xattrs-include=*", "--zstd"]],
    ["GNU", "tree", ["--format=gnu"]],
    ["old GNU sparse", "sparse", ["--format=gnu", "--sparse"]],
    ["PAX sparse 0.0", "sparse", ["--format=posix", "--sparse", "--sparse-version=0.0"]],
    ["PAX sparse 0.1", "sparse", ["--format=posix", "--sparse", "--sparse-version=0.1"]],
    ["PAX sparse 1.0", "sparse", ["--format=posix", "--sparse", "--sparse-version=1.0"]],
    ["ustar", "tree/sizes", ["--format=ustar"]],
    ["v7", "tree/sizes", ["--format=v7"]],
  ];
  for (const [name, tree, flags] of formats) {
    test(`reads ${name} as GNU tar does`, async () => {
      const id = name.replace(/[^A-Za-z0-9]/g, "-");
      const path = temp.join(`${id}.tar`);
      await command(["tar", "-C", temp.join(tree), ...flags, "--numeric-owner", "-cf", path, "."]);
      await convertTars([path], temp.join(`${id}.erofs`));
      expect(await listImage(temp.join(`${id}.erofs`))).toEqual(await reference([path], id));
    });
  }

  test("leaves holes as holes", async () => {
    const image = await stat(temp.join("old-GNU-sparse.erofs"));
    // 22 MB of files hold about 400 kB of data.
    expect(image.size).toBeLessThan(1 << 20);
  });

  test("writes the same bytes for the same layers", async () => {
    const path = temp.join("PAX-with-xattrs.tar");
    await convertTars([path], temp.join("again.erofs"));
    expect((await readFile(temp.join("again.erofs"))).equals(await readFile(temp.join("PAX-with-xattrs.erofs")))).toBe(true);
    expect((await readFile(temp.join("PAX-with-xattrs--gzip.erofs"))).equals(await readFile(temp.join("again.erofs")))).toBe(true);
  });

  test("packs small files", async () => {
    const folder = temp.join("small");
    mkdirSync(folder);
    for (let i = 0; i < 2000; i++) writeFileSync(`${folder}/${i}`, `file ${i}`);
    await command(["tar", "-C", folder, "-cf", temp.join("small.tar"), "."]);
    const { sizeBytes } = await convertTars([temp.join("small.tar")], temp.join("small.erofs"));
    expect(sizeBytes).toBeLessThan(2000 * 200);
  });

  test("applies a second layer over the first", async () => {
    const lower = temp.join("PAX-with-xattrs.tar");
    const upper = temp.join("upper");
    mkdirSync(`${upper}/sizes`, { recursive: true });
    mkdirSync(`${upper}/large`);
    writeFileSync(`${upper}/large/inside`, "a directory replaces a file");
    writeFileSync(`${upper}/many`, "a file replaces a directory");
    writeFileSync(`${upper}/sizes/100`, "the hard link's other names keep the old content");
    writeFileSync(`${upper}/sizes/new`, noise(5000, 9));
    chmodSync(`${upper}/sizes`, 0o700);
    await command(["tar", "-C", upper, "--format=posix", "-cf", temp.join("upper.tar"), "."]);
    await convertTars([lower, temp.join("upper.tar")], temp.join("two.erofs"));
    const folder = temp.join("two");
    mkdirSync(folder);
    await command(["tar", "-C", folder, "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", lower]);
    // GNU tar puts no file in the place of a full directory.
    for (const name of ["large", "many"]) rmSync(`${folder}/${name}`, { recursive: true });
    await command(["tar", "-C", folder, "--numeric-owner", "-xpf", temp.join("upper.tar")]);
    const [ours, theirs] = [await listImage(temp.join("two.erofs")), await listFolder(folder)];
    expect(Object.keys(ours)).toEqual(Object.keys(theirs));
    const comparable = (all: Record<string, Listed>) => Object.entries(all).filter(([name]) => name !== "" && name !== "sizes");
    expect(comparable(ours)).toEqual(comparable(theirs));
    expect(ours["sizes"]?.mode).toBe(0o040700);
  });
});
