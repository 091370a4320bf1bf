// Clones of disks, on the file system of the temporary folder (layers), and again on XFS (reflinks).
import { afterEach, describe, expect, test } from "bun:test";
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readdirSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mapLayout } from "../../../src/block-map.ts";
import { hasSmallBlocks } from "../../../src/host/disks/ext4.ts";
import type { Disks } from "../../../src/host/disks/disks.ts";
import type { Clone, DiskLayer, DiskOwner } from "../../../src/host/disks/service.ts";
import type { Store } from "../../../src/host/store/store.ts";
import { BLOCK, blocks, blocksOf, BYTES, content, makePlain, openDisks, write, Writer } from "./disk-files.ts";

/** Set where this file runs again on a file system that can share blocks. */
const reflinks = process.env["DORMOUSE_TEST_REFLINKS"];
const base = reflinks ?? tmpdir();

const cleanup: (() => void)[] = [];
afterEach(() => {
  for (const step of cleanup.splice(0).reverse()) step();
});

const instance = (id: string): DiskOwner => ({ kind: "instance", id });
const snapshot = (id: string): DiskOwner => ({ kind: "snapshot", id });

/** A data folder in which instance `a` has a disk of an earlier version, with 1 in block 0. */
function folder(): string {
  const dir = mkdtempSync(join(base, "dormouse-disks-"));
  cleanup.push(() => rmSync(dir, { recursive: true }));
  mkdirSync(join(dir, "instances/a"), { recursive: true });
  makePlain(join(dir, "instances/a/upper.ext4"), 1);
  return dir;
}

class Host {
  private constructor(readonly dir: string, readonly disks: Disks, readonly store: Store) {}
  static async open(dir = folder()): Promise<Host> {
    const { disks, store } = await openDisks(dir);
    return new Host(dir, disks, store);
  }
  async again(): Promise<Host> {
    this.store.close();
    return Host.open(this.dir);
  }
  files(owner: DiskOwner): readonly DiskLayer[] { return this.disks.files(owner)._unsafeUnwrap(); }
  content(owner: DiskOwner): number[] { return content(this.files(owner)); }
  write(owner: DiskOwner, block: number, value: number): void { write(this.files(owner), block, value); }
  async begin(from: DiskOwner, to: DiskOwner): Promise<Clone> { return (await this.disks.clone(from, to))._unsafeUnwrap(); }
  async clone(from: DiskOwner, to: DiskOwner): Promise<void> { (await this.begin(from, to)).finish()._unsafeUnwrap(); }
  remove(owner: DiskOwner): void { this.disks.remove(owner)._unsafeUnwrap(); }
  layerFiles(): string[] { return readdirSync(join(this.dir, "disks")); }
  ownFiles(owner: DiskOwner): string[] {
    const dir = join(this.dir, `${owner.kind}s`, owner.id);
    return existsSync(dir) ? readdirSync(dir) : [];
  }
}

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

/** Instance `a` over three layers, of which snapshots keep two apart: s the oldest, t the next. */
async function chain(host: Host): Promise<void> {
  host.write(instance("a"), 1, 1);
  await host.clone(instance("a"), snapshot("s"));
  host.write(instance("a"), 0, 2);
  host.write(instance("a"), 2, 2);
  if (!reflinks) {
    const writer = new Writer(host.files(instance("a"))[0]!);
    writer.mark(1); // what the guest has discarded
    writer.close();
  }
  await host.clone(instance("a"), snapshot("t"));
  host.write(instance("a"), 2, 3);
  host.write(instance("a"), 3, 3);
}

