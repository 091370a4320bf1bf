// Files that somebody removed, cut short or changed behind our back: a code that says why, and record and files as they should be.
import { afterAll, expect, test } from "bun:test";
import { copyFileSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "../../support/until.ts";
import { monitorsIn, open, removeRoots, request } from "./fixture.ts";
import { asleep, codeOf, disks, entries, generations, openCompressing, picture, remove, running, stateOf } from "./sleeping.ts";

afterAll(removeRoots);

for (const [what, spoil, code] of [
  ["the machine's file cut short", (dir: string) => truncateSync(join(dir, "machine"), 10), "snapshot.damaged"],
  ["the machine's file emptied", (dir: string) => truncateSync(join(dir, "machine"), 0), "snapshot.damaged"],
  ["no machine's file", (dir: string) => rmSync(join(dir, "machine")), "snapshot.damaged"],
  ["no memory file", (dir: string) => rmSync(join(dir, "memory")), "snapshot.damaged"],
  ["no folder", (dir: string) => rmSync(dir, { recursive: true }), "snapshot.damaged"],
  ["a folder for a file", (dir: string) => (rmSync(join(dir, "machine")), rmSync(join(dir, "memory")), writeFileSync(join(dir, "machine"), "{}")), "snapshot.damaged"],
] as const)
  test(`${what}: the restore is refused, and it sleeps on; it can be deleted, and so can be what shares its memory`, async () => {
    const fixture = await openCompressing();
    await asleep(fixture, "one");
    (await fixture.instances.createSnapshot("one", { kind: "Standby", name: "kept", tags: {} }))._unsafeUnwrap();
    const [gid] = generations(fixture) as [string];
    spoil(join(fixture.root, "memory", gid));
    const error = (await fixture.instances.restore("one"))._unsafeUnwrapErr();
    const { state, stateError } = fixture.instances.get("one")._unsafeUnwrap();
    expect({ code: error.code, state, stateError, monitors: monitorsIn(fixture.root) }).toEqual({ code, state: "Standby", stateError: error.message, monitors: [] });
    const stopped = (await fixture.instances.stop("one"))._unsafeUnwrapErr();
    expect({ code: stopped.code, message: stopped.message }).toEqual({ code, message: expect.stringContaining("a fork of it with the target state Stopped has its disk") });
    (await fixture.instances.fork("one", { name: "two", fromRunning: false, targetState: "Stopped" }).andThen(() => fixture.instances.start("two", {})))._unsafeUnwrap();
    expect(await codeOf(fixture.instances.forkSnapshot("kept", { name: "child", targetState: null }))).toBe(code);
    expect(stateOf(fixture, "child")).toBe("Standby");
    for (const name of ["one", "two", "child"]) await remove(fixture, name);
    (await fixture.instances.removeSnapshot("kept"))._unsafeUnwrap();
    expect({ generations: generations(fixture), disks: disks(fixture), snapshots: entries(fixture, "snapshots") }).toEqual({ generations: [], disks: [], snapshots: [] });
    await fixture.close();
  });

test("a snapshot that can't be used is not given back in place: the instance goes on as it is", async () => {
  const fixture = await openCompressing();
  await running(fixture, "one");
  (await fixture.instances.createSnapshot("one", { kind: "Standby", name: "kept", tags: {} }))._unsafeUnwrap();
  const dir = join(fixture.root, "memory", generations(fixture)[0]!);
  for (const spoil of [() => rmSync(join(dir, "memory")), () => rmSync(join(dir, "machine"))]) {
    spoil();
    expect(await codeOf(fixture.instances.restoreSnapshot("one", "kept", null))).toBe("snapshot.damaged");
    expect({ state: stateOf(fixture, "one"), monitors: monitorsIn(fixture.root).length }).toEqual({ state: "Running", monitors: 1 });
  }
  await fixture.close();
});

for (const what of ["memory", "machine", "folder"] as const)
  test(`saved memory of which somebody has removed the ${what} while its guest runs over it is written anew by the next standby, which wakes`, async () => {
    const fixture = await openCompressing();
    await asleep(fixture, "one");
    (await fixture.instances.restore("one").andThen(() => fixture.instances.standby("one")).andThen(() => fixture.instances.restore("one")))._unsafeUnwrap();
    const [older] = fixture.store.db.query<{ id: string }, []>("SELECT id FROM generations WHERE base_id IS NULL").all();
    const dir = join(fixture.root, "memory", older!.id);
    rmSync(what === "folder" ? dir : join(dir, what), { recursive: true });
    expect((await fixture.instances.standby("one"))._unsafeUnwrap().state).toBe("Standby");
    expect(fixture.logged.some((line) => line.includes("all of its memory is saved anew"))).toBe(true);
    expect(generations(fixture).length).toBe(1);
    expect((await fixture.instances.restore("one"))._unsafeUnwrap().state).toBe("Running");
    await fixture.close();
  });

test("a sleeper whose disk somebody has removed is not woken, forked or kept as if it had an empty one; once it is back it wakes", async () => {
  const fixture = await open();
  const { id } = await asleep(fixture, "one"), disk = join(fixture.root, "instances", id, "upper.ext4"), before = picture(fixture, "one");
  renameSync(disk, `${disk}.away`);
  const missing = { code: "host.storage", message: expect.stringContaining(`${disk} is missing`) };
  expect((await fixture.instances.restore("one"))._unsafeUnwrapErr()).toMatchObject(missing);
  expect((await fixture.instances.fork("one", { name: "two", fromRunning: false, targetState: "Stopped" }))._unsafeUnwrapErr()).toMatchObject(missing);
  expect((await fixture.instances.createSnapshot("one", { kind: "Standby", name: "kept", tags: {} }))._unsafeUnwrapErr()).toMatchObject(missing);
  expect({ ...picture(fixture, "one"), names: fixture.instances.list().map(({ name }) => name), snapshots: fixture.instances.listSnapshots() }).toEqual({ ...before, names: ["one"], snapshots: [] });
  renameSync(`${disk}.away`, disk);
  expect((await fixture.instances.restore("one"))._unsafeUnwrap().state).toBe("Running");
  await fixture.close();
});

test("one whose disk somebody has removed is not started on an empty one, unless it got back what it was before it ever started", async () => {
  const fixture = await open();
  const { id } = (await fixture.instances.create(request("one", ["refuse-boot"])))._unsafeUnwrap(), folder = join(fixture.root, "instances", id);
  await until("the start to fail", () => stateOf(fixture, "one") === "Stopped");
  rmSync(join(folder, "upper.ext4"));
  (await fixture.instances.createSnapshot("one", { kind: "Stopped", name: "new", tags: {} }))._unsafeUnwrap();
  const run = async () => ((await fixture.instances.start("one", { cmd: ["serve"] }))._unsafeUnwrap(), await until("it to run", () => stateOf(fixture, "one") === "Running"), (await fixture.instances.stop("one", { graceMs: 1000 }))._unsafeUnwrap());
  await run();
  const [disk] = readdirSync(folder).filter((name) => name.endsWith(".ext4")).map((name) => join(folder, name)) as [string];
  renameSync(disk, `${disk}.away`);
  expect((await fixture.instances.start("one", {}))._unsafeUnwrapErr()).toMatchObject({ code: "host.storage", message: expect.stringContaining(`${disk} is missing`) });
  expect({ exists: existsSync(disk), message: fixture.instances.get("one")._unsafeUnwrap().exitMessage }).toEqual({ exists: false, message: expect.stringContaining("is missing") });
  renameSync(`${disk}.away`, disk);
  await run();
  (await fixture.instances.restoreSnapshot("one", "new", null))._unsafeUnwrap();
  await run();
  await fixture.close();
});

for (const kind of ["Standby", "Stopped"] as const)
  test(`a snapshot of kind ${kind} whose disk somebody has removed is refused, and the instance that was to get it goes on as it is`, async () => {
    const fixture = await open();
    await running(fixture, "one");
    if (kind === "Stopped") (await fixture.instances.stop("one", { graceMs: 1000 }))._unsafeUnwrap();
    (await fixture.instances.createSnapshot("one", { kind, name: "kept", tags: {} }))._unsafeUnwrap();
    if (kind === "Stopped") (await fixture.instances.start("one", {}))._unsafeUnwrap();
    await until("it to run", () => stateOf(fixture, "one") === "Running");
    const own = disks(fixture).filter((name) => name.endsWith(".img")), others = entries(fixture, "snapshots").map((id) => join(fixture.root, "snapshots", id));
    // A layer, or a file of its own where blocks are shared.
    for (const path of [...own.map((name) => join(fixture.root, "disks", name)), ...others]) rmSync(path, { recursive: true });
    for (const verb of [() => fixture.instances.restoreSnapshot("one", "kept", null), () => fixture.instances.forkSnapshot("kept", { name: "two", targetState: null })])
      expect((await verb())._unsafeUnwrapErr()).toMatchObject({ code: "host.storage", message: expect.stringContaining(" is missing") });
    expect({ state: stateOf(fixture, "one"), names: fixture.instances.list().map(({ name }) => name), monitors: monitorsIn(fixture.root).length }).toEqual({ state: "Running", names: ["one"], monitors: 1 });
    await remove(fixture, "one");
    (await fixture.instances.removeSnapshot("kept"))._unsafeUnwrap();
    expect({ generations: generations(fixture), disks: disks(fixture), snapshots: entries(fixture, "snapshots") }).toEqual({ generations: [], disks: [], snapshots: [] });
    await fixture.close();
  });

test("a compressed memory file that was damaged is refused, and stays for whoever can mend it", async () => {
  const fixture = await openCompressing();
  await running(fixture, "one");
  (await fixture.instances.standby("one", { compression: { enabled: true, algorithm: "zstd", level: 1 } }))._unsafeUnwrap();
  await fixture.compressor.settled();
  const dir = join(fixture.root, "memory", generations(fixture)[0]!), packed = join(dir, "memory.zstd");
  expect(readdirSync(dir).sort()).toEqual(["machine", "memory.zstd"]);
  const whole = Buffer.from(await Bun.file(packed).arrayBuffer());
  for (const bytes of [whole.subarray(0, whole.length - 1), whole.subarray(0, 20), Buffer.from(whole).fill(0x55, 100, 101), Buffer.alloc(0)]) {
    writeFileSync(packed, bytes);
    expect(await codeOf(fixture.instances.restore("one"))).toBe("snapshot.damaged");
    expect({ ...picture(fixture, "one"), files: readdirSync(dir).sort() }).toEqual({ state: "Standby", generations: generations(fixture), monitors: 0, files: ["machine", "memory.zstd"] });
  }
  writeFileSync(packed, whole);
  expect((await fixture.instances.restore("one"))._unsafeUnwrap().state).toBe("Running");
  await fixture.close();
});

for (const [what, spoil] of [
  ["is missing", (dir: string) => rmSync(dir, { recursive: true })],
  ["is another's", (dir: string, other: string) => copyFileSync(join(other, "machine"), join(dir, "machine"))],
  ["has a bit changed", (dir: string) => { const bytes = readFileSync(join(dir, "machine")); bytes[bytes.length >> 1]! ^= 4; writeFileSync(join(dir, "machine"), bytes); }],
] as const)
  test(`a chain whose older part ${what} is refused; both that stand on it can be deleted, and nothing is left`, async () => {
    const fixture = await open();
    await asleep(fixture, "one");
    const [older] = generations(fixture) as [string];
    (await fixture.instances.restore("one").andThen(() => fixture.instances.standby("one")))._unsafeUnwrap();
    const [newer] = generations(fixture).filter((one) => one !== older) as [string];
    (await fixture.instances.createSnapshot("one", { kind: "Standby", name: "kept", tags: {} }))._unsafeUnwrap();
    spoil(join(fixture.root, "memory", older), join(fixture.root, "memory", newer));
    expect((await fixture.instances.restore("one"))._unsafeUnwrapErr()).toMatchObject({ code: "snapshot.damaged", message: expect.stringMatching(/^Cannot (use|restore) /) });
    expect({ state: stateOf(fixture, "one"), monitors: monitorsIn(fixture.root) }).toEqual({ state: "Standby", monitors: [] });
    await remove(fixture, "one");
    (await fixture.instances.removeSnapshot("kept"))._unsafeUnwrap();
    expect({ generations: generations(fixture), disks: disks(fixture), snapshots: entries(fixture, "snapshots") }).toEqual({ generations: [], disks: [], snapshots: [] });
    await fixture.close();
  });
