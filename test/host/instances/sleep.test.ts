// Standby and restore as the daemon does them, over stand-in monitors: what is on record and on disk after each, and after each failure.
import { afterAll, expect, spyOn, test } from "bun:test";
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { MAX_CHAIN } from "../../../src/host/snapshots/generations.ts";
import { failing } from "../../support/failing.ts";
import { until } from "../../support/until.ts";
import { monitorsIn, never, open, removeRoots } from "./fixture.ts";
import { begun, codeOf, generations, running, stateOf } from "./sleeping.ts";

afterAll(removeRoots);

test("standby() ends the monitor and keeps its machine; restore() brings it back and keeps the machine's files while it runs over them", async () => {
  const fixture = await open();
  await running(fixture, "one", ["serve"]);
  const slept = (await fixture.instances.standby("one"))._unsafeUnwrap();
  expect({ state: slept.state, hasSnapshot: slept.hasSnapshot, monitors: monitorsIn(fixture.root), generations: generations(fixture).length }).toEqual({ state: "Standby", hasSnapshot: true, monitors: [], generations: 1 });
  const [before] = generations(fixture);
  const woken = (await fixture.instances.restore("one"))._unsafeUnwrap();
  expect({ state: woken.state, hasSnapshot: woken.hasSnapshot, monitors: monitorsIn(fixture.root).length, generations: generations(fixture) }).toEqual({ state: "Running", hasSnapshot: false, monitors: 1, generations: [before!] });
  // The second sleep is a delta over the first, which stays; once it is stopped nobody needs either.
  (await fixture.instances.standby("one"))._unsafeUnwrap();
  expect(generations(fixture).length).toBe(2);
  (await fixture.instances.restore("one"))._unsafeUnwrap();
  (await fixture.instances.stop("one", { graceMs: 1000 }))._unsafeUnwrap();
  expect(generations(fixture)).toEqual([]);
  await fixture.close();
});

test("where a chain is long enough to be ended by a whole save, nothing of it is left", async () => {
  const fixture = await open();
  await running(fixture, "one", ["serve"]);
  // A wake at once leaves no time to merge.
  for (let sleep = 1; sleep <= MAX_CHAIN; sleep++) {
    (await fixture.instances.standby("one"))._unsafeUnwrap();
    (await fixture.instances.restore("one"))._unsafeUnwrap();
  }
  // On record: a merge that was called off may still be giving up its folder.
  const onRecord = () => fixture.store.db.query<{ id: string }, []>("SELECT id FROM generations").all().map(({ id }) => id), chain = onRecord();
  (await fixture.instances.standby("one"))._unsafeUnwrap();
  const left = onRecord();
  expect({ before: chain.length, after: left.length, kept: left.filter((one) => chain.includes(one)) }).toEqual({ before: MAX_CHAIN, after: 1, kept: [] });
  (await fixture.instances.restore("one"))._unsafeUnwrap();
  await fixture.close();
});

test("what can't sleep or wake says so, and stays as it is", async () => {
  const fixture = await open();
  await running(fixture, "one", ["serve"]);
  expect(await codeOf(fixture.instances.restore("one"))).toBe("instance.invalid_state");
  (await fixture.instances.standby("one"))._unsafeUnwrap();
  expect(await codeOf(fixture.instances.standby("one"))).toBe("instance.invalid_state");
  expect(await codeOf(fixture.instances.start("one", {}))).toBe("instance.invalid_state");
  // Waking by requests is off without a policy.
  expect(await codeOf(fixture.instances.wake("one"))).toBe("instance.invalid_state");
  expect(stateOf(fixture, "one")).toBe("Standby");
  (await fixture.instances.stop("one", { graceMs: 1000 }))._unsafeUnwrap();
  expect({ state: stateOf(fixture, "one"), generations: generations(fixture) }).toEqual({ state: "Stopped", generations: [] });
  expect(await codeOf(fixture.instances.standby("one"))).toBe("instance.invalid_state");
  await fixture.close();
});

test("two standbys at once are one; so are two restores", async () => {
  const fixture = await open();
  await running(fixture, "one", ["serve"]);
  const slept = await Promise.all([fixture.instances.standby("one"), fixture.instances.standby("one")]);
  expect(slept.map((one) => one._unsafeUnwrap().state)).toEqual(["Standby", "Standby"]);
  const woken = await Promise.all([fixture.instances.restore("one"), fixture.instances.restore("one")]);
  expect(woken.map((one) => one._unsafeUnwrap().state)).toEqual(["Running", "Running"]);
  expect(monitorsIn(fixture.root).length).toBe(1);
  await fixture.close();
});

test("a save that fails leaves the guest running and nothing behind", async () => {
  const fixture = await open();
  await running(fixture, "one", ["save-fails"]);
  const error = (await fixture.instances.standby("one"))._unsafeUnwrapErr();
  expect({ code: error.code, message: error.message, state: stateOf(fixture, "one"), generations: generations(fixture), monitors: monitorsIn(fixture.root).length })
    .toEqual({ code: "host.process", message: "Cannot save instance one: Cannot save the machine: no space left on the disk", state: "Running", generations: [], monitors: 1 });
  await fixture.close();
});

test("wake() calls a standby off that has begun", async () => {
  const fixture = await open();
  await running(fixture, "one", ["save-slowly", "60000"]);
  const sleeping = fixture.instances.standby("one");
  await begun(fixture);
  const woken = (await fixture.instances.wake("one"))._unsafeUnwrap();
  const error = (await sleeping)._unsafeUnwrapErr();
  expect({ state: woken.state, code: error.code, now: stateOf(fixture, "one"), generations: generations(fixture) }).toEqual({ state: "Running", code: "conflict", now: "Running", generations: [] });
  await fixture.close();
});

