// Clones of disks, on the file system of the temporary folder (layers), and again on XFS (reflinks).
import { afterEach, expect, test } from "bun:test";
import { closeSync, existsSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mapLayout } from "../../../src/block-map.ts";
import { hasSmallBlocks } from "../../../src/host/ext4-superblock.ts";
import { BLOCK, blocks, blocksOf, BYTES, content, makePlain, write, Writer } from "./disk-files.ts";
import { chain, cleanUp, cleanup, folder, Host, instance, reflinks, snapshot } from "./host.ts";

afterEach(cleanUp);

test("without a record a disk is one plain file, there or not", async () => {
  const host = await Host.open();
  expect(host.files(instance("a"))).toEqual([{ path: join(host.dir, "instances/a/upper.ext4"), map: null }]);
  expect(host.files(instance("never-started"))).toEqual([{ path: join(host.dir, "instances/never-started/upper.ext4"), map: null }]);
});

test("a clone has what the source had; later writes of each are its own", async () => {
  const host = await Host.open();
  await host.clone(instance("a"), instance("b"));
  host.write(instance("a"), 1, 2);
  host.write(instance("b"), 0, 3);
  expect(host.content(instance("a"))).toEqual(blocks({ 0: 1, 1: 2 }));
  expect(host.content(instance("b"))).toEqual(blocks({ 0: 3 }));
  await host.clone(instance("b"), instance("c"));
  host.write(instance("b"), 5, 5);
  expect(host.content(instance("c"))).toEqual(blocks({ 0: 3 }));
  expect(host.files(instance("c")).length).toBe(reflinks ? 1 : 3);
  expect(host.layerFiles().length).toBe(reflinks ? 0 : 3); // two files, and the map of the second
});

test("a clone's own bytes are few, and its files are all there are", async () => {
  const host = await Host.open();
  const [own] = host.files(instance("a"));
  const before = blocksOf(own!.path);
  await host.clone(instance("a"), instance("b"));
  expect(host.ownFiles(instance("b")).length).toBe(reflinks ? 1 : 2);
  expect(host.ownFiles(instance("a")).length).toBe(reflinks ? 1 : 2);
  if (!reflinks) {
    expect(host.disks.bytes(instance("b"))).toBeLessThanOrEqual(2 * BLOCK);
    host.remove(instance("b"));
    expect(host.disks.bytes(instance("a"))).toBeGreaterThanOrEqual(before); // the layer is nobody else's now
  }
});

test("clones of what has written nothing since the last one share what that shares, however many they are", async () => {
  const host = await Host.open(), files = reflinks ? 1 : 2, layers = reflinks ? 0 : 1;
  for (let n = 0; n < 100; n++) await host.clone(instance("a"), n % 2 === 0 ? instance(`f${n}`) : snapshot(`s${n}`));
  expect([host.files(instance("a")), host.files(instance("f98")), host.files(snapshot("s99")), host.layerFiles()].map(({ length }) => length)).toEqual([files, files, 1, layers]);
  host.write(instance("f98"), 3, 3);
  await host.clone(instance("f98"), instance("g"));
  host.write(instance("a"), 2, 2);
  await host.clone(instance("a"), instance("h"));
  expect(["a", "f0", "f98", "g", "h"].map((id) => host.content(instance(id)))).toEqual([blocks({ 0: 1, 2: 2 }), blocks({ 0: 1 }), blocks({ 0: 1, 3: 3 }), blocks({ 0: 1, 3: 3 }), blocks({ 0: 1, 2: 2 })]);
  expect(host.content(snapshot("s99"))).toEqual(blocks({ 0: 1 }));
  const again = await host.again();
  expect([again.content(instance("a")), again.content(instance("g"))]).toEqual([blocks({ 0: 1, 2: 2 }), blocks({ 0: 1, 3: 3 })]);
});

test("a running source goes on in the file that its monitor is given", async () => {
  const host = await Host.open();
  const monitor = new Writer(host.files(instance("a"))[0]!);
  const clone = await host.begin(instance("a"), instance("b"));
  expect(clone.newTop === null).toBe(reflinks !== undefined);
  const later = clone.newTop === null ? monitor : new Writer(clone.newTop);
  clone.finish()._unsafeUnwrap();
  later.write(7, 7);
  expect(host.content(instance("a"))).toEqual(blocks({ 0: 1, 7: 7 }));
  expect(host.content(instance("b"))).toEqual(blocks({ 0: 1 }));
});

test("a clone that is taken back leaves the source whole, whichever file its monitor writes to", async () => {
  for (const given of [true, false]) {
    const host = await Host.open();
    const monitor = new Writer(host.files(instance("a"))[0]!);
    const clone = await host.begin(instance("a"), instance("b"));
    const writer = given && clone.newTop !== null ? new Writer(clone.newTop) : monitor;
    writer.write(1, 2);
    clone.undo()._unsafeUnwrap();
    writer.write(2, 3);
    expect(host.content(instance("a"))).toEqual(blocks({ 0: 1, 1: 2, 2: 3 }));
    expect(host.ownFiles(instance("b"))).toEqual([]);
    await host.clone(instance("a"), instance("b"));
    expect(host.content(instance("b"))).toEqual(blocks({ 0: 1, 1: 2, 2: 3 }));
  }
});

