// How a guest ends: gracefully, at once, or because nothing can be done but to end its monitor. Inside of the instance's lane.
import { ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";
import { EPOLLIN } from "../../ffi/epoll.ts";
import { bootId, ProcessHandle, SIGKILL } from "../../ffi/process.ts";
import type { Machine } from "../vmm/machine.ts";
import type { Context } from "./context.ts";
import type { Instance } from "./service.ts";
import { settleEnded } from "./settle.ts";

export const DEFAULT_GRACE_MS = 10_000;
/** A VMM ends by itself 5 s past the grace; one that hasn't by then is killed. */
const VMM_SLACK_MS = 10_000;
/** 0 is the image's own stop signal, which the guest knows. */
export const IMAGE_SIGNAL = 0;

/** One that has stopped meanwhile is as wanted. */
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
