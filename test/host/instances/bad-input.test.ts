// What is asked for at the wrong time or over files that somebody spoiled: a code that says why, and record and files as they should be.
import { afterAll, expect, test } from "bun:test";
import { copyFileSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fail } from "../../../src/errors.ts";
import { userOfImage } from "../../../src/host/instances/instances.ts";
import { until } from "../../support/until.ts";
import { DIGEST, freshRoot, imagesIn, monitorsIn, open, removeRoots, type Fixture } from "./fixture.ts";
import { asleep, begun, codeOf, disks, entries, generations, openCompressing, picture, remove, running, stateOf } from "./sleeping.ts";

afterAll(removeRoots);
const fork = (fixture: Fixture, source: string, name: string) => fixture.instances.fork(source, { name, fromRunning: true, targetState: null });

for (const force of [true, false])
  test(`a ${force ? "forced" : "graceful"} delete during a standby wins: nothing is left`, async () => {
    const fixture = await open();
    await running(fixture, "one", ["save-slowly", force ? "60000" : "300"]);
    const sleeping = fixture.instances.standby("one");
    await begun(fixture);
    (await fixture.instances.remove("one", { graceful: !force }))._unsafeUnwrap();
    expect((await sleeping).isErr()).toBe(force);
    expect({ instances: fixture.instances.list(), generations: generations(fixture), disks: disks(fixture), monitors: monitorsIn(fixture.root) }).toEqual({ instances: [], generations: [], disks: [], monitors: [] });
    await fixture.close();
  });

for (const step of ["started", "acknowledged", "awake", "released"] as const)
  for (const graceful of [false, true])
    test(`a ${graceful ? "graceful" : "forced"} delete during a restore that is ${step} wins: nothing is left`, async () => {
      let removed: Promise<unknown> | null = null;
      const fixture = await open(undefined, { onStep: (at) => { if (at === step) removed ??= Promise.resolve(fixture.instances.remove("one", { graceful })); } });
      await asleep(fixture, "one");
      await fixture.instances.restore("one");
      await removed;
      expect({ instances: fixture.instances.list(), generations: generations(fixture), disks: disks(fixture), monitors: monitorsIn(fixture.root) }).toEqual({ instances: [], generations: [], disks: [], monitors: [] });
      await fixture.close();
    });

test("1,000 restores at once are one, and so are 1,000 wakes", async () => {
  let started = 0;
  const fixture = await open(undefined, { onStep: (step) => { if (step === "started") started++; } });
  const policy = { enabled: false, idleTimeoutMs: 0, ignoreDestinationPorts: [], ignoreSourceCidrs: [], wakeOnPacket: true };
  for (const [i, verb] of (["restore", "wake"] as const).entries()) {
    await asleep(fixture, verb, ["serve"], { autoStandby: policy });
    const answers = await Promise.all(Array.from({ length: 1000 }, () => fixture.instances[verb](verb)));
    expect(new Set(answers.map((one) => one._unsafeUnwrap().state))).toEqual(new Set(["Running"] as const));
    expect({ started, monitors: monitorsIn(fixture.root).length }).toEqual({ started: i + 1, monitors: i + 1 });
  }
  // Some of either kind: whoever asked for Running has it.
  (await fixture.instances.standby("wake"))._unsafeUnwrap();
  const mixed = await Promise.all(Array.from({ length: 100 }, (_, i) => fixture.instances[i % 2 === 0 ? "restore" : "wake"]("wake")));
  expect({ states: new Set(mixed.map((one) => one._unsafeUnwrap().state)), started }).toEqual({ states: new Set(["Running"] as const), started: 3 });
  await fixture.close();
}, 120_000);

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

test("a machine that needs what this CPU lacks is refused as such, and sleeps on", async () => {
  const fixture = await open();
  await asleep(fixture, "one", ["needs-feature"]);
  const kept = generations(fixture), error = (await fixture.instances.restore("one"))._unsafeUnwrapErr();
  expect({ code: error.code, message: error.message }).toEqual({ code: "snapshot.incompatible", message: expect.stringContaining("this host lacks CPUID 0x7.0.ebx bit 16") });
  expect(picture(fixture, "one")).toEqual({ state: "Standby", generations: kept, monitors: 0 });
  await fixture.close();
});

