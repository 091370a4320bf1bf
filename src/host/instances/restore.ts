// restore: Standby → Running. Until the record says that the snapshot is consumed, the guest runs with its gates shut and can be
// ended without a trace; from then on the saved machine is void, and the instance is what its monitor is.
import { err, ok, okAsync, ResultAsync } from "neverthrow";
import { DormouseError, fail, messageOf, wrap, type AsyncRes, type Res } from "../../errors.ts";
import { O_RDONLY } from "../../ffi/fd.ts";
import type { RestoreResult } from "../../vmm/protocol.ts";
import type { Machine } from "../vmm/machine.ts";
import { BootFds, loadParams, openKvm, openMachineFds, restoreParams } from "./boot.ts";
import type { Context } from "./context.ts";
import { eventually } from "./eventually.ts";
import { callOff, THAW_MS } from "./saving.ts";
import type { Instance } from "./service.ts";
import { lendTap, settleIn, startMonitor, undoStart } from "./start.ts";
import { obstacle } from "./states.ts";
import { isStorage } from "../storage.ts";
import { volumeDisks } from "./volumes.ts";

/** How long a guest may take to acknowledge who and when it is; a loaded host under emulation needs seconds. */
const ACKNOWLEDGE_MS = 60_000;
/** Loading state and device maps before that. */
const LOAD_MS = 60_000;

export function restore(ctx: Context, ref: string): AsyncRes<Instance> {
  return ctx.records.idOf(ref).asyncAndThen(({ id, state }) => new ResultAsync(ctx.lanes.run(id, "restore", async () => {
    const instance = ctx.records.find(id);
    // It was woken meanwhile, by a packet say: as good as this one.
    return state === "Standby" && instance?.state === "Running" ? ok(instance) : restoreNow(ctx, id, instance);
  })));
}

/** Whether a packet or a request may wake it. */
export const wakes = ({ autoStandby }: Instance): boolean => autoStandby?.wakeOnPacket === true;

/** For a request that has come: one that runs is as wanted, one that is falling asleep is held back or woken. */
export function wake(ctx: Context, ref: string): AsyncRes<Instance> {
  return ctx.records.get(ref).asyncAndThen((found) => {
    callOff(ctx, found.id, "a request came for it");
    if (found.state === "Running" && !ctx.lanes.verbs(found.id).some((verb) => verb.startsWith("standby"))) return okAsync(found);
    return new ResultAsync<Instance, DormouseError>(ctx.lanes.run(found.id, "wake", () => wakeNow(ctx, found.id)));
  });
}

async function wakeNow(ctx: Context, id: string): Promise<Res<Instance>> {
  const instance = ctx.records.find(id);
  if (instance === null) return fail("instance.not_found", `Cannot wake instance ${id}: it was deleted meanwhile`);
  if (instance.state === "Running") return ok(instance);
  if (instance.state === "Standby" && wakes(instance)) return restoreNow(ctx, id, instance);
  const why = instance.state === "Standby" ? "it sleeps, and waking by requests is off for it: restore it" : `it is ${instance.state}`;
  return fail("instance.invalid_state", `Cannot wake instance ${instance.name}: ${why}`, { details: { state: instance.state } });
}

/** Has packets wake a sleeping instance where its policy says so; elsewhere its address answers as a closed port. Inside of its lane; what fails is tried again. */
export function knockWakes(ctx: Context, id: string): Promise<void> {
  let inLane = true;
  return listens(ctx, id, `have packets wake instance ${id}`, () => {
    if (!inLane) return ctx.lanes.run(id, "listen", () => listen(ctx, id));
    inLane = false;
    return listen(ctx, id);
  });
}

/** Of those that go on trying the last one does: each wake that fails begins one, and a client may ask for many. */
function listens(ctx: Context, id: string, what: string, work: () => Promise<Res<void>>): Promise<void> {
  const mine = {};
  ctx.listening.set(id, mine);
  return eventually(ctx, what, work, () => ctx.listening.get(id) === mine);
}

async function listen(ctx: Context, id: string): Promise<Res<void>> {
  const instance = ctx.records.find(id);
  const lease = instance?.network === true ? ctx.deps.network.lease(id) : null;
  if (instance === null || instance.state !== "Standby" || lease === null) return ok();
  const closed = await ctx.taps.open(lease).andThen(() => ctx.deps.network.setClosed(id, !wakes(instance)));
  if (closed.isErr()) return err(closed.error);
  if (wakes(instance)) ctx.taps.listen(id, { onKnock: () => knock(ctx, id), onGone: () => linkAnew(ctx, id) });
  else ctx.taps.quiet(id);
  return ok();
}

