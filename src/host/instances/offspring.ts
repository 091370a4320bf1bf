// New instances out of what another one is or was: a fork's record, disk and memory, and its way to the state that was asked for.
import { createId } from "../id.ts";
import { err, ok } from "neverthrow";
import { fail, wrap, type Res } from "../../errors.ts";
import type { Clone, DiskOwner } from "../disks/service.ts";
import type { TargetState } from "../snapshots/service.ts";
import type { Context } from "./context.ts";
import { prepare } from "./create.ts";
import { eventually } from "./eventually.ts";
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

interface Birth {
  /** What it sleeps on; null: it has its disk alone. */
  readonly generation: string | null;
  /** Makes the clone of the disk the child's; finish() alone unless given. */
  readonly give?: (clone: Clone) => Promise<Res<void>>;
  /** Part of the transaction from which on the child counts. */
  readonly also?: () => void;
}

/** A new instance like its parent, with a disk and a machine of its own: whole on record, or not at all. Its id. */
export async function bear(ctx: Context, name: string, parent: Parent, birth: Birth): Promise<Res<string>> {
  const id = createId();
  // In its lane from before it is on record: whoever finds it there waits until it is somebody.
  const born = await ctx.lanes.run(id, "be born", () => form(ctx, id, name, parent, birth)
    .catch((error: unknown): Res<void> => err(wrap("host.storage", `Cannot make instance ${name}`, error))));
  if (born.isOk()) return ok(id);
  await eventually(ctx, `forget instance ${name}, which came to nothing`, () => ctx.lanes.run(id, "remove-now", () => removeNow(ctx, id, false)));
  return err(born.error);
}

/** Record, folder, address and disk; then it counts. */
async function form(ctx: Context, id: string, name: string, { like, imageDigest, disk }: Parent, { generation, give = finish, also }: Birth): Promise<Res<void>> {
  const inserted = ctx.records.insertForming(id, { ...like, name, ports: [] }, imageDigest);
  if (inserted.isErr()) return err(inserted.error);
  const reserved = await prepare(ctx, inserted.value);
  if (reserved.isErr()) return err(reserved.error);
  const given = await giveDisk(ctx, disk, { kind: "instance", id }, give);
  return given.map(() => settleChild(ctx, id, generation, also));
}

const finish = async (clone: Clone): Promise<Res<void>> => clone.finish();

/** Clones a disk and hands the clone over, or takes it back. */
export async function giveDisk(ctx: Context, from: DiskOwner, to: DiskOwner, give: (clone: Clone) => Promise<Res<void>> = finish): Promise<Res<void>> {
  const clone = await ctx.deps.disks.clone(from, to);
  if (clone.isErr()) return err(clone.error);
  const given = await give(clone.value).catch((error: unknown): Res<void> => err(wrap("host.storage", "Cannot hand a disk over", error)));
  if (given.isErr()) await eventually(ctx, `take a clone of the disk of ${from.kind} ${from.id} back`, async () => clone.value.undo());
  return given;
}

/** Created → Standby on a saved machine, or Stopped with its disk alone. From here on the child counts. `also` is part of the transaction. */
function settleChild(ctx: Context, id: string, generation: string | null, also: () => void = () => {}): void {
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
  // Whoever was quick has done something else with it already, and that is not undone.
  if (instance.state !== "Stopped" && instance.state !== "Standby") return ok(instance);
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
