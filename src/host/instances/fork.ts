// fork: a new instance with the content of another: Stopped (its disk), Standby (disk and memory, shared) or Running (frozen for as
// long as its state takes to write, then on as if nothing had been).
import { err, ResultAsync } from "neverthrow";
import { fail, wrap, type AsyncRes, type Res } from "../../errors.ts";
import { closeFd, O_RDWR, openFd } from "../../ffi/fd.ts";
import type { Clone } from "../disks/service.ts";
import type { TargetState } from "../snapshots/service.ts";
import type { Machine } from "../vmm/machine.ts";
import { checkName } from "./create.ts";
import type { Context } from "./context.ts";
import { bear, onTo, type Parent } from "./offspring.ts";
import { resume, save, type Saved } from "./saving.ts";
import type { Instance } from "./service.ts";
import { copyRefusal } from "./volumes.ts";

/** `disk1`: the only writable one. */
const UPPER = 1;

export interface ForkRequest { readonly name: string; readonly fromRunning: boolean; readonly targetState: TargetState | null }

export function fork(ctx: Context, ref: string, request: ForkRequest): AsyncRes<Instance> {
  return checkName(request.name).andThen(() => ctx.records.get(ref)).asyncAndThen((source) =>
    new ResultAsync(ctx.lanes.run(source.id, `fork ${JSON.stringify(request)}`, () => begin(ctx, source.id, request)))
      .andThen((child) => new ResultAsync(onTo(ctx, child.id, child.target))));
}

interface Born { readonly id: string; readonly target: TargetState }

/** In the source's lane: all that needs it as it is. The rest of the child's way is its own. */
async function begin(ctx: Context, id: string, request: ForkRequest): Promise<Res<Born>> {
  const source = ctx.records.find(id);
  if (source === null) return fail("instance.not_found", `Cannot fork instance ${id}: it was deleted meanwhile`);
  const wrong = refusal(source, request);
  if (wrong !== null) return fail("instance.invalid_state", `Cannot fork instance ${source.name}: ${wrong}`, { details: { state: source.state } });
  const written = copyRefusal(ctx, source, "fork");
  if (written !== null) return err(written);
  const free = ctx.records.nameFree(request.name);
  if (free.isErr()) return err(free.error);
  const disk = ctx.disk(id, source.state !== "Stopped");
  if (disk.isErr()) return err(disk.error);
  const target = request.targetState ?? (source.state as TargetState);
  const child = source.state === "Running" ? await forkRunning(ctx, source, request.name)
    : await bear(ctx, request.name, parentOf(source), { generation: ctx.records.generationsOf(id).saved });
  return child.map((born) => ({ id: born, target }));
}

function refusal(source: Instance, { fromRunning, targetState }: ForkRequest): string | null {
  if (source.removing) return "it is being deleted";
  if (source.state === "Running") return fromRunning ? null : "it is Running; ask for that with `from_running` (`--from-running`), or stop it or put it to sleep first";
  if (source.state === "Stopped") return targetState === "Standby" ? "it is Stopped, and has no memory that a fork could sleep on" : null;
  return source.state === "Standby" ? null : `it is ${source.state}`;
}

const parentOf = (source: Instance): Parent => ({ like: source, imageDigest: source.imageDigest, disk: { kind: "instance", id: source.id } });

function forkRunning(ctx: Context, source: Instance, name: string): Promise<Res<string>> {
  return captured(ctx, source, ({ generation, result }, machine) => bear(ctx, name, parentOf(source), {
    generation: generation.id, give: (clone) => handOver(machine, clone), also: () => ctx.generations.ready(generation.id, result.dataBytes),
  }));
}

/** Saves a running machine, has `use` take what it needs while it stands still, and lets it run on whatever came of that. */
export async function captured<T>(ctx: Context, source: Instance, use: (saved: Saved, machine: Machine) => Promise<Res<T>>): Promise<Res<T>> {
  const machine = ctx.machines.get(source.id);
  if (machine === undefined) return fail("instance.invalid_state", `Cannot copy instance ${source.name}: its monitor has gone`, { details: { state: source.state } });
  const saved = await save(ctx, source, machine, { heedful: false });
  if (saved.isErr()) return err(saved.error);
  const used = await use(saved.value, machine).catch((error: unknown): Res<T> => err(wrap("host.storage", `Cannot copy instance ${source.name}`, error)));
  await resume(ctx, source.id, machine, used.isOk() ? null : saved.value.generation);
  return used;
}

/** Gives the source's monitor its new top layer where the clone made one, and settles the clone. */
export async function handOver(machine: Machine, clone: Clone): Promise<Res<void>> {
  if (clone.newTop === null) return clone.finish();
  const fds: Record<string, number> = {};
  try {
    fds["disk"] = openFd(clone.newTop.path, O_RDWR);
    if (clone.newTop.map !== null) fds["map"] = openFd(clone.newTop.map, O_RDWR);
    const added = await machine.request("addLayer", { disk: UPPER }, { fds });
    return added.isErr() ? err(added.error) : clone.finish();
  } finally {
    Object.values(fds).forEach(closeFd);
  }
}