function linkAnew(ctx: Context, id: string): void {
  if (ctx.closing) return;
  ctx.note(id, "its link was removed from the host: making it anew", "warn");
  void listens(ctx, id, `make the link of instance ${id} anew`, () => ctx.lanes.run(id, "listen", () => listen(ctx, id)));
}

function knock(ctx: Context, id: string): void {
  if (ctx.closing) return;
  ctx.note(id, "a packet came: waking");
  const failed = (why: string) => ctx.note(id, `it could not be woken: ${why}`, "warn");
  ctx.lanes.run(id, "wake", () => wakeNow(ctx, id)).then((woken) => { if (woken.isErr()) failed(woken.error.message); }, (error: unknown) => {
    failed(messageOf(error));
    // Wherever it broke off: one that still sleeps must hear the next knock.
    void listens(ctx, id, `have packets wake instance ${id} again`, () => ctx.lanes.run(id, "listen again", async () => {
      if (ctx.records.find(id)?.state === "Standby") ctx.taps.discard(id);
      return listen(ctx, id);
    }));
  });
}

/** Inside of the instance's lane. A failure before the commit leaves it Standby, with the error on record. */
export async function restoreNow(ctx: Context, id: string, instance = ctx.records.find(id)): Promise<Res<Instance>> {
  if (instance === null) return fail("instance.not_found", `Cannot restore instance ${id}: it was deleted meanwhile`);
  const wrong = obstacle(instance, "restore");
  if (wrong !== null) return fail("instance.invalid_state", `Cannot restore instance ${instance.name}: it is ${wrong}`, { details: { state: instance.state } });
  // Its saved machine is not merged from here on, and a merge under way is off: what is opened below must be one chain.
  const { saved } = ctx.records.generationsOf(id), chain = saved === null ? [] : ctx.generations.chain(saved);
  const letGo = saved === null ? () => {} : ctx.merger.hold(saved, chain.map((one) => one.id));
  try {
    const machineFds = new BootFds(), deviceFds = new BootFds();
    const loaded = await load(ctx, instance, chain, machineFds, deviceFds).catch((error: unknown): Res<Loaded> => err(wrap(isStorage(error) ? "host.storage" : "instance.start_failed", `Cannot restore instance ${instance.name}`, error)));
    machineFds.close();
    deviceFds.close();
    if (loaded.isErr()) return await stayAsleep(ctx, id, loaded.error);
    return await release(ctx, instance, saved, loaded.value);
  } finally {
    letGo();
  }
}

/** Newest first. */
type Chain = ReturnType<Context["generations"]["chain"]>;

interface Loaded { readonly machine: Machine; readonly result: RestoreResult }

/** The monitor reads the saved machine while the rest is found and opened here. */
async function load(ctx: Context, instance: Instance, chain: Chain, machineFds: BootFds, fds: BootFds): Promise<Res<Loaded>> {
  const { id, name } = instance, { xsave } = ctx.deps;
  if (chain.length === 0) return fail("snapshot.damaged", `Cannot restore instance ${name}: no saved machine of it is on record`);
  const opened = await openChain(ctx, chain, machineFds);
  if (opened.isErr()) return err(opened.error);
  openKvm(machineFds);
  let loading: AsyncRes<null> = okAsync(null);
  const started = startMonitor(ctx, instance, (machine) => { loading = machine.request("load", loadParams(instance, xsave, chain.map((one) => one.id)), { fds: machineFds.fds, timeoutMs: LOAD_MS }); });
  if (started.isErr()) return err(started.error);
  ctx.step("started");
  const machine = started.value;
  const image = ctx.deps.images.ready(instance.imageDigest);
  if (image.isErr()) return err(image.error);
  const lease = await lendTap(ctx, instance, fds);
  if (lease.isErr()) return err(lease.error);
  const disk = ctx.disk(id, true);
  if (disk.isErr()) return err(disk.error);
  const volumes = await volumeDisks(ctx, instance);
  if (volumes.isErr()) return err(volumes.error);
  const disks = { ...disk.value, volumes: volumes.value };
  openMachineFds({ dir: ctx.dir(id), rootfsPath: image.value.rootfsPath, disk: disks }, fds);
  const asked = machine.request("restore", restoreParams(instance, disks, lease.value, ACKNOWLEDGE_MS), { fds: fds.fds, timeoutMs: LOAD_MS + ACKNOWLEDGE_MS });
  const settled = settleIn(ctx, id, machine);
  if (settled.isErr()) return err(settled.error);
  // Where that failed, the monitor has gone before it was asked for this.
  const result = await loading.andThen(() => asked);
  if (result.isErr()) return err(named(instance, result.error));
  ctx.deps.onRunning?.(result.value.runsSinceMs);
  return ok({ machine, result: result.value });
}