test("a sleeper whose image is gone, or can't be read, says so and sleeps on; once it is back it wakes", async () => {
  let gone = false;
  const root = freshRoot(), there = imagesIn(root);
  const fixture = await open(root, { images: { ready: (name) => (gone ? fail("image.not_ready", `Cannot use the image ${name}: its root file system is gone`) : there.ready(name)) } });
  await asleep(fixture, "one");
  const kept = generations(fixture);
  gone = true;
  const error = (await fixture.instances.restore("one"))._unsafeUnwrapErr();
  expect({ code: error.code, stateError: fixture.instances.get("one")._unsafeUnwrap().stateError, ...picture(fixture, "one") }).toEqual({ code: "image.not_ready", stateError: error.message, state: "Standby", generations: kept, monitors: 0 });
  gone = false;
  expect((await fixture.instances.restore("one"))._unsafeUnwrap()).toMatchObject({ state: "Running", stateError: null });
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

test("an image is in use while an instance or only a snapshot was made of it", async () => {
  const fixture = await open();
  const user = () => userOfImage(fixture.store.db, DIGEST);
  expect(user()).toBe(null);
  await running(fixture, "one");
  expect(user()).toBe("the instance one");
  (await fixture.instances.createSnapshot("one", { kind: "Standby", name: "kept", tags: {} }))._unsafeUnwrap();
  await remove(fixture, "one");
  expect(user()).toBe("the snapshot kept of one");
  (await fixture.instances.removeSnapshot("kept"))._unsafeUnwrap();
  expect(user()).toBe(null);
  await fixture.close();
});

test("forks under one name at once: one is made, and whoever asked for another target is not given it", async () => {
  const fixture = await open();
  await running(fixture, "one");
  await running(fixture, "other");
  const answers = await Promise.all([fork(fixture, "one", "two"), fork(fixture, "other", "two")]);
  expect(answers.map((one) => (one.isOk() ? "ok" : one.error.code)).sort()).toEqual(["instance.already_exists", "ok"]);
  expect({ monitors: monitorsIn(fixture.root).length, names: fixture.instances.list().map(({ name }) => name) }).toEqual({ monitors: 3, names: ["one", "other", "two"] });
  const targets = await Promise.all((["Standby", "Standby", "Running"] as const).map((targetState) => fixture.instances.fork("one", { name: "three", fromRunning: true, targetState })));
  expect(targets.map((one) => (one.isOk() ? one.value.state : one.error.code))).toEqual(["Standby", "Standby", "instance.already_exists"]);
  for (const name of ["one", "other", "two", "three"]) await remove(fixture, name);
  expect({ generations: generations(fixture), disks: disks(fixture), folders: entries(fixture, "instances").filter((name) => !name.startsWith(".")) }).toEqual({ generations: [], disks: [], folders: [] });
  await fixture.close();
});

test("a standby by force does not join one that gives way to visitors", async () => {
  const fixture = await open(undefined, { guard: { forget() {}, visitors: async () => "somebody is there", lateVisitors: async () => "somebody is there" } });
  await running(fixture, "one");
  const answers = await Promise.all([{}, { force: true }, {}].map((options) => fixture.instances.standby("one", options)));
  expect(answers.map((one) => (one.isOk() ? one.value.state : one.error.code))).toEqual(["conflict", "Standby", "Standby"]);
  await fixture.close();
});

for (const [who, come, reason] of [
  ["a hold", (fixture: Fixture) => fixture.instances.holdAutoStandby("one"), "it was held awake"],
  ["a request", (fixture: Fixture) => fixture.instances.wake("one"), "a request came for it"],
] as const)
  test(`${who} calls off a standby that still looks who is there`, async () => {
    const looking = Promise.withResolvers<void>(), looked = Promise.withResolvers<null>();
    const fixture = await open(undefined, { guard: { forget() {}, visitors: () => (looking.resolve(), looked.promise), lateVisitors: async () => null } });
    await running(fixture, "one");
    const slept = fixture.instances.standby("one");
    await looking.promise;
    const came = come(fixture);
    looked.resolve(null);
    expect((await slept)._unsafeUnwrapErr()).toMatchObject({ code: "conflict", message: expect.stringContaining(reason), details: { reason: "called_off" } });
    expect({ came: (await came).isOk(), ...picture(fixture, "one") }).toEqual({ came: true, state: "Running", generations: [], monitors: 1 });
    await fixture.close();
  });

test("a save that the monitor never answers does not leave the guest standing still", async () => {
  const fixture = await open(undefined, { saveTimeoutMs: () => 300 });
  await running(fixture, "one", ["save-silently"]);
  expect(await codeOf(fixture.instances.standby("one"))).toBe("host.process");
  expect(picture(fixture, "one")).toEqual({ state: "Running", generations: [], monitors: 1 });
  // It stands no longer: what its monitor tells of it is that it runs.
  expect((await fixture.instances.stop("one", { graceMs: 1000 }))._unsafeUnwrap()).toMatchObject({ state: "Stopped", exitCode: 143 });
  expect(existsSync(join(fixture.root, "memory"))).toBe(true);
  await fixture.close();
});

test("a monitor that dies as soon as its guest is awake never leaves it Running without one", async () => {
  const fixture = await open();
  for (let round = 0; round < 10; round++) {
    await asleep(fixture, `one-${round}`, ["die-awake"]);
    await fixture.instances.restore(`one-${round}`);
    await fixture.instances.wait(`one-${round}`, "Stopped", 5000, new AbortController().signal);
    expect(["Stopped", "Standby"]).toContain(stateOf(fixture, `one-${round}`));
  }
  expect(monitorsIn(fixture.root)).toEqual([]);
  await fixture.close();
});

test("one that was saved and does not go on is Paused on record, and can be stopped", async () => {
  const fixture = await open(undefined, { guard: { forget() {}, visitors: async () => null, lateVisitors: async () => "somebody came" } });
  await running(fixture, "one", ["never-thaws"]);
  expect((await fixture.instances.standby("one"))._unsafeUnwrapErr().message).toContain("the guest did not thaw its workload");
  expect(picture(fixture, "one")).toEqual({ state: "Paused", generations: [], monitors: 1 });
  expect((await fixture.instances.stop("one", { graceMs: 1000 }))._unsafeUnwrap().state).toBe("Stopped");
  await fixture.close();
});

test("one whose visitors can't be told stays awake", async () => {
  const fixture = await open(undefined, { guard: { forget() {}, visitors: async () => null, lateVisitors: async () => { throw new Error("a bug"); } } });
  await running(fixture, "one");
  expect(await codeOf(fixture.instances.standby("one"))).toBe("conflict");
  expect(picture(fixture, "one")).toEqual({ state: "Running", generations: [], monitors: 1 });
  expect((await fixture.instances.exec("one", { command: ["echo"], tty: false, env: {}, cwd: null, user: null, rows: 1, cols: 1, timeoutMs: null, waitForAgentMs: 0 }, { onStdout() {}, onStderr() {}, onDrain() {}, onEnd() {}, onLost() {} })).isOk()).toBe(true);
  await fixture.close();
});
