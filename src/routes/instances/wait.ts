// `GET /instances/{id}/wait`. The client gives up on a silent connection after 60 s: so headers and one space go out at
// once, a space every 15 s, and the JSON at the end, before which white space means nothing.
import type { InstanceState } from "../../host/instances/service.ts";
import { describeError } from "../../log.ts";
import type { ApiDeps } from "../deps.ts";
import { orThrow } from "../errors.ts";
import { reset } from "../live.ts";

export const WAIT_DEFAULT_MS = 60_000;
/** A longer wait is capped, not refused. */
const WAIT_MAX_MS = 300_000;
const SPACE_MS = 15_000;

/** Errors known before the wait begins are thrown; a later one resets the connection, as the status is out by then. */
export function waitResponse(deps: ApiDeps, request: Request, ref: string, target: InstanceState, timeoutMs: number): Response {
  const { instances, live, log } = deps;
  // By id from here on: a name may come to mean another instance meanwhile.
  const { id } = orThrow(instances.get(ref));
  live.stream(request);
  const hungUp = new AbortController();
  const signal = AbortSignal.any([hungUp.signal, live.ended(request)]);
  const encoder = new TextEncoder();
  let spaces: ReturnType<typeof setInterval> | undefined;
  const stream = new ReadableStream<Uint8Array>({
    start: (controller) => {
      controller.enqueue(encoder.encode(" "));
      spaces = setInterval(() => controller.enqueue(encoder.encode(" ")), SPACE_MS);
      const finish = (act: () => void) => {
        clearInterval(spaces);
        if (!hungUp.signal.aborted) act();
      };
      instances.wait(id, target, Math.min(timeoutMs, WAIT_MAX_MS), signal).then((result) =>
        finish(() => {
          if (live.closing.aborted) return reset(controller);
          if (result.isErr()) {
            log.warn("wait.failed", { instance: id, target, error: describeError(result.error) });
            return reset(controller);
          }
          const { instance, timedOut } = result.value;
          const answer = { state: instance.state, timed_out: timedOut, state_error: instance.stateError };
          live.answered(request);
          controller.enqueue(encoder.encode(JSON.stringify(answer)));
          controller.close();
        }),
      );
    },
    cancel: () => {
      clearInterval(spaces);
      hungUp.abort();
    },
  });
  return new Response(stream, { headers: { "content-type": "application/json" } });
}
