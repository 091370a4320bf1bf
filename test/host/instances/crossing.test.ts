// Verbs of different instances, snapshots and of the background that meet over the same files: whoever comes second finds them whole, or is told.
import { afterAll, expect, test } from "bun:test";
import { okAsync } from "neverthrow";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Compressor } from "../../../src/host/snapshots/compression/compressor.ts";
import { sqliteRecords } from "../../../src/host/snapshots/compression/records.ts";
import { until } from "../../support/until.ts";
import { monitorsIn, open, removeRoots, type Fixture } from "./fixture.ts";
import { asleep, begun, disks, entries, generations, openCompressing, remove, running, stateOf } from "./sleeping.ts";
import { trashIn } from "../../support/trash.ts";

afterAll(removeRoots);
const nothing = (fixture: Fixture) => expect({ generations: generations(fixture), disks: disks(fixture), snapshots: entries(fixture, "snapshots"), monitors: monitorsIn(fixture.root) }).toEqual({ generations: [], disks: [], snapshots: [], monitors: [] });

for (const kind of ["Standby", "Stopped"] as const)
  test(`a snapshot of kind ${kind} that is deleted while it is given back: either comes first, and the instance keeps a disk`, async () => {
    const fixture = await open();
    for (const first of ["give", "delete"] as const) {
      await running(fixture, "one");
      if (kind === "Stopped") (await fixture.instances.stop("one", { graceMs: 1000 }))._unsafeUnwrap();
      (await fixture.instances.createSnapshot("one", { kind, name: "kept", tags: {} }))._unsafeUnwrap();
      if (kind === "Stopped") (await fixture.instances.start("one", {}))._unsafeUnwrap();
      const give = () => fixture.instances.restoreSnapshot("one", "kept", "Stopped"), drop = () => fixture.instances.removeSnapshot("kept");
      if (first === "give") {
        const giving = Promise.resolve(give());
        for (let turn = 0; turn < 20; turn++) await null; // it has begun: its instance is being ended
        const dropped = await drop(), given = await giving;
        expect([dropped.isOk(), given._unsafeUnwrap().state]).toEqual([true, "Stopped"]);
      } else {
        const [dropped, given] = await Promise.all([drop(), give()]);
        expect([dropped.isOk(), given._unsafeUnwrapErr().code]).toEqual([true, "snapshot.not_found"]);
      }
      // Its files are there: a disk that was lost would be made anew, and empty.
      const { id } = fixture.instances.get("one")._unsafeUnwrap();
      expect(entries(fixture, `instances/${id}`).some((name) => name.startsWith("upper"))).toBe(true);
      await remove(fixture, "one");
      nothing(fixture);
    }
    await fixture.close();
  });

test("an instance that is deleted while it is forked, and one whose fork is deleted while it is born", async () => {
  const fixture = await open();
  await running(fixture, "one", ["save-slowly", "200"]);
  const forked = fixture.instances.fork("one", { name: "two", fromRunning: true, targetState: null });
  await begun(fixture);
  (await fixture.instances.remove("one", { graceful: true }))._unsafeUnwrap();
  expect((await forked)._unsafeUnwrap().state).toBe("Running");
  const again = fixture.instances.fork("two", { name: "three", fromRunning: true, targetState: null });
  await begun(fixture, generations(fixture).length);
  // It is nobody yet, or just somebody.
  const deleted = await fixture.instances.remove("three", { graceful: false });
  const outcome = await again;
  if (deleted.isOk()) expect(outcome.isErr()).toBe(true);
  for (const { name } of fixture.instances.list()) await remove(fixture, name);
  expect({ generations: generations(fixture), monitors: monitorsIn(fixture.root) }).toEqual({ generations: [], monitors: [] });
  await fixture.close();
});

test("a forced delete of the source ends its fork without a trace", async () => {
  const fixture = await open();
  await running(fixture, "one", ["save-slowly", "60000"]);
  const forked = fixture.instances.fork("one", { name: "two", fromRunning: true, targetState: null });
  await begun(fixture);
  await remove(fixture, "one");
  expect((await forked).isErr()).toBe(true);
  expect(fixture.instances.list()).toEqual([]);
  nothing(fixture);
  await fixture.close();
});

test("memory that somebody has compressed while the rest of its chain is made ready is opened all the same", async () => {
  const zstd = { enabled: true, algorithm: "zstd", level: 1 } as const;
  let compressor: Compressor, root = "";
  const fixture = await open(undefined, (db, trash) => {
    compressor = new Compressor({ records: sqliteRecords(db), trash });
    const ready: string[] = [];
    const compression = Object.assign(Object.create(compressor) as Compressor, {
      // As a snapshot's policy may, while an older generation is decompressed for seconds.
      ensureRaw: (gid: string, dir: string) => compressor.ensureRaw(gid, dir).andThen(() => {
        const before = ready.at(-1);
        ready.push(gid);
        if (before === undefined) return okAsync(undefined);
        compressor.schedule(before, join(root, "memory", before), zstd, 0);
        return okAsync(undefined).andThen(() => okAsync(compressor.settled())).map(() => undefined);
      }),
    });
    return { compression };
  });
  root = fixture.root;
  await asleep(fixture, "one");
  (await fixture.instances.restore("one"))._unsafeUnwrap();
  (await fixture.instances.standby("one"))._unsafeUnwrap();
  expect(generations(fixture).length).toBe(2);
  expect((await fixture.instances.restore("one"))._unsafeUnwrap().state).toBe("Running");
  await compressor!.settled();
  await fixture.close();
});

