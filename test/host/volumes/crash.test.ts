// The daemon killed at each step of making and deleting volumes: the next one has all of a volume or nothing of it.
import { expect, test } from "bun:test";
import { chmodSync, existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { wanted, World } from "./world.ts";

async function killed(world: World, step: string, verb: string, ...mkfs: string[]): Promise<void> {
  world.store.close();
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "child.ts"), world.root, step, verb, ...mkfs], { stdout: "pipe", stderr: "inherit" });
  const said = await child.stdout.text();
  await child.exited;
  expect({ said, signal: child.signalCode }).toEqual({ said: "", signal: "SIGKILL" });
  world.open();
}

test.each([
  ["create", "filled", false], ["create", "synced", false], ["create", "recorded", true],
  ["archive", "begun", false], ["archive", "half sent", false], ["archive", "unpacked", false], ["archive", "filled", false], ["archive", "synced", false], ["archive", "recorded", true],
] as const)("%s, killed after '%s'", async (verb, step, there) => {
  using world = new World();
  (await world.volumes.create(wanted("other", { id: "other" })))._unsafeUnwrap();
  await killed(world, step, verb);
  const made = world.volumes.get("data");
  expect([made.isOk(), world.folders()]).toEqual([there, there ? [made._unsafeUnwrap().id, "other"].sort() : ["other"]]);
  if (there) {
    const file = join(world.dir, made._unsafeUnwrap().id, "data.ext4");
    expect(await Bun.spawn(["e2fsck", "-fn", file], { stdout: "ignore", stderr: "ignore" }).exited).toBe(0);
    world.volumes.remove("data")._unsafeUnwrap();
  }
  (await world.volumes.create(wanted("data")))._unsafeUnwrap();
});

test.each(["create", "archive"])("%s, killed while mkfs is at work, which goes on", async (verb) => {
  using world = new World();
  const mkfs = join(world.root, "mkfs");
  await Bun.write(mkfs, '#!/bin/sh\nkill -9 $PPID\nexec mkfs.ext4 "$@"\n');
  chmodSync(mkfs, 0o755);
  await killed(world, "none", verb, mkfs);
  expect([world.folders(), world.volumes.list()]).toEqual([[], []]);
  const { id } = (await world.volumes.create(wanted("data")))._unsafeUnwrap();
  expect([world.folders(), world.parts()]).toEqual([[id], []]);
  expect(await Bun.spawn(["e2fsck", "-fn", join(world.dir, id, "data.ext4")], { stdout: "ignore", stderr: "ignore" }).exited).toBe(0);
});

test.each(["forgotten", "dropped"])("remove, killed after '%s'", async (step) => {
  using world = new World();
  const { id } = (await world.volumes.create(wanted("data")))._unsafeUnwrap();
  await killed(world, step, "remove");
  expect([world.volumes.list(), world.folders(), existsSync(join(world.dir, id))]).toEqual([[], [], false]);
  await world.trash.emptied();
  expect(readdirSync(join(world.root, "trash"))).toEqual([]);
});
