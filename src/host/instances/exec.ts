// exec and attach: a connection to the guest's agent, through its VMM, for one command or the workload's own terminal.
import { err, errAsync, ok, okAsync, ResultAsync } from "neverthrow";
import { DormouseError, fail, type AsyncRes, type Res } from "../../errors.ts";
import { closeFd } from "../../ffi/fd.ts";
import { streamPair } from "../../ffi/socket.ts";
import { AGENT_PORT, Frame } from "../../vmm/protocol.ts";
import { execPayload, openSession } from "../agent/exec.ts";
import { encodeFrame } from "../agent/frames.ts";
import type { Context } from "./context.ts";
import type { ExecListener, ExecRequest, ExecSession, Instance } from "./service.ts";
import { wake } from "./restore.ts";
import { obstacle } from "./states.ts";
import { wait } from "./wait.ts";

/** One try to reach the agent: it answers a connection at once, or is not there. */
const CONNECT_TIMEOUT_MS = 5_000;
const RETRY_MS = 50;
/** `run -it` attaches while the guest is still starting. */
const ATTACH_WAIT_MS = 30_000;
/** How long after its output has ended an instance's end may take to be on record. */
const END_WAIT_MS = 15_000;

export function exec(ctx: Context, ref: string, request: ExecRequest, listener: ExecListener): AsyncRes<ExecSession> {
  return execPayload(request).andThen((payload) =>
    session(ctx, ref, request.waitForAgentMs, listener, ({ fd, instance }, counted) => {
      ctx.note(instance.id, `exec: ${request.command[0] ?? ""}`);
      return openSession(fd, encodeFrame(Frame.EXEC, payload), counted);
    }));
}

/** Its end is the instance's own: the record knows it even where the guest was gone before it could say so here. */
export function attach(ctx: Context, ref: string, listener: ExecListener): AsyncRes<ExecSession> {
  return session(ctx, ref, ATTACH_WAIT_MS, listener, ({ fd, instance }, counted) => {
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

interface Connected { readonly fd: number; readonly instance: Instance }

/** A session keeps its instance awake from the moment that it is asked for until its end, however that comes. */
function session(ctx: Context, ref: string, waitMs: number, listener: ExecListener, open: (connected: Connected, counted: ExecListener) => AsyncRes<ExecSession>): AsyncRes<ExecSession> {
  return ctx.records.get(ref).asyncAndThen(({ id }) => {
    const end = ctx.deps.activities.begin(id);
    const counted: ExecListener = {
      onStdout: (bytes) => listener.onStdout(bytes),
      onStderr: (bytes) => listener.onStderr(bytes),
      onDrain: () => listener.onDrain(),
      onEnd: (how) => (end(), listener.onEnd(how)),
      onLost: (reason) => (end(), listener.onLost(reason)),
    };
    const opening = connect(ctx, id, waitMs).andThen((connected) => open(connected, counted)).map((opened): ExecSession => ({ ...opened, close: () => (end(), opened.close()) }));
    return new ResultAsync(Promise.resolve(opening).then(
      (opened) => (opened.isErr() && end(), opened),
      (error: unknown) => { end(); throw error; },
    ));
  });
}

/** A stream to the agent of a running instance, tried again until `waitMs` are over. */
function connect(ctx: Context, ref: string, waitMs: number): AsyncRes<Connected> {
  const deadline = Date.now() + waitMs;
  return ctx.records.get(ref)
    .asyncAndThen((instance) => instance.state === "Standby" || ctx.saves.has(instance.id) ? wake(ctx, instance.id) : okAsync(instance))
    .andThen((instance) => instance.state === "Created" || instance.state === "Initializing"
      ? wait(ctx, instance.id, "Running", waitMs, new AbortController().signal).map((waited) => waited.instance)
      : new ResultAsync(Promise.resolve(ok(instance))))
    .andThen((instance) => obstacle(instance, "exec") === null ? new ResultAsync(reach(ctx, instance, deadline)) : errAsync(notRunning(instance)));
}

const notRunning = (instance: Instance) =>
  new DormouseError("instance.invalid_state", `Cannot run a command in instance ${instance.name}: it is ${obstacle(instance, "exec")}`, { details: { state: instance.state } });

async function reach(ctx: Context, instance: Instance, deadline: number): Promise<Res<Connected>> {
  for (;;) {
    const result = await tryConnect(ctx, instance.id);
    if (result.isOk()) return ok({ fd: result.value, instance });
    const now = ctx.records.find(instance.id);
    if (now === null || obstacle(now, "exec") !== null) return err(notRunning(now ?? { ...instance, state: "Stopped" }));
    if (Date.now() >= deadline) return fail("instance.agent_unreachable", `Cannot reach the agent of instance ${instance.name}: ${result.error.message}`, { cause: result.error, retryAfterMs: 500 });
    await Bun.sleep(RETRY_MS);
  }
}

async function tryConnect(ctx: Context, id: string): Promise<Res<number>> {
  const machine = ctx.machines.get(id);
  if (machine === undefined) return fail("host.process", "its monitor has gone");
  const [ours, theirs] = streamPair();
  const asked = machine.request("vsock", { port: AGENT_PORT }, { fds: { stream: theirs }, timeoutMs: CONNECT_TIMEOUT_MS });
  closeFd(theirs); // the packet has taken a copy along
  const joined = await asked;
  if (joined.isErr()) {
    closeFd(ours);
    return err(joined.error);
  }
  return ok(ours);
}
