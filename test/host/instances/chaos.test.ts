// Verbs of all kinds at random moments on instances that share memory and disks, and a daemon that is replaced amid them: whatever meets,
// every instance is in the end what its record says, each answers to what comes next, and once all is deleted nothing is left.
import { afterAll, expect, test } from "bun:test";
import { failing } from "../../support/failing.ts";
import { until } from "../../support/until.ts";
import { randomFrom } from "../snapshots/merging/world.ts";
import { monitorsIn, open, removeRoots } from "./fixture.ts";
import { disks, entries, generations, openCompressing, remove, running } from "./sleeping.ts";

afterAll(removeRoots);
const SEED = Number(process.env["SEED"] ?? 11), ROUNDS = Number(process.env["ROUNDS"] ?? 2), VERBS = Number(process.env["VERBS"] ?? 60);
/** What verbs at the wrong moment are refused with; a bug or a host that fails would be another. */
const REFUSALS = new Set(["instance.invalid_state", "instance.not_found", "instance.already_exists", "snapshot.not_found", "name.taken", "conflict", "instance.in_standby", "name.ambiguous", "request.bad"]);
/** A forced delete kills the monitor under whatever goes on. */
const KILLED = /the monitor.*(there is no connection to it|it has gone|has closed it|connection was closed|EPIPE|ECONNRESET)|its monitor (has gone|ended)/;
const policy = (wakeOnPacket: boolean) => ({ enabled: false, idleTimeoutMs: 0, ignoreDestinationPorts: [], ignoreSourceCidrs: [], wakeOnPacket });

type World = Awaited<ReturnType<typeof openCompressing>>;
type Random = ReturnType<typeof randomFrom>;
const pick = <T>(random: Random, of: readonly T[]): T => of[random(of.length)]!;

for (const failures of [false, true])
  for (let seed = SEED; seed < SEED + ROUNDS; seed++) test(`random verbs${failures ? " over a database that fails now and then" : ""}, seed ${seed}`, () => chaos(seed, failures), 120_000);

async function chaos(seed: number, failures: boolean): Promise<void> {
  const random = randomFrom(seed), under = new Set<Promise<void>>(), wrong: string[] = [];
  let world = await openCompressing();
  const restart = async () => {
    await close(world);
    under.clear(); // what a daemon has not answered as it goes, it never will
    world = await openCompressing(world.root);
  };
  for (const name of ["a", "b"]) await running(world, name, ["serve"], { autoStandby: policy(true) });
  for (let i = 0; i < VERBS; i++) {
    if (i === VERBS >> 1) await restart();
    const asked = world;
    const done: Promise<void> = verb(asked, random).then((answer) => void (answer === null || asked !== world || wrong.push(answer))).finally(() => under.delete(done));
    under.add(done);
    if (failures && random(6) === 0) {
      using _ = failing(world.store.db);
      await Bun.sleep(random(30));
    }
    if (random(3) > 0) await Promise.race([...under, Bun.sleep(random(20))]);
    while (under.size > 6) await Promise.race(under);
  }
  await Promise.all(under);
  // What could not be deleted while the database failed the next daemon deletes.
  if (failures) await restart().then(() => until("deletions that were begun to end", () => world.store.db.query("SELECT 1 FROM instances WHERE removing = 1").get() === null));
  else expect(wrong).toEqual([]);
  await expectSound(world);
  await expectNothingLeft(world);
}

async function close(world: World): Promise<void> {
  await world.close();
  await world.compressor.close();
}

/** A command that is hung up on at once. */
const exec = (instances: World["instances"], name: string) =>
  instances.exec(name, { command: ["echo"], tty: false, env: {}, cwd: null, user: null, rows: 1, cols: 1, timeoutMs: null, waitForAgentMs: 0 }, { onStdout() {}, onStderr() {}, onDrain() {}, onEnd() {}, onLost() {} }, new AbortController().signal)
    .map((session) => session.close());