test("what a daemon decompresses while it starts is not taken for a leftover", async () => {
  const gate = Promise.withResolvers<void>(), reached = Promise.withResolvers<void>();
  const fixture = await openCompressing();
  await running(fixture, "one");
  (await fixture.instances.standby("one", { compression: { enabled: true, algorithm: "lz4", level: 0 } }))._unsafeUnwrap();
  await fixture.compressor.settled();
  const dir = join(fixture.root, "memory", generations(fixture)[0]!);
  expect(existsSync(join(dir, "memory.lz4"))).toBe(true);
  const second = new Compressor({ records: sqliteRecords(fixture.store.db), trash: trashIn(fixture.root), onStep: async (_work, at) => { if (at === "synced") { reached.resolve(); await gate.promise; } } });
  const opening = second.ensureRaw(generations(fixture)[0]!, dir);
  await reached.promise;
  second.resume(() => dir);
  gate.resolve();
  (await opening)._unsafeUnwrap();
  expect(existsSync(join(dir, "memory"))).toBe(true);
  await second.close();
  await fixture.close();
});

test("a snapshot is never made of an instance that runs without a monitor on record", async () => {
  const fixture = await open();
  await running(fixture, "one");
  fixture.store.db.run("UPDATE instances SET state = 'Running' WHERE name = 'one'");
  for (const pid of monitorsIn(fixture.root)) process.kill(pid, "SIGKILL");
  const taken = await fixture.instances.createSnapshot("one", { kind: "Standby", name: null, tags: {} });
  expect(taken.isErr()).toBe(true);
  expect(fixture.instances.listSnapshots()).toEqual([]);
  await remove(fixture, "one");
  nothing(fixture);
  await fixture.close();
});

for (const state of ["Stopped", "Standby"] as const)
  test(`a fork of one that is ${state} is nobody's before it is whole: who starts it meanwhile waits for that`, async () => {
    const fixture = await open();
    await running(fixture, "one");
    if (state === "Standby") (await fixture.instances.standby("one"))._unsafeUnwrap();
    else (await fixture.instances.stop("one", { graceMs: 1000 }))._unsafeUnwrap();
    let started: Promise<string> | null = null;
    fixture.instances.subscribe(({ name }) => { if (name === "two") started ??= Promise.resolve(fixture.instances.start("two", {})).then((done) => done.match((one) => one.state, (error) => error.code)); });
    expect((await fixture.instances.fork("one", { name: "two", fromRunning: false, targetState: null })).isOk()).toBe(true);
    expect(state === "Standby" ? ["instance.invalid_state"] : ["Initializing", "Running"]).toContain(await started!);
    if (state === "Standby") expect((await fixture.instances.restore("two"))._unsafeUnwrap().state).toBe("Running");
    await until("it to run", () => fixture.instances.get("two")._unsafeUnwrap().state === "Running");
    expect(monitorsIn(fixture.root).length).toBe(1);
    // It runs on the disk that it was given, whose files have names of their own.
    const { id } = fixture.instances.get("two")._unsafeUnwrap();
    expect(entries(fixture, `instances/${id}`)).not.toContain("upper.ext4");
    for (const name of ["one", "two"]) await remove(fixture, name);
    await fixture.close();
  });

test("a scheduled snapshot of an instance that is being stopped is of its disk, and none is missed", async () => {
  const fixture = await open(), wanted = { intervalMs: 60_000, maxCount: 1, maxAgeMs: null, namePrefix: null, metadata: {} };
  await running(fixture, "one", ["deaf"]);
  const { instanceId } = (await fixture.instances.setSchedule("one", wanted))._unsafeUnwrap();
  fixture.store.db.query("UPDATE snapshot_schedules SET next_run_at = 0").run();
  const stopped = fixture.instances.stop("one", { graceMs: 200 });
  (await fixture.instances.setSchedule("one", wanted))._unsafeUnwrap(); // it is due: what it sees still runs
  (await stopped)._unsafeUnwrap();
  await until("the run to end", () => fixture.instances.getSchedule("one")._unsafeUnwrap().lastRunAt !== null);
  expect(fixture.instances.getSchedule("one")._unsafeUnwrap().lastError).toBeNull();
  expect(fixture.instances.listSnapshots({ sourceInstanceId: instanceId }).map(({ kind }) => kind)).toEqual(["Stopped"]);
  await fixture.close();
});

test("a snapshot that is deleted before its guest runs on is not found by who took it", async () => {
  const fixture = await open(), thaws = join(fixture.root, "thaws");
  await running(fixture, "one", ["thaws-once", thaws]);
  const taken = fixture.instances.createSnapshot("one", { kind: "Standby", name: "brief", tags: {} });
  await until("the snapshot to be there", () => fixture.instances.listSnapshots().length > 0);
  (await fixture.instances.removeSnapshot("brief"))._unsafeUnwrap();
  writeFileSync(thaws, "");
  expect((await taken)._unsafeUnwrapErr()).toMatchObject({ code: "snapshot.not_found", message: expect.stringContaining("deleted meanwhile") });
  expect({ state: stateOf(fixture, "one"), snapshots: entries(fixture, "snapshots") }).toEqual({ state: "Running", snapshots: [] });
  await fixture.close();
});
