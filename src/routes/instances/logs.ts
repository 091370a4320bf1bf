// `GET /instances/{id}/logs`: server-sent events, framed here and not by the framework. The contract's client parses every
// event as JSON: so an event is one line of the log as a JSON string, and there is no event without data.
import type { LogOptions } from "../../host/instances/service.ts";
import { describeError } from "../../log.ts";
import type { ApiDeps } from "../deps.ts";
import { orThrow } from "../errors.ts";
import { reset } from "../live.ts";

export const TAIL_DEFAULT = 100;
export const TAIL_MAX = 1_000_000;
const COMMENT_MS = 15_000;

/** Text that the client skips; it goes out at once, so that headers do too, and keeps a quiet connection alive. */
const COMMENT = ":\n\n";

/**
 * Streams until the log ends, the client hangs up, or reading fails; a failure resets the connection, because a clean end
 * would look like the end of the log. Lines are read no faster than the client takes them.
 */
export function logsResponse(deps: ApiDeps, request: Request, ref: string, options: Omit<LogOptions, "signal">): Response {
  const { instances, live, log } = deps;
  live.stream(request);
  const hungUp = new AbortController();
  const signal = AbortSignal.any([hungUp.signal, live.ended(request)]);
  const lines = orThrow(instances.logs(ref, { ...options, signal }))[Symbol.asyncIterator]();
  const encoder = new TextEncoder();
  let comments: ReturnType<typeof setInterval> | undefined;
  const stop = () => {
    clearInterval(comments);
    hungUp.abort();
  };
  const stream = new ReadableStream<Uint8Array>({
    start: (controller) => {
      controller.enqueue(encoder.encode(COMMENT));
      comments = setInterval(() => {
        if ((controller.desiredSize ?? 0) > 0) controller.enqueue(encoder.encode(COMMENT));
      }, COMMENT_MS);
    },
    pull: async (controller) => {
      try {
        const { done, value } = await lines.next();
        if (hungUp.signal.aborted) return;
        if (live.closing.aborted) return reset(controller);
        if (done !== true) return controller.enqueue(encoder.encode(`data: ${JSON.stringify(value)}\n\n`));
        clearInterval(comments);
        controller.close();
      } catch (error) {
        const gone = hungUp.signal.aborted;
        stop();
        if (gone) return;
        if (!live.closing.aborted) log.warn("logs.failed", { instance: ref, source: options.source, error: describeError(error) });
        reset(controller);
      }
    },
    cancel: () => {
      stop();
      // Mostly it stands at a line that nobody takes any more: only this has it let go of its files and listeners.
      void lines.return?.().catch(() => {});
    },
  });
  return new Response(stream, { headers: { "content-type": "text/event-stream", "cache-control": "no-cache" } });
}