test("chains become shorter when snapshots go, under whoever reads them", async () => {
  if (reflinks) return;
  const host = await Host.open();
  await chain(host);
  const before = host.files(instance("a")), a = blocks({ 0: 2, 2: 3, 3: 3 }), t = blocks({ 0: 2, 2: 2 });
  expect([before.length, host.content(instance("a")), host.content(snapshot("t"))]).toEqual([3, a, t]);
  host.remove(snapshot("s"));
  await host.disks.idle();
  expect([host.files(instance("a")).length, host.content(instance("a")), host.content(snapshot("t"))]).toEqual([2, a, t]);
  expect(content(before)).toEqual(a); // a monitor that had just been told
  await host.clone(instance("a"), snapshot("u"));
  host.remove(snapshot("t"));
  await host.disks.idle();
  expect([host.files(instance("a")).length, host.content(instance("a")), host.content(snapshot("u"))]).toEqual([2, a, a]);
  expect(host.layerFiles().filter((name) => name.endsWith(".img")).length).toBe(3); // two that were merged keep their names for a while
  const again = await host.again();
  expect(again.layerFiles().length).toBe(1);
  expect(again.content(instance("a"))).toEqual(a);
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

test("what a clone that was taken back has left is not merged while a monitor may write to it", async () => {
  if (reflinks) return;
  const host = await Host.open();
  await host.clone(instance("a"), snapshot("s"));
  const monitor = new Writer(host.files(instance("a"))[0]!);
  (await host.begin(instance("a"), instance("b"))).undo()._unsafeUnwrap();
  host.remove(snapshot("s"));
  await host.disks.idle();
  expect(host.files(instance("a")).length).toBe(3);
  monitor.write(4, 4);
  expect(host.content(instance("a"))).toEqual(blocks({ 0: 1, 4: 4 }));
});

describe("SIGKILL of the daemon", () => {
  test.skipIf(reflinks !== undefined).each(["copied", "merged"])("after the step '%s' of a merge leaves every disk whole", async (step) => {
    let host = await Host.open();
    await chain(host);
    host.store.close();
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "clone-child.ts"), host.dir, step, "none"], { stdout: "inherit", stderr: "inherit" });
    await child.exited;
    expect(child.signalCode).toBe("SIGKILL");
    host = await Host.open(host.dir);
    await host.disks.idle();
    expect([host.files(instance("a")).length, host.content(instance("a")), host.content(snapshot("t"))]).toEqual([2, blocks({ 0: 2, 2: 3, 3: 3 }), blocks({ 0: 2, 2: 2 })]);
    host.store.close();
  });

  const steps = reflinks ? ["reflinked", "shared", "recorded", "finished"]
    : ["sealed", "linked file", "linked map", "new top of the source", "new top of the target", "recorded", "finished"];
  // Whether the source's monitor had got the new top is known to nobody; it can have only where it was recorded.
  test.each(steps)("after the step '%s' of a clone leaves the source whole", async (step) => {
    for (const kind of ["instance", "snapshot"] as const) {
      for (const given of [false, true]) {
        let host = await Host.open();
        await host.clone(instance("a"), snapshot("first")); // so that a's file has a map
        host.write(instance("a"), 1, 2);
        const before = new Writer(host.files(instance("a"))[0]!);
        host.store.close();
        const child = Bun.spawn([process.execPath, join(import.meta.dir, "clone-child.ts"), host.dir, step, kind], { stdout: "pipe", stderr: "inherit" });
        const said = await child.stdout.text();
        await child.exited;
        expect({ said, signal: child.signalCode }).toEqual({ said: "", signal: "SIGKILL" });
        host = await Host.open(host.dir);
        const taken = given && (step === "recorded" || step === "finished") ? new Writer(host.files(instance("a"))[0]!) : before;
        if (step !== "finished" || given || reflinks) taken.write(2, 3);
        const wanted = blocks(step !== "finished" || given || reflinks ? { 0: 1, 1: 2, 2: 3 } : { 0: 1, 1: 2 });
        expect(host.content(instance("a"))).toEqual(wanted);
        // The target has all of it or nothing, and nothing is left of what was not finished.
        expect(host.ownFiles({ kind, id: "b" }).length > 0 || step === "finished").toBe(step === "finished");
        if (step === "finished") expect(host.content({ kind, id: "b" })).toEqual(blocks({ 0: 1, 1: 2 }));
        host.remove(snapshot("first"));
        host.remove({ kind, id: "b" });
        expect(host.content(instance("a"))).toEqual(wanted);
        host.remove(instance("a"));
        expect(host.layerFiles()).toEqual([]);
        host.store.close();
      }
    }
  });
});

test.skipIf(reflinks !== undefined || Bun.which("mkfs.xfs") === null || process.getuid?.() !== 0)("all of this on a file system with reflinks", async () => {
  const dir = mkdtempSync(join(tmpdir(), "dormouse-xfs-"));
  cleanup.push(() => rmSync(dir, { recursive: true }));
  // A mount namespace of its own: the mount goes with the process.
  const script = `truncate -s 400M "$0/image" && mkfs.xfs -q -m reflink=1 "$0/image" && mkdir "$0/xfs" && mount -o loop "$0/image" "$0/xfs" && DORMOUSE_TEST_REFLINKS="$0/xfs" exec "$1" test --timeout=120000 "$2"`;
  const child = Bun.spawn(["unshare", "--mount", "sh", "-c", script, dir, process.execPath, import.meta.path], { stdout: "pipe", stderr: "pipe" });
  const [out, err, status] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  expect({ status, said: status === 0 ? "" : out + err }).toEqual({ status: 0, said: "" });
}, 120_000);
