// New instances out of what another one is or was: a fork's record, disk and memory, and its way to the state that was asked for.
import { createId } from "@paralleldrive/cuid2";
import { err, ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";
import type { Clone, DiskOwner } from "../disks/service.ts";
import type { TargetState } from "../snapshots/service.ts";
import type { Context } from "./context.ts";
import { prepare } from "./create.ts";
import { removeNow } from "./remove.ts";
import { knockWakes, restoreNow } from "./restore.ts";
import type { CreateInstance, Instance } from "./service.ts";
import { startNow } from "./start.ts";

export interface Parent {
  /** What the child is made like, but for its name and published ports: a host port can only lead to one. */
  readonly like: CreateInstance;
  readonly imageDigest: string;
  readonly disk: DiskOwner;
}

export interface Child { readonly instance: Instance; readonly clone: Clone }

/** Records the child and clones the disk for it. It comes to nothing by abandon(), or by the daemon's death, until settleChild(). */
export async function conceive(ctx: Context, name: string, { like, imageDigest, disk }: Parent): Promise<Res<Child>> {
  const inserted = ctx.records.insertForming(createId(), { ...like, name, ports: [] }, imageDigest);
  if (inserted.isErr()) return err(inserted.error);
  const reserved = await prepare(ctx, inserted.value);
  if (reserved.isErr()) return err(reserved.error);
  const clone = await ctx.deps.disks.clone(disk, { kind: "instance", id: reserved.value.id });
  if (clone.isOk()) return ok({ instance: reserved.value, clone: clone.value });
  await abandon(ctx, reserved.value.id);
  return err(clone.error);
}

/** Takes a child back that was not settled. */
export async function abandon(ctx: Context, id: string): Promise<void> {
  const removed = await removeNow(ctx, id, false);
  if (removed.isErr()) ctx.deps.logger.error("instance.delete_failed", { instance: id, error: removed.error.message });
}

/** Created → Standby on a saved machine, or Stopped with its disk alone. From here on the child counts. `also` is part of the transaction. */
export function settleChild(ctx: Context, id: string, generation: string | null, also: () => void = () => {}): void {
  const settled = () => (ctx.records.kept(id), also());
  if (generation === null) ctx.records.transition(id, "Stopped", "forked", { stoppedAt: Date.now() }, settled);
  else ctx.records.transition(id, "Standby", "forked", { savedGeneration: generation }, settled);
  ctx.note(id, generation === null ? "forked, with its disk" : "forked, asleep");
}

/** bringTo() in the instance's lane. */
export const onTo = (ctx: Context, id: string, target: TargetState): Promise<Res<Instance>> => ctx.lanes.run(id, `to ${target}`, () => bringTo(ctx, id, target));

/** From Stopped or Standby to any of the three targets. Inside of the instance's lane. */
export async function bringTo(ctx: Context, id: string, target: TargetState): Promise<Res<Instance>> {
  const instance = ctx.records.find(id);
  if (instance === null) return fail("instance.not_found", `Cannot bring instance ${id} to ${target}: it was deleted meanwhile`);
  if (instance.state === target) {
    await knockWakes(ctx, id);
    return ok(instance);
  }
  if (target === "Running") return instance.state === "Standby" ? restoreNow(ctx, id) : startNow(ctx, id);
  if (target === "Stopped") return ok(forget(ctx, id));
  return fail("instance.invalid_state", `Cannot put instance ${instance.name} to sleep: there is no saved machine to begin with`, { details: { state: instance.state } });
}

/** Standby → Stopped: the saved machine is dropped, the disk stays as the guest's last flush left it. */
export function forget(ctx: Context, id: string): Instance {
  const stopped = ctx.records.transition(id, "Stopped", "its saved memory was dropped", { savedGeneration: null, stoppedAt: Date.now() });
  ctx.taps.close(id);
  ctx.generations.sweep();
  return stopped;
}
