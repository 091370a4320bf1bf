import { expect, test } from "bun:test";
import { checkSchedule, nextOnGrid, snapshotName } from "../../../../src/host/snapshots/schedules/check.ts";
import type { SetSchedule } from "../../../../src/host/snapshots/service.ts";
import { failing } from "../../../support/failing.ts";
import { DAY, HOUR, HOURLY, MINUTE, NOON, refusal, World } from "./world.ts";

test("checkSchedule() wants an interval of a minute, a limit, and a short prefix", () => {
  const field = (change: Partial<SetSchedule>) => checkSchedule({ ...HOURLY, ...change }).match(() => null, (error) => [error.code, error.details?.["field"]]);
  expect(field({})).toBeNull();
  for (const intervalMs of [0, -1, MINUTE - 1, 59_999.9, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 60]) expect(field({ intervalMs })).toEqual(["request.bad", "interval"]);
  for (const maxCount of [-1, 1.5, Number.NaN]) expect(field({ maxCount })).toEqual(["request.bad", "retention.max_count"]);
  for (const maxAgeMs of [-1, Number.NaN, 2 ** 60]) expect(field({ maxAgeMs })).toEqual(["request.bad", "retention.max_age"]);
  for (const none of [{ maxCount: null }, { maxCount: 0 }, { maxCount: 0, maxAgeMs: 0 }]) expect(field(none)).toEqual(["request.bad", "retention"]);
  for (const namePrefix of ["a".repeat(48), "-a", "A", "a_b", "a b", "ä"]) expect(field({ namePrefix })).toEqual(["request.bad", "name_prefix"]);
  expect(checkSchedule({ ...HOURLY, maxCount: 0, maxAgeMs: 5.4, namePrefix: "" })._unsafeUnwrap()).toEqual({ ...HOURLY, maxCount: null, maxAgeMs: 5, namePrefix: null });
});

test("nextOnGrid() stays on the grid and makes up for nothing", () => {
  expect([nextOnGrid(100, 10, 99), nextOnGrid(100, 10, 100), nextOnGrid(100, 10, 109), nextOnGrid(100, 10, 110), nextOnGrid(100, 10, 1234), nextOnGrid(100, 10, 73)]).toEqual([100, 110, 110, 120, 1240, 80]);
});

test("snapshotName() is a name, of at most 63, and free", () => {
  expect(snapshotName(null, NOON, () => false)).toBe("scheduled-20261127-120000");
  const taken = new Set(["web-20261127-120000", "web-20261127-120001"]);
  expect(snapshotName("web", NOON, (name) => taken.has(name))).toBe("web-20261127-120002");
  expect(snapshotName("a".repeat(47), NOON, () => false).length).toBe(63);
});

test("set(): a new schedule counts from now, an unchanged interval keeps the next run, another one begins anew", async () => {
  await using world = new World();
  world.instance("i");
  const first = world.set("i");
  expect(first).toEqual({ instanceId: "i", ...HOURLY, createdAt: NOON, updatedAt: NOON, nextRunAt: NOON + HOUR, lastRunAt: null, lastSnapshotId: null, lastError: null });
  world.clock.advance(10 * MINUTE);
  expect(world.set("i", { maxCount: null, maxAgeMs: DAY, namePrefix: null, metadata: {} })).toEqual({
    ...first, maxCount: null, maxAgeMs: DAY, namePrefix: null, metadata: {}, updatedAt: NOON + 10 * MINUTE });
  expect(world.set("i", { intervalMs: 2 * HOUR })).toMatchObject({ createdAt: NOON, nextRunAt: NOON + 10 * MINUTE + 2 * HOUR });
});

test("set(), get(), remove() of what isn't there", async () => {
  await using world = new World();
  expect(world.schedules.set("i", HOURLY)._unsafeUnwrapErr().code).toBe("instance.not_found");
  world.instance("i");
  expect(world.schedules.set("i", { ...HOURLY, intervalMs: 1 })._unsafeUnwrapErr().code).toBe("request.bad");
  expect(world.schedules.get("i")._unsafeUnwrapErr().code).toBe("snapshot.not_found");
  expect(world.schedules.remove("i")._unsafeUnwrapErr().code).toBe("snapshot.not_found");
  world.set("i");
  expect(world.schedules.remove("i").isOk()).toBe(true);
  world.schedules.start();
  await world.pass(DAY);
  expect(world.names()).toEqual([]);
});

test("a schedule takes its snapshots on time, with its metadata, of what runs, sleeps or is stopped", async () => {
  await using world = new World();
  const states = { r: "Running", z: "Standby", s: "Stopped" } as const;
  for (const [id, state] of Object.entries(states)) world.set(world.instance(id, state), { namePrefix: id });
  world.schedules.start();
  await world.pass(HOUR - 1);
  expect(world.names()).toEqual([]);
  await world.pass(1);
  expect(world.snapshots.map(({ instanceId, name, metadata }) => [instanceId, name, metadata]).toSorted()).toEqual([
    ["r", "r-20261127-130000", { team: "a" }], ["s", "s-20261127-130000", { team: "a" }], ["z", "z-20261127-130000", { team: "a" }]]);
  const own = world.snapshots.find((one) => one.instanceId === "r")!;
  expect(world.get("r")).toMatchObject({ lastRunAt: NOON + HOUR, lastSnapshotId: own.id, lastError: null, nextRunAt: NOON + 2 * HOUR });
});

