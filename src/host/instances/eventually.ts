// What has to be done and nobody waits for: where it fails (a full disk, mostly) it is tried again until it works.
import { messageOf, type Res } from "../../errors.ts";
import type { Context } from "./context.ts";

const FIRST_RETRY_MS = 250, LAST_RETRY_MS = 30_000;

/** Resolves after the first attempt, however that ended. `what` follows on "Cannot". */
export async function eventually(ctx: Context, what: string, work: () => Promise<Res<unknown>>): Promise<void> {
  const failure = await outcome(work);
  if (failure === null) return;
  ctx.deps.logger.error("instance.left", { error: `Cannot ${what}: ${failure}; trying again` });
  again(ctx, work, FIRST_RETRY_MS);
}

function again(ctx: Context, work: () => Promise<Res<unknown>>, afterMs: number): void {
  const attempt = async () => {
    if (!ctx.closing && (await outcome(work)) !== null) again(ctx, work, Math.min(afterMs * 2, LAST_RETRY_MS));
  };
  setTimeout(() => void attempt(), afterMs).unref();
}

/** Null where it worked. */
async function outcome(work: () => Promise<Res<unknown>>): Promise<string | null> {
  try {
    const done = await work();
    return done.isErr() ? done.error.message : null;
  } catch (error) {
    return messageOf(error);
  }
}
