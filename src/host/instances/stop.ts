// stop: Created (once started), Initializing, Running, Paused, Shutdown, Unknown → Stopped. A sleeping one is woken for it: what its
// program and kernel have not written yet is in its memory alone.
import { err, ok, ResultAsync } from "neverthrow";
import { fail, type AsyncRes, type DormouseError, type Res } from "../../errors.ts";
import { EPOLLIN } from "../../ffi/epoll.ts";
import { bootId, ProcessHandle, SIGKILL } from "../../ffi/process.ts";
import type { Machine } from "../vmm/machine.ts";
import type { Context } from "./context.ts";
import { restoreNow } from "./restore.ts";
import type { Instance } from "./service.ts";
import { settleEnded } from "./settle.ts";
import { VERB_FROM } from "./states.ts";

export const DEFAULT_GRACE_MS = 10_000;
/** A VMM ends by itself 5 s past the grace; one that hasn't by then is killed. */
const VMM_SLACK_MS = 10_000;
/** 0 is the image's own stop signal, which the guest knows. */
const IMAGE_SIGNAL = 0;

export function stop(ctx: Context, ref: string, options: { graceMs?: number } = {}): AsyncRes<Instance> {
  return ctx.records.get(ref)
    .andThen((instance) => VERB_FROM.stop.includes(instance.state as never) || ctx.lanes.verbs(instance.id).includes("start") ? ok(instance)
      : fail("instance.invalid_state", `Cannot stop instance ${instance.name}: it is ${instance.state}`, { details: { state: instance.state } }))
    .asyncAndThen(({ id }) => {
      if (options.graceMs !== undefined) hurry(ctx, id, options.graceMs);
      return new ResultAsync(ctx.lanes.run(id, "stop", async () => {
        const awake = ctx.records.find(id)?.state === "Standby" ? await restoreNow(ctx, id) : ok();
        return awake.isErr() ? err(awake.error) : stopNow(ctx, id, options.graceMs ?? DEFAULT_GRACE_MS);
      }));
    });
}

/** A stop under way is joined, and takes over the newcomer's grace: who asks a second time may be less patient. */
function hurry(ctx: Context, id: string, graceMs: number): void {
  const machine = ctx.machines.get(id);
  if (machine === undefined || ctx.lanes.verbs(id)[0] !== "stop") return;
  ctx.note(id, `asked to stop again, with ${graceMs} ms of grace`);
  const refused = (error: DormouseError) => ctx.note(id, `it can't be asked again (${error.message})`, "warn");
  machine.request("shutdown", { graceMs, signal: IMAGE_SIGNAL }).match(() => {}, refused);
}

/** Inside of the instance's lane; one that has stopped meanwhile is as wanted. */
export async function stopNow(ctx: Context, id: string, graceMs: number): Promise<Res<Instance>> {
  const machine = ctx.machines.get(id);
  if (machine !== undefined) {
    ctx.note(id, `stopping, with ${graceMs} ms of grace`);
    await shutDown(ctx, id, machine, graceMs);
  }
  return stopped(ctx, id);
}

/** SIGKILL for the VMM: what the guest has not written is lost. */
export async function killNow(ctx: Context, id: string): Promise<Res<Instance>> {
  const machine = ctx.machines.get(id);
  if (machine !== undefined) {
    ctx.note(id, "killing it");
    machine.kill();
    await machine.ended;
  }
  return stopped(ctx, id);
}

async function shutDown(ctx: Context, id: string, machine: Machine, graceMs: number): Promise<void> {
  const paused = ctx.records.find(id)?.state === "Paused";
  const resumed = paused ? await machine.request("resume", null) : ok();
  const asked = resumed.isErr() ? resumed : await machine.request("shutdown", { graceMs, signal: IMAGE_SIGNAL });
  if (asked.isErr()) {
    ctx.note(id, `it can't be asked to stop (${asked.error.message}); killing it`, "warn");
    machine.kill();
  }
  const timer = setTimeout(() => {
    ctx.note(id, "its monitor did not end in time; killing it", "warn");
    machine.kill();
  }, graceMs + VMM_SLACK_MS);
  await machine.ended;
  clearTimeout(timer);
}

/** What has no VMM is Stopped, whatever was on record: Unknown is settled here too. */
async function stopped(ctx: Context, id: string): Promise<Res<Instance>> {
  await killUnheld(ctx, id);
  const instance = ctx.records.find(id);
  if (instance === null) return fail("instance.not_found", `Cannot stop instance ${id}: it was deleted meanwhile`);
  if (instance.state === "Stopped") return ok(instance);
  if (instance.state === "Standby") return ok(instance);
  settleEnded(ctx, id, "it was stopped while its monitor could not be found");
  return ok(ctx.records.find(id)!);
}

/** A VMM that runs and could not be taken over (its socket was deleted, say): all that can be done is to end it. */
export async function killUnheld(ctx: Context, id: string): Promise<void> {
  const process = ctx.records.process(id);
  if (process === null || ctx.machines.has(id) || process.bootId !== bootId()) return;
  const handle = ProcessHandle.open(process.pid, process.start);
  if (handle === null) return;
  ctx.note(id, `killing its monitor, process ${process.pid}, which could not be taken over`, "warn");
  handle.signal(SIGKILL);
  await new Promise<void>((resolve) => {
    const watch = ctx.poller.watch(handle.fd, EPOLLIN, () => (watch.close(), resolve()));
  });
  handle.close();
}