test("other states are told in last_error, and the next run is tried", async () => {
  await using world = new World();
  world.set(world.instance("i", "Initializing"));
  world.schedules.start();
  await world.pass(HOUR);
  expect(world.get("i")).toMatchObject({ lastRunAt: NOON + HOUR, lastSnapshotId: null, nextRunAt: NOON + 2 * HOUR, lastError: "Cannot take the scheduled snapshot: the instance is Initializing, and must be Running, Standby or Stopped" });
  world.states.set("i", "Running");
  await world.pass(HOUR);
  expect(world.get("i")).toMatchObject({ lastSnapshotId: "s0", lastError: null });
  world.creating = refusal("host.storage", "Cannot take a snapshot: the disk is full");
  await world.pass(HOUR);
  expect(world.get("i")).toMatchObject({ lastSnapshotId: "s0", lastRunAt: NOON + 3 * HOUR, lastError: "Cannot take a snapshot: the disk is full", nextRunAt: NOON + 4 * HOUR });
});

test("runs that were missed while no daemon ran are one run, and the grid stays", async () => {
  await using world = new World();
  world.set(world.instance("i"));
  world.clock.advance(5 * HOUR + 7 * MINUTE);
  world.schedules.start();
  await world.schedules.idle();
  expect(world.names()).toEqual(["web-20261127-170700"]);
  expect(world.get("i").nextRunAt).toBe(NOON + 6 * HOUR);
  await world.pass(53 * MINUTE);
  expect(world.names()).toEqual(["web-20261127-170700", "web-20261127-180000"]);
});

test("a clock that is set back delays no run by more than an interval, and the newest are those that were taken last", async () => {
  await using world = new World();
  world.set(world.instance("i"), { maxCount: 2 });
  world.schedules.start();
  for (let i = 0; i < 2; i++) await world.pass(HOUR);
  world.removing = refusal("conflict", "it is being forked"); // and is tried again a minute later
  await world.pass(HOUR);
  world.removing = null;
  world.clock.jump(-DAY - 5 * MINUTE);
  await world.pass(4 * MINUTE);
  expect(world.names()).toEqual(["web-20261127-130000", "web-20261127-140000", "web-20261127-150000"]);
  await world.pass(MINUTE);
  expect([world.names(), world.get("i").nextRunAt]).toEqual([["web-20261127-150000", "web-20261126-150000"], NOON - DAY + 4 * HOUR]);
});

test("one run at a time for an instance, two for the host; a long one makes others late, not many", async () => {
  await using world = new World();
  const { promise, resolve } = Promise.withResolvers<void>();
  world.before = (id) => (id === "a" ? promise : Promise.resolve());
  for (const id of ["a", "b", "c", "d"]) world.set(world.instance(id), { intervalMs: MINUTE, maxCount: 100 });
  world.schedules.start();
  for (let i = 0; i < 5; i++) {
    world.clock.advance(MINUTE);
    while (world.snapshots.length < 3 * (i + 1)) await Bun.sleep(0);
  }
  expect(world.snapshots.some((one) => one.instanceId === "a")).toBe(false);
  resolve();
  await world.schedules.idle();
  expect([world.snapshots.filter((one) => one.instanceId === "a").length, world.mostAtOnce, world.get("a").nextRunAt]).toEqual([1, 2, NOON + 6 * MINUTE]);
});

test("retention by count keeps the newest of the schedule's own", async () => {
  await using world = new World();
  world.set(world.instance("i"), { maxCount: 2 });
  world.snapshots.push({ id: "by-hand", instanceId: "i", name: "web-20261127-130000", createdAt: 0, metadata: {} });
  world.schedules.start();
  await world.pass(4 * HOUR);
  for (let i = 0; i < 4; i++) await world.pass(HOUR);
  expect(world.names()[0]).toBe("web-20261127-130000");
  expect(world.names().slice(1)).toEqual(["web-20261127-190000", "web-20261127-200000"]);
  expect(world.removed).not.toContain("by-hand");
});

test("what somebody has deleted or a schedule did not take counts for nothing", async () => {
  await using world = new World();
  world.set(world.instance("i"), { maxCount: 2 });
  world.schedules.start();
  await world.pass(HOUR);
  await world.pass(HOUR);
  world.snapshots = world.snapshots.filter((one) => one.id !== "s1"); // by hand
  await world.pass(HOUR);
  expect([world.names(), world.removed]).toEqual([["web-20261127-130000", "web-20261127-150000"], []]);
});

test("retention by age needs no run", async () => {
  await using world = new World();
  world.set(world.instance("i"), { intervalMs: DAY, maxCount: null, maxAgeMs: 2 * HOUR });
  world.schedules.start();
  await world.pass(DAY);
  expect(world.names().length).toBe(1);
  await world.pass(2 * HOUR);
  expect(world.names().length).toBe(1);
  await world.pass(MINUTE);
  expect([world.names(), world.get("i").lastError]).toEqual([[], null]);
});

