// What has to be done and nobody waits for: where it fails (a full disk, mostly) it is tried again until it works.
import type { Res } from "../../errors.ts";
import { describeError } from "../../log.ts";
import type { Context } from "./context.ts";

const FIRST_RETRY_MS = 250, LAST_RETRY_MS = 30_000;

/** Resolves after the first attempt, however that ended. `what` follows on "Cannot". `wanted`: whether it is worth another one. */
export async function eventually(ctx: Context, what: string, work: () => Promise<Res<unknown>>, wanted: () => boolean = () => true): Promise<void> {
  await attempt(ctx, what, work, wanted, FIRST_RETRY_MS);
}

async function attempt(ctx: Context, what: string, work: () => Promise<Res<unknown>>, wanted: () => boolean, retryMs: number): Promise<void> {
  const failure = await outcome(work);
  if (failure === null || ctx.closing || !wanted()) return;
  ctx.deps.logger.error("instance.left", { error: `Cannot ${what}: ${describeError(failure)}; trying again` });
  setTimeout(() => { if (!ctx.closing && wanted()) void attempt(ctx, what, work, wanted, Math.min(retryMs * 2, LAST_RETRY_MS)); }, retryMs).unref();
}

/** Null where it worked. */
async function outcome(work: () => Promise<Res<unknown>>): Promise<unknown> {
  try {
    const done = await work();
    return done.isErr() ? done.error : null;
  } catch (error) {
    return error ?? "for no reason";
  }
}
