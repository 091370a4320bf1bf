// A data folder whose file system is full, at whatever point of making a volume: it is told as the host's fault, nothing is left, and
// once there is room all goes on.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { closeSync, openSync, rmSync, statfsSync, writeSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { command } from "../../support/command.ts";
import { TempDir } from "../../support/paths.ts";
import { file, tar } from "../images/tar-builder.ts";
import { MIB, wanted, World } from "./world.ts";

const PAGE = 4096;
let mount: TempDir;
beforeAll(async () => {
  mount = new TempDir("full");
  await command(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", mount.path]);
});
afterAll(async () => {
  await command(["umount", "-l", mount.path]);
  mount[Symbol.dispose]();
});

/** Leaves `pages` of room while `work` runs. */
async function withRoom<T>(pages: number, work: () => PromiseLike<T>): Promise<T> {
  const path = join(mount.path, "filler"), fd = openSync(path, "w"), zeroes = Buffer.alloc(PAGE);
  try {
    while (statfsSync(mount.path).bavail > pages) writeSync(fd, zeroes);
    return await work();
  } finally {
    closeSync(fd);
    rmSync(path);
  }
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> { yield bytes; }
const archive = gzipSync(tar([file("a", Buffer.alloc(2 * MIB, 1)), file("b/c", "c")]));

// The archive's content takes 2 MiB beside the disk, and as much in it; an empty disk has some 200 KiB.
test.each([["create", [0, 1, 8, 32], 400], ["createFromArchive", [0, 1, 8, 256, 520, 560, 900], 1600]] as const)("%s", async (verb, little, enough) => {
  using world = new World({}, mount.path);
  const make = () => (verb === "create" ? world.volumes.create(wanted("data")) : world.volumes.createFromArchive(wanted("data"), once(archive)));
  for (const pages of little) {
    const error = (await withRoom(pages, make))._unsafeUnwrapErr();
    expect([pages, error.code, error.message]).toEqual([pages, "host.storage", expect.stringContaining("the disk is full: free some space")]);
    expect([world.folders(), world.parts(), world.volumes.list()]).toEqual([[], [], []]);
    await world.trash.emptied();
  }
  (await withRoom(enough, make))._unsafeUnwrap();
});
