// What is asked for at the wrong time, or can't be: a code that says why, and record and files as they should be. (Files that somebody spoiled: spoiled-files.test.ts.)
import { afterAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fail } from "../../../src/errors.ts";
import { userOfImage } from "../../../src/host/instances/instances.ts";
import { until } from "../../support/until.ts";
import { DIGEST, freshRoot, imagesIn, monitorsIn, open, removeRoots, type Fixture } from "./fixture.ts";
import { asleep, begun, codeOf, disks, entries, generations, picture, remove, running, stateOf } from "./sleeping.ts";

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

test("a monitor that dies once it has saved its guest leaves it Stopped, as it was told, and not asleep", async () => {
  const lateVisitors = async () => {
    for (const pid of monitorsIn(fixture.root)) process.kill(pid, "SIGKILL");
    await until("its end to be on record", () => stateOf(fixture, "one") === "Stopped");
    return null;
  };
  const fixture = await open(undefined, { guard: { forget() {}, visitors: async () => null, lateVisitors } });
  await running(fixture, "one");
  expect(await codeOf(fixture.instances.standby("one"))).toBe("host.process");
  expect(picture(fixture, "one")).toEqual({ state: "Stopped", generations: [], monitors: 0 });
  expect((await fixture.instances.start("one", {})).isOk()).toBe(true);
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
  expect((await fixture.instances.exec("one", { command: ["echo"], tty: false, env: {}, cwd: null, user: null, rows: 1, cols: 1, timeoutMs: null, waitForAgentMs: 0 }, { onStdout() {}, onStderr() {}, onDrain() {}, onEnd() {}, onLost() {} }, new AbortController().signal)).isOk()).toBe(true);
  await fixture.close();
});
