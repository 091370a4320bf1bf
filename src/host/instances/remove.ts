// remove: any state → gone. Begun, it is on record, so that the next daemon finishes what this one could not.
import { rm } from "node:fs/promises";
import { err, ok, ResultAsync } from "neverthrow";
import { wrap, type AsyncRes, type Res } from "../../errors.ts";
import type { Context } from "./context.ts";
import { dropOverlays } from "./volumes.ts";
import { DEFAULT_GRACE_MS, killNow, stopNow } from "./ending.ts";

export function remove(ctx: Context, ref: string, options: { graceful: boolean }): AsyncRes<void> {
  return ctx.records.get(ref).asyncAndThen(({ id }) => {
    // An impatient one must not be joined to a patient one's ten seconds: it goes ahead and kills.
    if (!options.graceful) ctx.machines.get(id)?.kill();
    return new ResultAsync(ctx.lanes.run(id, options.graceful ? "remove" : "remove-now", () => removeNow(ctx, id, options.graceful)));
  });
}

/** Inside of the instance's lane. Every step may have been done before. */
export async function removeNow(ctx: Context, id: string, graceful: boolean): Promise<Res<void>> {
  if (ctx.records.find(id) === null) return ok();
  ctx.records.markRemoving(id);
  const stopped = await (graceful ? stopNow(ctx, id, DEFAULT_GRACE_MS) : killNow(ctx, id));
  if (stopped.isErr()) return err(stopped.error);
  ctx.taps.close(id);
  const released = await ctx.deps.network.release(id);
  if (released.isErr()) return err(released.error);
  const dropped = ctx.deps.disks.remove({ kind: "instance", id });
  if (dropped.isErr()) return err(dropped.error);
  await dropOverlays(ctx, { id, volumes: [] });
  try {
    await rm(ctx.dir(id), { recursive: true, force: true });
  } catch (error) {
    return err(wrap("host.storage", `Cannot delete the files of instance ${id}`, error));
  }
  // Forgetting it takes room: what its disk took is free by then.
  await ctx.deps.trash.emptied();
  ctx.records.delete(id);
  ctx.deps.guard.forget(id);
  ctx.deps.activities.forget(id);
  ctx.listening.delete(id);
  ctx.generations.sweep();
  await ctx.deps.trash.emptied();
  ctx.deps.logger.info("instance.deleted", { instance: id });
  return ok();
}