/** Each file is opened as soon as it is there: what is open stays, also if somebody else has it compressed meanwhile. */
async function openChain(ctx: Context, chain: Chain, fds: BootFds): Promise<Res<void>> {
  for (const [i, { id, dir, machine, memory }] of chain.entries()) {
    const raw = await ctx.deps.compression.ensureRaw(id, dir);
    if (raw.isErr()) return err(raw.error);
    try {
      fds.open(`machine${i}`, machine, O_RDONLY);
      fds.open(`memory${i}`, memory, O_RDONLY);
    } catch (error) {
      return fail("snapshot.damaged", `Cannot use the snapshot ${id}: ${messageOf(error)}`, { cause: error, details: { generation: id } });
    }
  }
  return ok();
}

/** The monitor says why in words that begin with the reason's code (src/machine-state). */
function named({ name }: Instance, error: DormouseError): DormouseError {
  const [, code] = /\b(snapshot\.(?:damaged|incompatible))\b/.exec(error.message) ?? [];
  const text = error.message.replace(/^snapshot\.\w+: /, "");
  return fail((code ?? (isStorage(error) ? "host.storage" : "instance.start_failed")) as "snapshot.damaged", `Cannot restore instance ${name}: ${text}; its vmm log may say more`, { cause: error }).error;
}

async function stayAsleep(ctx: Context, id: string, error: DormouseError): Promise<Res<Instance>> {
  await undoStart(ctx, id).catch((failure: unknown) => ctx.note(id, `something is left of its monitor: ${messageOf(failure)}`, "warn"));
  // Whoever knocked sends again, and that is the next attempt.
  ctx.taps.discard(id);
  ctx.attempt(id, "why it could not be restored is not on record", () => ctx.records.transition(id, "Standby", error.message, { stateError: error.message }));
  ctx.note(id, error.message, "warn");
  await knockWakes(ctx, id);
  return err(error);
}

/** The commit, then the gates. */
async function release(ctx: Context, instance: Instance, saved: string | null, { machine, result }: Loaded): Promise<Res<Instance>> {
  const { id } = instance;
  ctx.step("acknowledged");
  const consumed = consume(ctx, instance, saved, machine);
  if (consumed.isErr()) return stayAsleep(ctx, id, consumed.error);
  ctx.step("awake");
  ctx.taps.quiet(id);
  const released = await machine.request("release", null, { timeoutMs: THAW_MS });
  if (released.isErr()) {
    ctx.note(id, `it woke, and its workload could not be let go: ${released.error.message}; killing it`, "warn");
    machine.kill();
    await machine.ended;
    return fail("instance.start_failed", `Cannot restore instance ${id}: ${released.error.message}`, { cause: released.error });
  }
  ctx.step("released");
  const { load: loadMs, machine: machineMs, run, acknowledged } = result.stepsMs;
  ctx.note(id, `awake: state loaded in ${ms(loadMs)}, machine made in ${ms(machineMs)}, running after ${ms(run)}, acknowledged after ${ms(acknowledged)}`);
  return ok(ctx.records.find(id)!);
}

/** From here on the saved machine is void. */
function consume(ctx: Context, { id, startedAt }: Instance, saved: string | null, machine: Machine): Res<void> {
  // Its end was recorded as that of a sleeper's monitor, and is not told again.
  if (ctx.machines.get(id) !== machine) return fail("instance.start_failed", `Cannot restore instance ${id}: its monitor ended as soon as its guest was awake; its vmm log may say more`);
  try {
    ctx.records.transition(id, "Running", null, { savedGeneration: null, liveGeneration: saved, startedAt: startedAt ?? Date.now(), stoppedAt: null });
    return ok();
  } catch (error) {
    return err(wrap("host.storage", `Cannot record that instance ${id} is awake`, error));
  }
}

const ms = (value: number): string => `${value.toFixed(1)} ms`;
