// start: Created or Stopped → Initializing. (Running follows when the guest says so.)
import { rmSync } from "node:fs";
import { err, ok, ResultAsync } from "neverthrow";
import { DormouseError, fail, messageOf, wrap, type AsyncRes, type Res } from "../../errors.ts";
import { bootId, ProcessHandle, SIGKILL } from "../../ffi/process.ts";
import { describeError } from "../../log.ts";
import type { Lease } from "../network/service.ts";
import type { Machine } from "../vmm/machine.ts";
import type { Spawned } from "../vmm/spawn.ts";
import { argvOf } from "./argv.ts";
import { BootFds, bootParams, isKvmMissing, openBootFds, type DiskFiles } from "./boot.ts";
import type { Context } from "./context.ts";
import { guestConfig, type GuestNetwork } from "./guest-config.ts";
import { clearLeftovers, hold, type OnSettled } from "./settle.ts";
import type { Instance } from "./service.ts";
import { LIVE_STATES, obstacle, START } from "./states.ts";
import { isStorage } from "../storage.ts";
import { killUnheld } from "./ending.ts";
import { volumeDisks } from "./volumes.ts";

type Override = { readonly entrypoint?: readonly string[]; readonly cmd?: readonly string[] };

/** Loading kernel and initramfs is all that it does before it answers; slow only under emulation. */
const BOOT_TIMEOUT_MS = 60_000;

/** What a lane calls a start: one with a command of its own is like no other. */
const verbOf = (override: Override): string => (override.entrypoint === undefined && override.cmd === undefined ? START : `${START} ${JSON.stringify(override)}`);

/** The verb. Joins a start under way, also that of `create`. */
export function start(ctx: Context, ref: string, override: Override): AsyncRes<Instance> {
  return ctx.records.get(ref).asyncAndThen((found) => new ResultAsync(ctx.lanes.run(found.id, verbOf(override), async () => {
    const instance = ctx.records.find(found.id);
    if (instance === null) return fail("instance.not_found", `Cannot start instance ${found.name}: it was deleted meanwhile`);
    const wrong = obstacle(instance, "start");
    if (wrong !== null) return fail("instance.invalid_state", `Cannot start instance ${instance.name}: it is ${wrong}`, { details: { state: instance.state } });
    ctx.records.setCommand(found.id, override);
    return startNow(ctx, found.id);
  })));
}

/** Inside of the instance's lane. A failure is recorded: Stopped, with the message, nothing left behind. */
export async function startNow(ctx: Context, id: string): Promise<Res<Instance>> {
  const fds = new BootFds();
  const result = await attempt(ctx, id, fds).then((begun) => begun.andThen(() => onRecord(ctx, id))).catch((error: unknown) => err(startError(error)));
  fds.close();
  if (result.isOk()) return ok(result.value);
  await undoStart(ctx, id);
  const { message } = result.error;
  ctx.records.transition(id, "Stopped", message, { stoppedAt: Date.now(), exitCode: null, exitMessage: message });
  ctx.note(id, message, "warn");
  return err(result.error);
}

/** A guest that nobody could write down must not run: the next start would begin another beside it, on the same disk. */
function onRecord(ctx: Context, id: string): Res<Instance> {
  const instance = ctx.records.find(id)!;
  // What the monitor told of its guest was heard before its answer; a quick one has ended by now.
  if (!ctx.machines.has(id) || LIVE_STATES.includes(instance.state)) return ok(instance);
  return fail("host.storage", `Cannot start instance ${instance.name}: that it runs could not be recorded; the daemon's log says why`);
}

async function attempt(ctx: Context, id: string, fds: BootFds): Promise<Res<void>> {
  const instance = ctx.records.find(id)!;
  const dir = ctx.dir(id);
  const image = ctx.deps.images.ready(instance.imageDigest);
  if (image.isErr()) return err(startError(image.error));
  const { config, rootfsPath } = image.value;
  if (argvOf(instance, config).length === 0)
    return fail("instance.start_failed", `Cannot start instance ${instance.name}: neither it nor its image ${instance.image} says which program to run; give a command`);
  // Or what its guest has written would be gone without a word.
  const disk = ctx.disk(id, instance.startedAt !== null);
  if (disk.isErr()) return err(disk.error);
  // One of several layers is there from its clone on; a plain one is made at the first start.
  const [newest] = disk.value.layers;
  const upper = newest === undefined || newest.map !== null ? ok() : await ctx.ext4.ensure(newest.path, instance.overlayBytes, "upper");
  if (upper.isErr()) return err(upper.error);
  const volumes = await volumeDisks(ctx, instance);
  if (volumes.isErr()) return err(volumes.error);
  const disks = { ...disk.value, volumes: volumes.value };
  const network = await plugIn(ctx, instance, fds);
  if (network.isErr()) return err(network.error);
  const files = { dir, ...ctx.deps.artifacts, rootfsPath, disk: disks, config: guestConfig(instance, config, network.value) };
  openBootFds(files, fds);
  return launch(ctx, instance, fds, disks);
}

async function plugIn(ctx: Context, instance: Instance, fds: BootFds): Promise<Res<GuestNetwork | null>> {
  // Those of the guest before this one would keep it awake.
  const forgotten = instance.network && instance.startedAt !== null ? await ctx.deps.network.forget(instance.id) : ok();
  if (forgotten.isErr()) return err(forgotten.error);
  const lease = await lendTap(ctx, instance, fds);
  return lease.map((its) => its && { lease: its, resolvers: ctx.deps.network.resolvers() });
}