test("a snapshot that can't be deleted is told, and tried again, but not at once", async () => {
  await using world = new World();
  world.set(world.instance("i"), { intervalMs: DAY, maxCount: null, maxAgeMs: HOUR });
  world.schedules.start();
  await world.pass(DAY);
  world.removing = refusal("conflict", "it is being forked");
  await world.pass(HOUR + MINUTE);
  expect([world.names().length, world.get("i").lastError]).toEqual([1, `Cannot delete the old snapshot web-20261128-120000: it is being forked`]);
  world.removing = refusal("snapshot.not_found", "it is gone");
  await world.pass(2 * MINUTE);
  expect(world.store.db.query("SELECT * FROM scheduled_snapshots").all()).toEqual([]);
});

test("a daemon that ends in the middle of a run: a snapshot that came to be is the run's, one that didn't is taken then", async () => {
  for (const came of [true, false]) {
    await using world = new World();
    world.set(world.instance("i"));
    world.schedules.start();
    const reached = Promise.withResolvers<void>();
    const stop = () => (reached.resolve(), new Promise<void>(() => {}));
    if (came) world.after = stop;
    else world.before = stop;
    world.clock.advance(HOUR);
    await reached.promise;
    world.after = world.before = async () => {};
    world.clock.advance(MINUTE);
    world.daemon().start();
    await world.schedules.idle();
    expect(world.names()).toEqual([came ? "web-20261127-130000" : "web-20261127-130100"]);
    expect(world.get("i")).toMatchObject({ lastSnapshotId: "s0", lastError: null, nextRunAt: NOON + 2 * HOUR, lastRunAt: NOON + HOUR + (came ? 0 : MINUTE) });
    expect(world.store.db.query<{ snapshot_id: string }, []>("SELECT snapshot_id FROM scheduled_snapshots").all()).toEqual([{ snapshot_id: "s0" }]);
  }
});

test("a schedule goes with its instance, also in the middle of a run; its snapshots stay", async () => {
  await using world = new World();
  world.set(world.instance("i"));
  world.schedules.start();
  const { promise, resolve } = Promise.withResolvers<void>(), reached = Promise.withResolvers<void>();
  world.after = () => (reached.resolve(), promise);
  world.clock.advance(HOUR);
  await reached.promise;
  world.states.delete("i");
  world.store.db.run("DELETE FROM instances WHERE id = 'i'");
  resolve();
  await world.pass(DAY);
  expect([world.names(), world.schedules.get("i").isErr(), world.store.db.query("SELECT * FROM scheduled_snapshots").all()]).toEqual([["web-20261127-130000"], true, []]);
});

test("a schedule that is replaced while it runs keeps its own next run", async () => {
  await using world = new World();
  world.set(world.instance("i"));
  world.schedules.start();
  const { promise, resolve } = Promise.withResolvers<void>(), reached = Promise.withResolvers<void>();
  world.before = () => (reached.resolve(), promise);
  world.clock.advance(HOUR);
  await reached.promise;
  world.set("i", { intervalMs: 5 * HOUR });
  resolve();
  await world.schedules.idle();
  expect(world.get("i")).toMatchObject({ intervalMs: 5 * HOUR, nextRunAt: NOON + 6 * HOUR, lastSnapshotId: "s0" });
});

test("a database that fails is told of, and the next look takes what was due", async () => {
  await using world = new World();
  world.instance("i");
  world.set("i");
  world.schedules.start();
  await world.pass(HOUR - MINUTE);
  {
    using _ = failing(world.store.db);
    await world.pass(3 * MINUTE);
  }
  expect([world.told, world.names()]).toEqual([Array.from({ length: 3 }, () => "look after snapshot schedules"), []]);
  await world.pass(MINUTE);
  expect([world.told.length, world.names(), world.get("i").nextRunAt]).toEqual([3, ["web-20261127-130300"], NOON + 2 * HOUR]);
});

test("a run whose end could not be recorded counts once it can be: nothing is taken twice", async () => {
  await using world = new World();
  world.instance("i");
  world.set("i");
  world.schedules.start();
  let down: Disposable | null = null;
  world.after = async () => void (down = failing(world.store.db));
  await world.pass(HOUR);
  expect(world.told).toEqual(["carry out the snapshot schedule of instance i", "record what is wrong with the snapshot schedule of instance i", "look after snapshot schedules"]);
  down![Symbol.dispose]();
  await world.pass(5 * MINUTE);
  expect([world.told.length, world.snapshots.map(({ id }) => id), world.get("i")]).toEqual([3, ["s0"], expect.objectContaining({ lastSnapshotId: "s0", lastError: null, nextRunAt: NOON + 2 * HOUR })]);
});

test("after close() nothing runs", async () => {
  await using world = new World();
  world.set(world.instance("i"));
  world.schedules.start();
  await world.schedules.close();
  await world.pass(DAY);
  expect([world.names(), world.clock.waiting]).toEqual([[], 0]);
});