/** A schedule whose first run is due at once: an interval that stays keeps the time of the next. */
function schedule({ instances, store }: World, name: string) {
  const wanted = { intervalMs: 60_000, maxCount: 1, maxAgeMs: null, namePrefix: null, metadata: {} };
  return instances.setSchedule(name, wanted).andThen(({ instanceId }) => {
    store.db.query("UPDATE snapshot_schedules SET next_run_at = 0 WHERE instance_id = ?").run(instanceId);
    return instances.setSchedule(name, wanted);
  });
}

/** One of them all; null, or what it answered that it must not. Few are ended, so that there is something to meet. */
async function verb(world: World, random: Random): Promise<string | null> {
  const { instances } = world, name = pick(random, ["a", "b", "c", "d"]), other = pick(random, ["a", "b", "c", "d"]), snapshot = pick(random, ["s", "t"]), targetState = pick(random, [null, "Running", "Standby", "Stopped"] as const);
  const force = random(2) === 0, compression = random(3) === 0 ? { compression: { enabled: true, algorithm: "lz4", level: 0 } as const } : {};
  const verbs = {
    standby: () => instances.standby(name, { force, ...compression }), restore: () => instances.restore(name), wake: () => instances.wake(name), hold: () => instances.holdAutoStandby(name),
    fork: () => instances.fork(name, { name: other, fromRunning: random(3) > 0, targetState }), forkSnapshot: () => instances.forkSnapshot(snapshot, { name: other, targetState }),
    snapshot: () => instances.createSnapshot(name, { kind: pick(random, ["Standby", "Stopped"]), name: snapshot, tags: {} }),
    giveBack: () => instances.restoreSnapshot(name, snapshot, targetState), drop: () => instances.removeSnapshot(snapshot),
    start: () => instances.start(name, {}), stop: () => instances.stop(name, { graceMs: 1_000 }), remove: () => instances.remove(name, { graceful: !force }),
    update: () => instances.update(name, { autoStandby: policy(force) }), status: () => instances.autoStandbyStatus(name),
    exec: () => exec(instances, name), schedule: () => schedule(world, name), unschedule: () => instances.removeSchedule(name),
  };
  const what = pick(random, [...Object.keys(verbs), "standby", "standby", "restore", "wake", "wake", "fork", "snapshot"] as (keyof typeof verbs)[]);
  try {
    const error = (await verbs[what]()).match(() => null, (refusal) => refusal);
    return error === null || REFUSALS.has(error.code) || KILLED.test(error.message) ? null : `${what} ${name}: ${error.code} ${error.message}`;
  } catch (error) {
    return `${what} ${name}: threw ${String(error)}`;
  }
}

/** Each is what its record says, and answers to what comes next. */
async function expectSound({ instances, root }: World): Promise<void> {
  // What was being started is up, or has ended.
  for (const { id } of instances.list()) await instances.wait(id, "Running", 20_000, new AbortController().signal);
  const states = instances.list().map(({ state }) => state), live = states.filter((state) => state === "Running").length;
  expect({ odd: states.filter((state) => !["Running", "Standby", "Stopped"].includes(state)), monitors: monitorsIn(root).length }).toEqual({ odd: [], monitors: live });
  for (const { id, state } of instances.list()) if (state === "Standby") expect((await instances.restore(id))._unsafeUnwrap().state).toBe("Running");
}

async function expectNothingLeft(world: World): Promise<void> {
  // Instances first: a schedule of theirs may be due.
  for (const { name } of world.instances.list()) await remove(world, name);
  for (const { id } of world.instances.listSnapshots()) (await world.instances.removeSnapshot(id))._unsafeUnwrap();
  await close(world);
  // Names of disk layers that were merged stay for a minute, or until the next start.
  await (await open(world.root)).close();
  expect({ monitors: monitorsIn(world.root), generations: generations(world), disks: disks(world), snapshots: entries(world, "snapshots"), folders: entries(world, "instances").filter((name) => !name.startsWith(".")) })
    .toEqual({ monitors: [], generations: [], disks: [], snapshots: [], folders: [] });
}
