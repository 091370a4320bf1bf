// Sleeping, snapshots and forks as routes see them: the verbs of this folder put together.
import { ok, ResultAsync } from "neverthrow";
import type { AsyncRes } from "../../errors.ts";
import { unheardBy } from "../background.ts";
import { systemClock } from "../clock.ts";
import { Schedules } from "../snapshots/schedules/schedules.ts";
import type { AutoStandbyStatus, SleepService } from "../snapshots/service.ts";
import { AutoStandby } from "../standby/auto.ts";
import type { Candidate } from "../standby/decide.ts";
import { TimerStore } from "../standby/timers.ts";
import type { Context } from "./context.ts";
import { fork } from "./fork.ts";
import { knockWakes, restore, wake, wakes } from "./restore.ts";
import { callOff } from "./saving.ts";
import type { Instance } from "./service.ts";
import { createSnapshot, forkSnapshot, getSnapshot, listSnapshots, removeSnapshot, restoreSnapshot } from "./snapshots.ts";
import { BY_HAND, standby, standbyByItself } from "./standby.ts";

type Guarded = <T>(what: string, verb: () => AsyncRes<T>) => AsyncRes<T>;

export interface SleepParts { readonly auto: AutoStandby; readonly schedules: Schedules }

export const sleepServiceOf = (ctx: Context, { auto, schedules }: SleepParts, guarded: Guarded): SleepService => ({
  standby: (ref, options) => guarded(`put instance ${ref} to sleep`, () => standby(ctx, ref, options)),
  restore: (ref) => guarded(`restore instance ${ref}`, () => restore(ctx, ref)),
  wake: (ref) => guarded(`wake instance ${ref}`, () => wake(ctx, ref)),
  fork: (ref, request) => guarded(`fork instance ${ref}`, () => fork(ctx, ref, request)),
  update: (ref, change) => guarded(`change instance ${ref}`, () => update(ctx, ref, change)),
  autoStandbyStatus: (ref) => guarded(`tell of the automatic standby of instance ${ref}`, () => ctx.records.get(ref).asyncAndThen(({ id }) => auto.status(id).asyncMap(async (status) => status))),
  holdAutoStandby: (ref) => guarded(`hold off the automatic standby of instance ${ref}`, () => ctx.records.get(ref).asyncAndThen((instance) => hold(ctx, auto, instance))),
  createSnapshot: (ref, request) => guarded(`take a snapshot of instance ${ref}`, () => createSnapshot(ctx, ref, request)),
  restoreSnapshot: (ref, snapshot, target) => guarded(`restore instance ${ref} from snapshot ${snapshot}`, () => restoreSnapshot(ctx, ref, snapshot, target)),
  forkSnapshot: (ref, request) => guarded(`fork snapshot ${ref}`, () => forkSnapshot(ctx, ref, request)),
  listSnapshots: (filter) => listSnapshots(ctx, filter),
  getSnapshot: (ref) => getSnapshot(ctx, ref),
  removeSnapshot: (ref) => guarded(`delete snapshot ${ref}`, () => removeSnapshot(ctx, ref)),
  setSchedule: (ref, schedule) => guarded(`set the snapshot schedule of instance ${ref}`, () => ctx.records.get(ref).andThen(({ id }) => schedules.set(id, schedule)).asyncMap(async (set) => set)),
  getSchedule: (ref) => ctx.records.get(ref).andThen(({ id, name }) => schedules.get(id, name)),
  removeSchedule: (ref) => guarded(`remove the snapshot schedule of instance ${ref}`, () => ctx.records.get(ref).andThen(({ id, name }) => schedules.remove(id, name)).asyncMap(async () => undefined)),
});

/** What decides over sleep by itself, and takes snapshots by the clock. Neither begins before start(). */
export function sleepParts(ctx: Context): SleepParts {
  const { db, guard: _, activities, connections, ownConnection, logger } = ctx.deps;
  const auto = new AutoStandby({
    enabled: () => ctx.records.list().filter(({ autoStandby }) => autoStandby?.enabled === true).map(candidateOf),
    find: (id) => nullable(ctx.records.find(id), candidateOf),
    connections, otherActivity: (id) => activities.of(id), ignored: ownConnection,
    standby: (id, calledOff) => standbyByItself(ctx, id, calledOff),
    timers: new TimerStore(db), clock: systemClock, logger,
  });
  // Whoever came, woke, or got another policy is looked at anew.
  ctx.records.subscribe(({ id, autoStandby }) => {
    if (autoStandby?.enabled === true) auto.kick();
    else auto.switchedOff(id);
  });
  const schedules = new Schedules({
    db, stateOf: (id) => ctx.records.find(id)?.state ?? null,
    createSnapshot: (id, name, tags) => createSnapshot(ctx, id, { kind: null, name, tags }),
    listSnapshots: (id) => listSnapshots(ctx, { sourceInstanceId: id }),
    removeSnapshot: (id) => removeSnapshot(ctx, id),
    failed: unheardBy(logger),
  });
  return { auto, schedules };
}

const nullable = <T, U>(value: T | null, of: (value: T) => U): U | null => (value === null ? null : of(value));

const candidateOf = ({ id, state, network, ip, autoStandby, phaseSince }: Instance): Candidate => ({ id, state, network, ip, policy: autoStandby, runningSince: phaseSince });

/** A standby by hand is called off too: whoever holds is about to connect. */
function hold(ctx: Context, auto: AutoStandby, { id, name }: Instance): AsyncRes<AutoStandbyStatus> {
  callOff(ctx, id, "it was held awake");
  const over = Promise.all(Object.values(BY_HAND).map((verb) => ctx.lanes.settled(id, verb))).then(() => ok());
  return new ResultAsync(over).andThen(() => auto.hold(id, name));
}

/** A policy of waking counts at once, also for one that sleeps already; in its lane, as a restore under way has the TAP. */
function update(ctx: Context, ref: string, change: Parameters<SleepService["update"]>[1]): AsyncRes<Instance> {
  return ctx.records.get(ref).asyncMap(async ({ id }) => {
    const instance = ctx.records.setPolicies(id, change);
    if (instance.state === "Standby") await ctx.lanes.run(id, `heed the policy that it ${wakes(instance) ? "wakes" : "does not wake"}`, () => knockWakes(ctx, id));
    return instance;
  });
}
