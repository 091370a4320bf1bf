// Sleeping, snapshots and forks as routes see them: the verbs of this folder put together.
import { errAsync } from "neverthrow";
import { DormouseError, type AsyncRes } from "../../errors.ts";
import type { SleepService } from "../snapshots/service.ts";
import type { Context } from "./context.ts";
import { fork } from "./fork.ts";
import { knockWakes, restore, wake } from "./restore.ts";
import type { Instance } from "./service.ts";
import { createSnapshot, forkSnapshot, getSnapshot, listSnapshots, removeSnapshot, restoreSnapshot } from "./snapshots.ts";
import { standby } from "./standby.ts";

type Guarded = <T>(what: string, verb: () => AsyncRes<T>) => AsyncRes<T>;

const later = <T>(what: string): AsyncRes<T> => errAsync(new DormouseError("request.not_implemented", `Cannot ${what}: it is not implemented yet`));

export const sleepServiceOf = (ctx: Context, guarded: Guarded): SleepService => ({
  standby: (ref, options) => guarded(`put instance ${ref} to sleep`, () => standby(ctx, ref, options)),
  restore: (ref) => guarded(`restore instance ${ref}`, () => restore(ctx, ref)),
  wake: (ref) => guarded(`wake instance ${ref}`, () => wake(ctx, ref)),
  fork: (ref, request) => guarded(`fork instance ${ref}`, () => fork(ctx, ref, request)),
  update: (ref, change) => guarded(`change instance ${ref}`, () => update(ctx, ref, change)),
  autoStandbyStatus: () => later("tell of automatic standby"),
  holdAutoStandby: () => later("hold off automatic standby"),
  createSnapshot: (ref, request) => guarded(`take a snapshot of instance ${ref}`, () => createSnapshot(ctx, ref, request)),
  restoreSnapshot: (ref, snapshot, target) => guarded(`restore instance ${ref} from snapshot ${snapshot}`, () => restoreSnapshot(ctx, ref, snapshot, target)),
  forkSnapshot: (ref, request) => guarded(`fork snapshot ${ref}`, () => forkSnapshot(ctx, ref, request)),
  listSnapshots: (filter) => listSnapshots(ctx, filter),
  getSnapshot: (ref) => getSnapshot(ctx, ref),
  removeSnapshot: (ref) => guarded(`delete snapshot ${ref}`, () => removeSnapshot(ctx, ref)),
  setSchedule: () => later("set a snapshot schedule"),
  getSchedule: () => later<never>("tell of a snapshot schedule") as never,
  removeSchedule: () => later("remove a snapshot schedule"),
});

/** A policy of waking counts at once, also for one that sleeps already. */
function update(ctx: Context, ref: string, change: Parameters<SleepService["update"]>[1]): AsyncRes<Instance> {
  return ctx.records.get(ref).asyncMap(async ({ id }) => {
    const instance = ctx.records.setPolicies(id, change);
    if (instance.state === "Standby") await listenAnew(ctx, instance);
    return instance;
  });
}

/** One whose address was closed has no TAP: it needs one to hear by. */
async function listenAnew(ctx: Context, { id, network }: Instance): Promise<void> {
  const lease = network ? ctx.deps.network.lease(id) : null;
  if (lease === null) return;
  const tap = await ctx.taps.open(lease);
  if (tap.isErr()) ctx.note(id, `no packet will wake it: ${tap.error.message}`, "warn");
  else knockWakes(ctx, id);
}
