// The instance domain: opens it, and puts the verbs together.
import { mkdirSync, readFileSync } from "node:fs";
import { err, errAsync, ok, ResultAsync } from "neverthrow";
import { fail, wrap, type AsyncRes, type Res } from "../../errors.ts";
import { adoptAll } from "./adopt.ts";
import { Context, type InstanceDeps } from "./context.ts";
import { create } from "./create.ts";
import { copy, stat } from "./copy.ts";
import { attach, exec } from "./exec.ts";
import type { SleepService } from "../snapshots/service.ts";
import { logs } from "./logs.ts";
import { remove } from "./remove.ts";
import type { InstanceService, InstanceStats } from "./service.ts";
import { sleepParts, sleepServiceOf, type SleepParts } from "./sleep.ts";
import { start } from "./start.ts";
import { obstacle } from "./states.ts";
import { stop } from "./stop.ts";
import { isStorage, withRemedy } from "../storage.ts";
import { attachVolume, detachVolume } from "./volumes.ts";
import { wait } from "./wait.ts";

export { instanceMigrations } from "./migrations.ts";
export { nameOfOwner, userOfImage } from "./records.ts";
export type { InstanceDeps } from "./context.ts";

/** How long a daemon that ends waits for verbs under way; a guest's grace is 10 s. */
const CLOSE_WAIT_MS = 20_000;
const PAGE = 4096;

/** Takes over what runs and settles what doesn't, then answers. */
export function openInstances(deps: InstanceDeps): AsyncRes<InstanceService & SleepService> {
  try {
    mkdirSync(deps.dir, { recursive: true, mode: 0o700 });
  } catch (error) {
    return errAsync(wrap("host.storage", `Cannot make the folder ${deps.dir}`, error));
  }
  if (deps.cgroups.reason !== null) deps.logger.warn("cgroups.unused", { reason: deps.cgroups.reason });
  const ctx = new Context(deps);
  const parts = sleepParts(ctx);
  return new ResultAsync(adoptAll(ctx).catch((error: unknown): Res<void> => err(wrap("internal", "Cannot take over the instances on record", error))))
    .map(() => {
      ctx.merger.look();
      parts.auto.kick();
      parts.schedules.start();
      return { ...serviceOf(ctx, parts), ...sleepServiceOf(ctx, parts, guarded) };
    });
}

const serviceOf = (ctx: Context, parts: SleepParts): InstanceService => ({
  create: (request) => guarded(`create the instance ${request.name}`, () => create(ctx, request)),
  list: (filter) => ctx.records.list(filter),
  get: (ref) => ctx.records.get(ref),
  start: (ref, override) => guarded(`start the instance ${ref}`, () => start(ctx, ref, override)),
  stop: (ref, options) => guarded(`stop the instance ${ref}`, () => stop(ctx, ref, options)),
  remove: (ref, options) => guarded(`delete the instance ${ref}`, () => remove(ctx, ref, options)),
  attachVolume: (ref, mount) => guarded(`attach a volume to the instance ${ref}`, () => attachVolume(ctx, ref, mount)),
  detachVolume: (ref, volume) => guarded(`detach the volume ${volume} from the instance ${ref}`, () => detachVolume(ctx, ref, volume)),
  wait: (ref, target, timeoutMs, signal) => wait(ctx, ref, target, timeoutMs, signal),
  logs: (ref, options) => logs(ctx, ref, options),
  exec: (ref, request, listener, gone) => guarded(`run a command in the instance ${ref}`, () => exec(ctx, ref, request, listener, gone)),
  attach: (ref, listener, gone) => guarded(`attach to the instance ${ref}`, () => attach(ctx, ref, listener, gone)),
  copy: (ref, request, listener) => guarded(`copy files of the instance ${ref}`, () => copy(ctx, ref, request, listener)),
  stat: (ref, request) => guarded(`look into the instance ${ref}`, () => stat(ctx, ref, request)),
  stats: (ref) => stats(ctx, ref),
  subscribe: (listener) => ctx.records.subscribe(listener),
  close: () => close(ctx, parts),
});

/** What a verb throws (the database, mostly: a full disk) as the error that it is; a full disk says what to do. */
const guarded = <T>(what: string, verb: () => AsyncRes<T>): AsyncRes<T> =>
  ResultAsync.fromPromise((async () => verb())(), (cause) => wrap(isStorage(cause) ? "host.storage" : "internal", `Cannot ${what}`, cause)).andThen((result) => result).mapErr(withRemedy);

function stats(ctx: Context, ref: string): AsyncRes<InstanceStats> {
  return ctx.records.get(ref).asyncAndThen((instance) => {
    const machine = ctx.machines.get(instance.id), wrong = obstacle(instance, "stats");
    if (machine === undefined || wrong !== null)
      return errAsync(fail("instance.invalid_state", `Cannot read statistics of instance ${instance.name}: ${wrong === null ? "its monitor has gone" : `it is ${wrong}`}`, { details: { state: instance.state } }).error);
    return machine.request("stats", null).andThen((figures) => memoryOf(ctx.records.process(instance.id)?.pid).map((memory) => ({ ...figures, ...memory })));
  });
}

/** proc(5): /proc/PID/statm begins with size and resident, in pages. */
function memoryOf(pid: number | undefined): Res<{ virtualBytes: number; residentBytes: number }> {
  try {
    const [size = 0, resident = 0] = readFileSync(`/proc/${pid}/statm`, "utf8").split(" ").map(Number);
    return ok({ virtualBytes: size * PAGE, residentBytes: resident * PAGE });
  } catch (error) {
    return fail("instance.invalid_state", `Cannot read the memory of process ${pid}: it has just ended`, { cause: error });
  }
}

/** Guests run on: the next daemon takes them over. */
async function close(ctx: Context, { auto, schedules }: SleepParts): Promise<void> {
  auto.close();
  const resting = Promise.all([schedules.close(), ctx.merger.close()]);
  let timer: ReturnType<typeof setTimeout> | undefined;
  await Promise.race([Promise.all([ctx.lanes.allIdle(), resting]), new Promise<void>((resolve) => (timer = setTimeout(resolve, CLOSE_WAIT_MS)))]);
  clearTimeout(timer);
  ctx.closing = true;
  for (const machine of ctx.machines.values()) machine.detach();
  ctx.machines.clear();
  ctx.taps.closeAll();
  ctx.files.close();
}
