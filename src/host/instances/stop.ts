// stop: Created (once started), Initializing, Running, Paused, Shutdown, Unknown → Stopped. A sleeping one is woken for it: what its
// program and kernel have not written yet is in its memory alone.
import { err, ok, ResultAsync } from "neverthrow";
import { fail, type AsyncRes, type DormouseError } from "../../errors.ts";
import type { Context } from "./context.ts";
import { DEFAULT_GRACE_MS, IMAGE_SIGNAL, stopNow } from "./ending.ts";
import { restoreNow } from "./restore.ts";
import type { Instance } from "./service.ts";
import { isStart, obstacle } from "./states.ts";
import { writesVolumes } from "./volumes.ts";

export function stop(ctx: Context, ref: string, options: { graceMs?: number } = {}): AsyncRes<Instance> {
  return ctx.records.get(ref)
    .andThen((instance) => obstacle(instance, "stop") === null || ctx.lanes.verbs(instance.id).some(isStart) ? ok(instance)
      : fail("instance.invalid_state", `Cannot stop instance ${instance.name}: it is ${obstacle(instance, "stop")}`, { details: { state: instance.state } }))
    .asyncAndThen(({ id }) => {
      if (options.graceMs !== undefined) hurry(ctx, id, options.graceMs);
      return new ResultAsync(ctx.lanes.run(id, "stop", async () => {
        const awake = ctx.records.find(id)?.state === "Standby" ? await restoreNow(ctx, id) : ok();
        return awake.isErr() ? err(asleep(ctx.records.find(id), awake.error)) : stopNow(ctx, id, options.graceMs ?? DEFAULT_GRACE_MS);
      }));
    });
}

function asleep(instance: Instance | null, error: DormouseError): DormouseError {
  const disk = instance !== null && writesVolumes(instance) ? "it can be deleted, and its volumes keep what is on them" : "a fork of it with the target state Stopped has its disk without its memory, and it can be deleted";
  return fail(error.code, `${error.message}. So it can't be stopped: ${disk}`, { cause: error, ...(error.details === undefined ? {} : { details: error.details }) }).error;
}

/** A stop under way is joined, and takes over the newcomer's grace: who asks a second time may be less patient. */
function hurry(ctx: Context, id: string, graceMs: number): void {
  const machine = ctx.machines.get(id);
  if (machine === undefined || ctx.lanes.verbs(id)[0] !== "stop") return;
  ctx.note(id, `asked to stop again, with ${graceMs} ms of grace`);
  const refused = (error: DormouseError) => ctx.note(id, `it can't be asked again (${error.message})`, "warn");
  machine.request("shutdown", { graceMs, signal: IMAGE_SIGNAL }).match(() => {}, refused);
}