test("snapshots need no file of their own where there are layers, and are forked and restored from", async () => {
  const host = await Host.open();
  await host.clone(instance("a"), snapshot("s"));
  expect(host.ownFiles(snapshot("s")).length).toBe(reflinks ? 1 : 0);
  host.write(instance("a"), 0, 9);
  await host.clone(snapshot("s"), instance("b"));
  await host.clone(snapshot("s"), instance("c"));
  host.write(instance("b"), 3, 3);
  expect(host.content(instance("b"))).toEqual(blocks({ 0: 1, 3: 3 }));
  expect(host.content(instance("c"))).toEqual(blocks({ 0: 1 }));
  let also = 0;
  (await host.disks.replace(snapshot("s"), instance("a"), () => void also++))._unsafeUnwrap();
  expect({ also, files: host.ownFiles(instance("a")).length }).toEqual({ also: 1, files: reflinks ? 1 : 2 });
  expect(host.content(instance("a"))).toEqual(blocks({ 0: 1 }));
  expect(host.content(snapshot("s"))).toEqual(blocks({ 0: 1 }));
});

test("what replaces a disk does so together with the caller's transaction, or not at all", async () => {
  const host = await Host.open();
  await host.clone(instance("a"), snapshot("s"));
  host.write(instance("a"), 0, 9);
  const before = host.ownFiles(instance("a")).sort();
  const failed = await host.disks.replace(snapshot("s"), instance("a"), () => {
    throw new Error("no");
  });
  expect(failed._unsafeUnwrapErr().message).toBe("Cannot give instance a the disk of snapshot s: no");
  expect(host.content(instance("a"))).toEqual(blocks({ 0: 9 }));
  expect(host.ownFiles(instance("a")).sort()).toEqual(before);
});

test("an instance that was never started gives a clone that was not either", async () => {
  const host = await Host.open();
  await host.clone(instance("new"), instance("b"));
  const files = host.files(instance("b"));
  expect(files).toMatchObject([{ map: null }]);
  expect(existsSync(files[0]!.path)).toBe(false);
  await host.clone(instance("new"), snapshot("s"));
  await host.clone(snapshot("s"), instance("c"));
  (await host.disks.replace(snapshot("s"), instance("a"), () => {}))._unsafeUnwrap();
  for (const owner of [instance("a"), instance("c")]) expect(existsSync(host.files(owner)[0]!.path)).toBe(false);
});

test("a disk of which somebody has removed a file is named as such, and neither cloned nor given to anybody", async () => {
  const host = await Host.open();
  await host.clone(instance("a"), snapshot("s"));
  const there = host.content(instance("a"));
  rmSync(host.files(snapshot("s"))[0]!.path);
  for (const given of [await host.disks.clone(snapshot("s"), instance("b")), await host.disks.replace(snapshot("s"), instance("c"), () => { throw new Error("it was committed"); })])
    expect(given._unsafeUnwrapErr()).toMatchObject({ code: "host.storage", message: expect.stringContaining(" is missing") });
  for (const owner of [instance("b"), instance("c")]) expect(host.ownFiles(owner)).toEqual([]);
  if (reflinks) expect(host.content(instance("a"))).toEqual(there);
  const other = await Host.open();
  rmSync(other.files(instance("a"))[0]!.path);
  expect([other.disks.files(instance("a")).isOk(), other.disks.files(instance("a"), true).isOk()]).toEqual([true, false]);
});

test("removals in any order free exactly what nobody needs", async () => {
  const owners = [instance("a"), snapshot("s"), instance("b"), snapshot("t"), instance("c")];
  const orders = [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 3, 0, 4, 2], [2, 0, 4, 1, 3]];
  for (const order of orders) {
    const host = await Host.open();
    await host.clone(instance("a"), snapshot("s"));
    host.write(instance("a"), 1, 2);
    await host.clone(snapshot("s"), instance("b"));
    host.write(instance("b"), 2, 3);
    await host.clone(instance("b"), snapshot("t"));
    await host.clone(instance("a"), instance("c"));
    const wanted = new Map(owners.map((owner) => [owner, host.content(owner)]));
    for (const n of order) {
      host.remove(owners[n]!);
      host.remove(owners[n]!); // idempotent
      wanted.delete(owners[n]!);
      for (const [owner, values] of wanted) expect(host.content(owner)).toEqual(values);
      const needed = new Set([...wanted.keys()].flatMap((owner) => host.files(owner)).flatMap(({ path, map }) => [path, map]));
      for (const name of host.layerFiles()) expect(needed.has(join(host.dir, "disks", name))).toBe(true);
    }
    expect(host.layerFiles()).toEqual([]);
    expect(owners.flatMap((owner) => host.ownFiles(owner))).toEqual([]);
  }
});

