// wait: until the instance is in a state, can't come there any more, or the time is up.
import { err, ok, ResultAsync } from "neverthrow";
import { wrap, type AsyncRes, type Res } from "../../errors.ts";
import type { Context } from "./context.ts";
import type { Instance, InstanceState } from "./service.ts";
import { mayReach } from "./states.ts";

type Waited = { readonly instance: Instance; readonly timedOut: boolean };

/** Longest that a timer of the runtime can be set for. */
const MAX_TIMER_MS = 2 ** 31 - 1;

export function wait(ctx: Context, ref: string, target: InstanceState, timeoutMs: number, signal: AbortSignal): AsyncRes<Waited> {
  return attempt(ref, () => ctx.records.get(ref)).asyncAndThen((instance) => new ResultAsync(new Promise<Res<Waited>>((resolve) => {
    const release: (() => void)[] = [];
    const end = (outcome: Res<Waited>) => {
      for (const one of release.splice(0)) one();
      resolve(outcome);
    };
    const finish = (latest: Instance, timedOut: boolean) => end(attempt(ref, () => ok({ instance: ctx.records.find(latest.id) ?? latest, timedOut })));
    const look = (latest: Instance): void => {
      if (latest.state === target) return finish(latest, false);
      if (mayReach(latest.state, target)) return;
      // A verb under way may still bring what a resting state would not: judged again when it is over.
      if (ctx.lanes.verbs(latest.id).length === 0) return finish(latest, false);
      void ctx.lanes.idle(latest.id).then(() => {
        const now = attempt(ref, () => ok(ctx.records.find(latest.id)));
        if (now.isErr()) end(err(now.error));
        else look(now.value ?? latest);
      });
    };
    release.push(ctx.records.subscribe((changed) => { if (changed.id === instance.id) look(changed); }));
    const timer = setTimeout(() => finish(instance, true), Math.min(timeoutMs, MAX_TIMER_MS));
    const onAbort = () => finish(instance, true);
    signal.addEventListener("abort", onAbort);
    release.push(() => clearTimeout(timer), () => signal.removeEventListener("abort", onAbort));
    if (signal.aborted) finish(instance, true);
    else look(instance);
  })));
}

/** The database may fail at any of its steps, and most of them are nobody's who could be told. */
function attempt<T>(ref: string, work: () => Res<T>): Res<T> {
  try {
    return work();
  } catch (error) {
    return err(wrap("host.storage", `Cannot wait for instance ${ref}`, error));
  }
}
