// A connection to the guest's agent, through its VMM; it keeps its instance awake.
import { err, errAsync, ok, okAsync, ResultAsync } from "neverthrow";
import { DormouseError, fail, type AsyncRes, type Res } from "../../errors.ts";
import { closeFd } from "../../ffi/fd.ts";
import { streamPair } from "../../ffi/socket.ts";
import { AGENT_PORT } from "../../vmm/protocol.ts";
import type { Context } from "./context.ts";
import { wake } from "./restore.ts";
import type { Instance } from "./service.ts";
import { obstacle } from "./states.ts";
import { wait } from "./wait.ts";

/** One try to reach the agent: it answers a connection at once, or is not there. */
const CONNECT_TIMEOUT_MS = 5_000;
const RETRY_MS = 50;

export interface Connected { readonly fd: number; readonly instance: Instance }

export interface Wanted {
  /** To follow on "Cannot", with the instance after it: "run a command in". */
  readonly what: string;
  /** How long to wait for an agent that is not there yet. */
  readonly waitMs: number;
  /** Whoever asked has gone: nobody waits any longer, and the instance is not kept awake for it. */
  readonly gone: AbortSignal;
}

/** A session keeps its instance awake from the moment that it is asked for until `end` or its own close(), however that comes. */
export function agentSession<S extends { close(): void }>(ctx: Context, ref: string, wanted: Wanted, open: (connected: Connected, end: () => void) => AsyncRes<S>): AsyncRes<S> {
  return ctx.records.get(ref).asyncAndThen(({ id }) => {
    const end = ctx.deps.activities.begin(id);
    const opening = connect(ctx, id, wanted).andThen((connected) => open(connected, end)).map((opened): S => ({ ...opened, close: () => (end(), opened.close()) }));
    return new ResultAsync(Promise.resolve(opening).then(
      (opened) => (opened.isErr() && end(), opened),
      (error: unknown) => { end(); throw error; },
    ));
  });
}

/** A stream to the agent of a running instance, tried again until its time is over. */
function connect(ctx: Context, ref: string, wanted: Wanted): AsyncRes<Connected> {
  const deadline = performance.now() + wanted.waitMs;
  return ctx.records.get(ref)
    .asyncAndThen((instance) => instance.state === "Standby" || ctx.saves.has(instance.id) ? wake(ctx, instance.id) : okAsync(instance))
    .andThen((instance) => instance.state === "Created" || instance.state === "Initializing"
      ? wait(ctx, instance.id, "Running", wanted.waitMs, wanted.gone).map((waited) => waited.instance)
      : new ResultAsync(Promise.resolve(ok(instance))))
    .andThen((instance) => obstacle(instance, "exec") === null ? new ResultAsync(reach(ctx, instance, wanted, deadline)) : errAsync(notRunning(instance, wanted)));
}

const notRunning = (instance: Instance, { what }: Wanted) =>
  new DormouseError("instance.invalid_state", `Cannot ${what} instance ${instance.name}: it is ${obstacle(instance, "exec")}`, { details: { state: instance.state } });

async function reach(ctx: Context, instance: Instance, wanted: Wanted, deadline: number): Promise<Res<Connected>> {
  for (;;) {
    const result = await tryConnect(ctx, instance.id);
    if (result.isOk()) return ok({ fd: result.value, instance });
    const now = ctx.records.find(instance.id);
    if (now === null || obstacle(now, "exec") !== null) return err(notRunning(now ?? { ...instance, state: "Stopped" }, wanted));
    if (performance.now() >= deadline || wanted.gone.aborted) return fail("instance.agent_unreachable", `Cannot reach the agent of instance ${instance.name}: ${result.error.message}`, { cause: result.error, retryAfterMs: 500 });
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
