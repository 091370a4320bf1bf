// exec and attach: a connection to the guest's agent for one command or the workload's own terminal.
import type { AsyncRes } from "../../errors.ts";
import { Frame } from "../../vmm/protocol.ts";
import { execPayload, openSession } from "../agent/exec.ts";
import { encodeFrame } from "../agent/frames.ts";
import { agentSession, type Connected, type Wanted } from "./agent-session.ts";
import type { Context } from "./context.ts";
import type { ExecListener, ExecRequest, ExecSession } from "./service.ts";
import { wait } from "./wait.ts";

/** `run -it` attaches while the guest is still starting. */
const ATTACH_WAIT_MS = 30_000;
/** How long after its output has ended an instance's end may take to be on record. */
const END_WAIT_MS = 15_000;

export function exec(ctx: Context, ref: string, request: ExecRequest, listener: ExecListener, gone: AbortSignal): AsyncRes<ExecSession> {
  return execPayload(request).andThen((payload) =>
    session(ctx, ref, { waitMs: request.waitForAgentMs, gone }, listener, ({ fd, instance }, counted) => {
      ctx.note(instance.id, `exec: ${request.command[0] ?? ""}`);
      return openSession(fd, encodeFrame(Frame.EXEC, payload), counted);
    }));
}

/** Its end is the instance's own: the record knows it even where the guest was gone before it could say so here. */
export function attach(ctx: Context, ref: string, listener: ExecListener, gone: AbortSignal): AsyncRes<ExecSession> {
  return session(ctx, ref, { waitMs: ATTACH_WAIT_MS, gone }, listener, ({ fd, instance }, counted) => {
    let closed = false;
    const followed: ExecListener = {
      onStdout: (bytes) => counted.onStdout(bytes),
      onStderr: (bytes) => counted.onStderr(bytes),
      onDrain: () => counted.onDrain(),
      onEnd: (end) => counted.onEnd(end),
      onLost: (reason) => void wait(ctx, instance.id, "Stopped", END_WAIT_MS, new AbortController().signal).map((waited) => waited.instance).match(
        ({ state, exitCode, exitMessage }) => {
          if (closed) return;
          if (state === "Stopped" && exitCode !== null) counted.onEnd({ code: exitCode, message: exitMessage });
          else counted.onLost(exitMessage ?? reason);
        },
        () => { if (!closed) counted.onLost(reason); },
      ),
    };
    return openSession(fd, encodeFrame(Frame.ATTACH), followed).map((session) => ({ ...session, close: () => ((closed = true), session.close()) }));
  });
}

function session(ctx: Context, ref: string, wanted: Omit<Wanted, "what">, listener: ExecListener, open: (connected: Connected, counted: ExecListener) => AsyncRes<ExecSession>): AsyncRes<ExecSession> {
  return agentSession(ctx, ref, { what: "run a command in", ...wanted }, (connected, end) => open(connected, {
    onStdout: (bytes) => listener.onStdout(bytes),
    onStderr: (bytes) => listener.onStderr(bytes),
    onDrain: () => listener.onDrain(),
    onEnd: (how) => (end(), listener.onEnd(how)),
    onLost: (reason) => (end(), listener.onLost(reason)),
  }));
}