test("files that no record tells of go at start; others of the same folders stay", async () => {
  let host = await Host.open();
  await host.clone(instance("a"), instance("b"));
  const stray = ["disks/x.img", "disks/x.map", "instances/a/upper.x.ext4", "instances/b/upper.ext4", "instances/b/upper.map"];
  for (const name of [...stray, "instances/a/app.0.log"]) writeFileSync(join(host.dir, name), "");
  host = await host.again();
  expect(stray.filter((name) => existsSync(join(host.dir, name)))).toEqual([]);
  expect(existsSync(join(host.dir, "instances/a/app.0.log"))).toBe(true);
  expect(host.content(instance("b"))).toEqual(blocks({ 0: 1 }));
});

test("a disk that its owner has already, and two clones of one source at once, are refused", async () => {
  const host = await Host.open();
  const clone = await host.begin(instance("a"), instance("b"));
  expect((await host.disks.clone(instance("a"), instance("c")))._unsafeUnwrapErr().code).toBe("conflict");
  expect(host.disks.remove(instance("a"))._unsafeUnwrapErr().code).toBe("conflict");
  clone.finish()._unsafeUnwrap();
  expect((await host.disks.clone(instance("a"), instance("b")))._unsafeUnwrapErr().code).toBe("conflict");
});

test("a disk of an earlier version with small blocks is known as one, and can't be layered", async () => {
  const host = await Host.open(), [own] = host.files(instance("a"));
  const small = (value: number) => {
    makePlain(own!.path, 1);
    const superblock = new DataView(new ArrayBuffer(64));
    superblock.setUint32(24, value, true);
    superblock.setUint16(56, 0xef53, true);
    const fd = openSync(own!.path, "r+");
    writeSync(fd, superblock, 0, 64, 1024);
    closeSync(fd);
    return hasSmallBlocks(own!.path);
  };
  expect([hasSmallBlocks(own!.path), small(2), small(0), hasSmallBlocks("/nowhere")]).toEqual([false, false, true, false]);
  const clone = await host.disks.clone(instance("a"), instance("b"));
  if (reflinks) return expect(clone.isOk()).toBe(true);
  expect(clone._unsafeUnwrapErr().message).toStartWith("Cannot clone the disk of instance a: an earlier version made it with blocks below 4 KiB");
  expect([host.ownFiles(instance("b")), host.layerFiles()]).toEqual([[], []]);
});

test("a layer that is missing is named", async () => {
  if (reflinks) return;
  const host = await Host.open();
  await host.clone(instance("a"), instance("b"));
  const lost = host.files(instance("b"))[1]!.path;
  rmSync(lost);
  expect(host.disks.files(instance("b"))._unsafeUnwrapErr().message).toBe(`Cannot find the disk of instance b: ${lost} is missing`);
});

test("after a boot of the host, blocks that were not flushed are those of the layer below", async () => {
  if (reflinks) return;
  let host = await Host.open();
  await host.clone(instance("a"), instance("b"));
  const { map } = host.files(instance("b"))[0]!;
  host.write(instance("b"), 0, 2); // not flushed: only the region `now` has its bit
  host = await host.again();
  expect(host.content(instance("b"))).toEqual(blocks({ 0: 2 }));
  host.store.db.run("UPDATE disk_settings SET value = 'another boot' WHERE key = 'boot_id'");
  host = await host.again();
  expect(host.content(instance("b"))).toEqual(blocks({ 0: 1 }));
  expect(statSync(map!).size).toBe(mapLayout(BYTES).fileBytes);
});

test("a hundred snapshots of which one is kept at a time need no long chain", async () => {
  const host = await Host.open();
  for (let n = 0; n < 100; n++) {
    host.write(instance("a"), n % 60, n);
    await host.clone(instance("a"), snapshot(`s${n}`));
    if (n > 0) host.remove(snapshot(`s${n - 1}`));
    await host.disks.idle();
  }
  expect(host.files(instance("a")).length).toBeLessThanOrEqual(2);
  expect(host.content(instance("a"))).toEqual(host.content(snapshot("s99")));
});

test.skipIf(reflinks !== undefined || Bun.which("mkfs.xfs") === null || process.getuid?.() !== 0)("all of this on a file system with reflinks", async () => {
  const dir = mkdtempSync(join(tmpdir(), "dormouse-xfs-"));
  cleanup.push(() => rmSync(dir, { recursive: true }));
  // A mount namespace of its own: the mount goes with the process.
  const script = `truncate -s 400M "$0/image" && mkfs.xfs -q -m reflink=1 "$0/image" && mkdir "$0/xfs" && mount -o loop "$0/image" "$0/xfs" && DORMOUSE_TEST_REFLINKS="$0/xfs" exec "$1" test --timeout=120000 "$2" "$3"`;
  const child = Bun.spawn(["unshare", "--mount", "sh", "-c", script, dir, process.execPath, import.meta.path, join(import.meta.dir, "crash.test.ts")], { stdout: "pipe", stderr: "pipe" });
  const [out, err, status] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  expect({ status, said: status === 0 ? "" : out + err }).toEqual({ status: 0, said: "" });
}, 120_000);