test("a wake that the guest does not acknowledge leaves it asleep, with the reason, and its machine as good as before", async () => {
  const fixture = await open();
  await running(fixture, "one", ["refuse-wake"]);
  (await fixture.instances.standby("one"))._unsafeUnwrap();
  const kept = generations(fixture);
  const error = (await fixture.instances.restore("one"))._unsafeUnwrapErr();
  const { state, stateError } = fixture.instances.get("one")._unsafeUnwrap();
  expect(error.message).toContain("the guest did not acknowledge who it is");
  expect({ state, stateError, kept: generations(fixture), monitors: monitorsIn(fixture.root) }).toEqual({ state: "Standby", stateError: error.message, kept, monitors: [] });
  await fixture.close();
});

test("a saved machine whose file was removed behind our back is refused by name, and the instance can still be deleted", async () => {
  const fixture = await open();
  await running(fixture, "one", ["serve"]);
  (await fixture.instances.standby("one"))._unsafeUnwrap();
  rmSync(join(fixture.root, "memory", generations(fixture)[0]!, "machine"));
  expect(await codeOf(fixture.instances.restore("one"))).toBe("snapshot.damaged");
  expect(stateOf(fixture, "one")).toBe("Standby");
  (await fixture.instances.remove("one", { graceful: true }))._unsafeUnwrap();
  expect(generations(fixture)).toEqual([]);
  await fixture.close();
});

test("a monitor that is killed while it saves leaves its instance Stopped with the reason, never on an older machine", async () => {
  const fixture = await open();
  await running(fixture, "one", ["save-slowly", "60000"]);
  const sleeping = fixture.instances.standby("one");
  await begun(fixture);
  for (const pid of monitorsIn(fixture.root)) process.kill(pid, "SIGKILL");
  expect((await sleeping).isErr()).toBe(true);
  (await fixture.instances.wait("one", "Stopped", 20_000, never()))._unsafeUnwrap();
  const { state, hasSnapshot, exitMessage } = fixture.instances.get("one")._unsafeUnwrap();
  expect({ state, hasSnapshot, exitMessage, generations: generations(fixture) }).toEqual({ state: "Stopped", hasSnapshot: false, exitMessage: "the monitor's process was killed", generations: [] });
  await fixture.close();
});

test("the next daemon finds a sleeper asleep, and sweeps what no record tells of", async () => {
  const fixture = await open();
  await running(fixture, "one", ["serve"]);
  (await fixture.instances.standby("one"))._unsafeUnwrap();
  const kept = generations(fixture);
  await fixture.close();
  const stray = join(fixture.root, "memory", "stray");
  writeFileSync(stray, "");
  const next = await open(fixture.root);
  expect({ state: stateOf(next, "one"), generations: generations(next), stray: existsSync(stray) }).toEqual({ state: "Standby", generations: kept, stray: false });
  expect((await next.instances.restore("one"))._unsafeUnwrap().state).toBe("Running");
  await next.close();
});

test("a chain of sleeps becomes one while its instance sleeps, for all who sleep on it; nobody waits for that, and waking calls it off", async () => {
  const fixture = await open();
  await running(fixture, "one", ["serve"]);
  for (let night = 1; night <= 4; night++) {
    (await fixture.instances.standby("one"))._unsafeUnwrap();
    if (night < 4) (await fixture.instances.restore("one"))._unsafeUnwrap();
  }
  (await fixture.instances.fork("one", { name: "two", fromRunning: false, targetState: "Standby" }))._unsafeUnwrap();
  await until("the chain to be one", () => generations(fixture).length === 1);
  for (const name of ["one", "two"]) (await fixture.instances.restore(name))._unsafeUnwrap();
  (await fixture.instances.remove("two", { graceful: false }))._unsafeUnwrap();
  // Short naps, longer in number than a chain may be.
  for (let night = 0; night < 10; night++) {
    (await fixture.instances.standby("one"))._unsafeUnwrap();
    (await fixture.instances.restore("one"))._unsafeUnwrap();
    expect(stateOf(fixture, "one")).toBe("Running");
  }
  (await fixture.instances.stop("one", { graceMs: 1000 }))._unsafeUnwrap();
  await until("the files to go", () => generations(fixture).length === 0);
  expect(fixture.logged.filter((line) => line.includes("memory.unmerged"))).toEqual([]);
  await fixture.close();
});

test("an end that could not be written down at once is not taken for that of the monitor that came after", async () => {
  const later: (() => void)[] = [], own = globalThis.setTimeout;
  using _timers = spyOn(globalThis, "setTimeout").mockImplementation(((work: () => void, ms: number) => (ms === 2_000 ? (later.push(work), own(() => {}, 0)) : own(work, ms))) as typeof setTimeout);
  let broken: Disposable | null = null;
  const fixture = await open(undefined, { onStep: (at) => { if (at === "started" && later.length === 0) broken ??= failing(fixture.store.db); } });
  await running(fixture, "one", ["serve"]);
  (await fixture.instances.standby("one"))._unsafeUnwrap();
  expect((await fixture.instances.restore("one")).isErr()).toBe(true);
  await until("its end not to be written down", () => later.length > 0);
  broken![Symbol.dispose]();
  (await fixture.instances.restore("one"))._unsafeUnwrap();
  later.splice(0).forEach((work) => work());
  const processes = fixture.store.db.query("SELECT * FROM instance_processes").all();
  expect({ state: stateOf(fixture, "one"), monitors: monitorsIn(fixture.root).length, processes: processes.length }).toEqual({ state: "Running", monitors: 1, processes: 1 });
  await fixture.close();
});
