// cp and stat: files between host and guest, as the workload sees them.
import { okAsync, type ResultAsync } from "neverthrow";
import type { AsyncRes, DormouseError } from "../../errors.ts";
import { askStat, copyFrame, openCopy, statFrame } from "../agent/copy.ts";
import { agentSession } from "./agent-session.ts";
import type { Context } from "./context.ts";
import type { CopyListener, CopyRequest, CopySession, PathStat, StatRequest } from "./copy-service.ts";

/** An agent that serves is there within this, or not at all. */
const WAIT_MS = 5_000;
/** So short that nobody need be told of a client that goes. */
const NOBODY = new AbortController().signal;
/** A stat takes no longer, unless the path is on a file system that the guest itself serves, badly. */
const STAT_MS = 10_000;

export function copy(ctx: Context, ref: string, request: CopyRequest, listener: CopyListener): AsyncRes<CopySession> {
  const what = request.direction === "in" ? "copy to" : "copy from";
  return copyFrame(request).andThen((frame) =>
    agentSession(ctx, ref, { what, waitMs: WAIT_MS, gone: NOBODY }, ({ fd, instance }, end) => {
      ctx.note(instance.id, `cp ${request.direction}: ${request.path}`);
      return openCopy(fd, frame, {
        onEntry: (entry) => listener.onEntry(entry),
        onData: (bytes) => listener.onData(bytes),
        onFileEnd: () => listener.onFileEnd(),
        onSkipped: (path, reason) => listener.onSkipped(path, reason),
        onDrain: () => listener.onDrain(),
        onEnd: (how) => (end(), listener.onEnd(how)),
        onLost: (reason) => (end(), listener.onLost(reason)),
      });
    }));
}

export const stat = (ctx: Context, ref: string, request: StatRequest): ResultAsync<PathStat, DormouseError> =>
  statFrame(request).andThen((frame) =>
    agentSession(ctx, ref, { what: "look at a path in", waitMs: WAIT_MS, gone: NOBODY }, ({ fd }) => askStat(fd, frame, STAT_MS).map((found) => ({ found, close() {} })))
      .andThen(({ found, close }) => (close(), okAsync(found))));