/** Lease, published ports and TAP, and its address open to whoever may reach it; null for an instance without a network. */
export async function lendTap(ctx: Context, instance: Instance, fds: BootFds): Promise<Res<Lease | null>> {
  if (!instance.network) return ok(null);
  const { network } = ctx.deps;
  const lease = network.allocate(instance.id);
  if (lease.isErr()) return err(lease.error);
  const tap = await network.publish(instance.id, instance.ports).andThen(() => network.setClosed(instance.id, false)).andThen(() => ctx.taps.open(lease.value));
  if (tap.isErr()) return err(tap.error);
  fds.lend("tap", tap.value);
  return ok(lease.value);
}

async function launch(ctx: Context, instance: Instance, fds: BootFds, disk: DiskFiles): Promise<Res<void>> {
  const machine = startMonitor(ctx, instance);
  if (machine.isErr()) return err(machine.error);
  const asked = machine.value.request("boot", bootParams(instance, ctx.deps.xsave, disk), { fds: fds.fds, timeoutMs: BOOT_TIMEOUT_MS });
  const settled = settleIn(ctx, instance.id, machine.value);
  if (settled.isErr()) return settled;
  const booted = await asked;
  if (booted.isErr()) return fail("instance.start_failed", `Cannot start instance ${instance.name}: ${booted.error.message}; its vmm log may say more`, { cause: booted.error });
  return ok();
}

/**
 * Starts one and holds it; `begin` asks it for what has no consequence yet: a monitor without a guest ends when it is hung up on. Then it
 * is on record, before anything else is asked of it. Ask it at once, then settleIn().
 */
export function startMonitor(ctx: Context, { id, memoryBytes, vcpus }: Pick<Instance, "id" | "memoryBytes" | "vcpus">, begin: (machine: Machine) => void = () => {}): Res<Machine> {
  const taken = ctx.deps.monitors.take(ctx.dir(id), { memoryBytes, vcpus });
  if (taken.isErr()) return err(taken.error);
  const { pid, start } = taken.value;
  const held = hold(ctx, id, taken.value, restartIfAsked);
  if (held.isErr()) {
    end(taken.value);
    return err(held.error);
  }
  if (held.value === null) return fail("host.process", "Cannot start the monitor: it ended at once; the vmm log may say why");
  begin(held.value);
  try {
    // A daemon that dies from here on leaves a monitor that is found again.
    ctx.records.setProcess(id, { pid, start, bootId: bootId() });
    return ok(held.value);
  } catch (error) {
    return err(wrap(isStorage(error) ? "host.storage" : "host.process", "Cannot start the monitor", error));
  }
}

/** What a monitor's work need not wait for. Where it fails, the monitor is to be ended, as after a failure of its own. */
export function settleIn(ctx: Context, id: string, { pid }: Machine): Res<void> {
  ctx.note(id, `monitor started, process ${pid}`);
  try {
    ctx.deps.cgroups.add(id, pid);
    return ok();
  } catch (error) {
    return err(wrap(isStorage(error) ? "host.storage" : "host.process", "Cannot start the monitor", error));
  }
}

/** One that nobody holds or has asked for anything yet. */
function end({ pid, start: began }: Spawned): void {
  const handle = ProcessHandle.open(pid, began);
  handle?.signal(SIGKILL);
  handle?.close();
}

/** A guest that asked for a restart (`reboot` in it) gets one, unless somebody wants it stopped. */
export const restartIfAsked: OnSettled = (ctx, id, status) => {
  if (status?.reason !== "restart" || ctx.closing) return;
  if (ctx.lanes.verbs(id).some((verb) => verb === "stop" || verb.startsWith("remove"))) return;
  ctx.note(id, "the guest asked for a restart");
  // Not "start": a guest may be that quick that its first start is still under way, and would be joined.
  inBackground(ctx, id, ctx.lanes.run(id, "restart", async () => {
    const instance = ctx.records.find(id);
    return instance?.state === "Stopped" && !instance.removing ? startNow(ctx, id) : null;
  }));
};

/** A start that nobody waits for: its failures are on record, but for one that could not be written down. */
export function inBackground(ctx: Context, id: string, work: Promise<unknown>): void {
  work.catch((error: unknown) => ctx.deps.logger.error("instance.start_unrecorded", { instance: id, error: describeError(error) }));
}

/** Ends what a failed start or restore has begun. */
export async function undoStart(ctx: Context, id: string): Promise<void> {
  const machine = ctx.machines.get(id);
  if (machine !== undefined) {
    machine.kill();
    await machine.ended;
  }
  await killUnheld(ctx, id);
  ctx.attempt(id, "something is left of its monitor", () => {
    ctx.deps.cgroups.kill(id);
    clearLeftovers(ctx, id);
  });
  for (const { path } of ctx.disk(id).unwrapOr({ layers: [] }).layers) rmSync(`${path}.part`, { force: true });
}

function startError(error: unknown): DormouseError {
  if (isKvmMissing(error)) return new DormouseError("host.kvm_missing", `Cannot start a virtual machine: ${messageOf(error)}; \`dormouse doctor\` says what to do`, { cause: error });
  return wrap("instance.start_failed", "Cannot start the instance", error);
}
