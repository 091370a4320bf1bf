import { expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { command } from "../support/command.ts";
import { TempDir } from "../support/paths.ts";
import { Trash } from "../../src/host/trash.ts";

function world() {
  const temp = new TempDir("trash"), told: string[] = [];
  const open = () => new Trash(temp.join("trash"), (what, error) => void told.push(`${what}: ${error}`));
  writeFileSync(temp.join("file"), "x");
  mkdirSync(temp.join("folder"));
  writeFileSync(temp.join("folder", "file"), "x");
  return { temp, told, open, inTrash: () => readdirSync(temp.join("trash")).length, [Symbol.dispose]: () => temp[Symbol.dispose]() };
}

test("drop() frees the name at once and the room later", async () => {
  using at = world();
  const trash = at.open();
  for (const name of ["file", "folder", "never was there"]) trash.drop(at.temp.join(name));
  expect([existsSync(at.temp.join("file")), existsSync(at.temp.join("folder")), at.inTrash()]).toEqual([false, false, 2]);
  writeFileSync(at.temp.join("file"), "another of the same name");
  await trash.emptied();
  expect([existsSync(at.temp.join("file")), at.inTrash(), at.told]).toEqual([true, 0, []]);
});

test("what a daemon that was killed has not freed the next one frees", async () => {
  using at = world();
  at.open().drop(at.temp.join("folder"));
  expect(at.inTrash()).toBe(1); // nothing of that trash has run yet
  await at.open().emptied();
  expect(at.inTrash()).toBe(0);
});

test("where nothing can be moved into the trash it is deleted in its place", () => {
  using at = world();
  const trash = at.open();
  rmSync(at.temp.join("trash"), { recursive: true });
  for (const name of ["file", "folder"]) trash.drop(at.temp.join(name));
  expect(readdirSync(at.temp.path)).toEqual([]);
});

test("what can't be freed is told of, and holds up nothing", async () => {
  using at = world();
  mkdirSync(at.temp.join("trash"));
  await using _ = await mountOver(at.temp.join("trash", "busy"));
  const trash = at.open();
  trash.drop(at.temp.join("file"));
  await trash.emptied();
  expect([at.inTrash(), at.told]).toEqual([1, [expect.stringMatching(/^delete .*busy: .*EBUSY/)]]);
});

test("discard() tells what it can't delete, and goes on", async () => {
  using at = world();
  const trash = at.open();
  await using _ = await mountOver(at.temp.join("busy"));
  trash.discard(at.temp.join("busy"));
  trash.discard(at.temp.join("file"));
  expect([existsSync(at.temp.join("busy")), existsSync(at.temp.join("file")), at.told]).toEqual([true, false, [expect.stringMatching(/^delete .*busy: .*EBUSY/)]]);
  await trash.emptied();
});

/** A file system's root can't be deleted (rmdir(2)). */
async function mountOver(path: string) {
  mkdirSync(path);
  await command(["mount", "-t", "tmpfs", "none", path]);
  return { [Symbol.asyncDispose]: async () => void (await command(["umount", path])) };
}
