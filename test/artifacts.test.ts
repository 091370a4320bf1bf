// The guest's kernel and initramfs in the data folder. Building them is quick where they are cached, minutes where not.
import { expect, setDefaultTimeout, test } from "bun:test";
import { readdir, stat, writeFile } from "node:fs/promises";
import { unpackArtifacts } from "../src/artifacts.ts";
import { TempDir } from "./support/paths.ts";

setDefaultTimeout(30 * 60_000);

test("unpackArtifacts() puts both there by hash, once, and removes those of other versions only", async () => {
  using folder = new TempDir("artifacts");
  const dir = folder.join("new", "artifacts");
  const first = (await unpackArtifacts(dir))._unsafeUnwrap();
  for (const [path, name] of [[first.kernelPath, "vmlinux"], [first.initramfsPath, "initramfs"]] as const) {
    const hash = new Bun.CryptoHasher("sha256").update(await Bun.file(path).bytes()).digest("hex");
    expect(path).toBe(`${dir}/${name}-${hash.slice(0, 16)}`);
  }
  const inode = (await stat(first.kernelPath)).ino;
  const old = ["vmlinux-0123456789abcdef", "initramfs-0123456789abcdef", "vmlinux-fedcba9876543210.part"];
  for (const name of [...old, "notes.txt"]) await writeFile(`${dir}/${name}`, "x");
  expect((await unpackArtifacts(dir))._unsafeUnwrap()).toEqual(first);
  expect((await stat(first.kernelPath)).ino).toBe(inode);
  expect((await readdir(dir)).sort()).toEqual([...[first.initramfsPath, first.kernelPath].map((path) => path.slice(dir.length + 1)), "notes.txt"].sort());
});

test("unpackArtifacts() says where it could not write", async () => {
  using folder = new TempDir("artifacts");
  await writeFile(folder.join("file"), "x");
  const error = (await unpackArtifacts(folder.join("file", "artifacts")))._unsafeUnwrapErr();
  expect(error.code).toBe("host.storage");
  expect(error.message).toContain(folder.join("file", "artifacts"));
});
