// What a daemon does with the instances that it finds on record: living VMMs are taken over, dead ones settled to what
// their files prove, deletions that were begun are finished.
import { readdirSync } from "node:fs";
import { err, ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";
import { bootId } from "../../ffi/process.ts";
import { VmmClient } from "../vmm/client.ts";
import { readStatusFile, socketPath } from "../vmm/files.ts";
import type { Machine } from "../vmm/machine.ts";
import type { Spawned } from "../vmm/spawn.ts";
import type { Context } from "./context.ts";
import { eventually } from "./eventually.ts";
import { removeNow } from "./remove.ts";
import type { Instance } from "./service.ts";
import { knockWakes } from "./restore.ts";
import { THAW_MS } from "./saving.ts";
import { clearLeftovers, hold, settleEnded, unreachable } from "./settle.ts";
import { restartIfAsked } from "./start.ts";
import { killUnheld } from "./ending.ts";

const STATUS_TIMEOUT_MS = 5_000;
const HOLD_ATTEMPTS = 10, HOLD_DELAY_MS = 100;
const DAEMON_DIED = "Cannot start the instance: the daemon ended meanwhile; start it again";

/** Resolves when every record agrees with what runs. Deletions go on in the background. */
export async function adoptAll(ctx: Context): Promise<Res<void>> {
  const instances = ctx.records.list();
  await Promise.all(instances.map((instance) => adopt(ctx, instance)));
  for (const id of ctx.records.removing()) void eventually(ctx, `finish the deletion of instance ${id}`, () => ctx.lanes.run(id, "remove-now", () => removeNow(ctx, id, false)));
  const reconciled = await ctx.deps.network.reconcile(new Set(instances.map((instance) => instance.id)));
  if (reconciled.isErr()) return err(reconciled.error);
  reportStrangers(ctx, new Set(instances.map((instance) => instance.id)));
  ctx.generations.recover();
  return dropOrphans(ctx);
}

/** Disks of clones whose daemon died before it recorded whose they are. */
function dropOrphans(ctx: Context): Res<void> {
  const orphans = ctx.deps.disks.owners().filter(({ kind, id }) => (kind === "instance" ? ctx.records.find(id) : ctx.snapshots.find(id)) === null);
  for (const orphan of orphans) {
    const removed = ctx.deps.disks.remove(orphan);
    if (removed.isErr()) return removed;
  }
  return ok();
}

async function adopt(ctx: Context, instance: Instance): Promise<void> {
  const { id } = instance;
  if (instance.state === "Standby") return adoptSleeper(ctx, instance);
  const process = ctx.records.process(id);
  if (process === null) {
    // It may have been killed between starting a monitor and writing that down: such a monitor has no guest.
    await endUnused(ctx, id);
    return settleDead(ctx, instance, "its monitor could not be found when the daemon started");
  }
  if (process.bootId !== bootId()) return settleDead(ctx, instance, "the host was restarted");
  const held = await holdPatiently(ctx, id, process);
  if (held.isErr()) return unreachable(ctx, id, held.error.message);
  if (held.value === null) {
    settleDead(ctx, instance, "its monitor was killed while the daemon was not running");
    return restartIfAsked(ctx, id, readStatusFile(ctx.dir(id)));
  }
  const machine = held.value;
  const status = await machine.request("status", null, { timeoutMs: STATUS_TIMEOUT_MS });
  if (status.isErr()) {
    if (ctx.machines.has(id)) return unreachable(ctx, id, status.error.message);
    // It ended while it was asked: a monitor without a guest does, once its daemon is gone.
    return settleDead(ctx, instance, "its monitor ended while the daemon started");
  }
  if (status.value.state === "created") {
    machine.kill();
    await machine.ended;
    return settleDead(ctx, instance, DAEMON_DIED);
  }
  ctx.note(id, `taken over by a new daemon, process ${process.pid}`);
  await takeTap(ctx, instance, machine);
  // A standby or snapshot that never came to its commit, or a restore that did and never came to opening the gates.
  if (status.value.state === "paused") await goOn(ctx, id, machine);
}

async function takeTap(ctx: Context, instance: Instance, machine: Machine): Promise<void> {
  if (!instance.network) return;
  const asked = await machine.requestFds("tap", null, { timeoutMs: STATUS_TIMEOUT_MS });
  const tap = asked.isOk() ? asked.value.fds["tap"] : undefined;
  const taken = tap === undefined ? asked.andThen(() => fail("host.process", "its monitor gave none")) : await ctx.taps.adopt(instance.id, tap);
  if (taken.isErr()) ctx.note(instance.id, `its TAP could not be taken over: ${taken.error.message}; no packet will wake it once it sleeps`, "warn");
}

async function goOn(ctx: Context, id: string, machine: Machine): Promise<void> {
  ctx.taps.quiet(id);
  const resumed = await machine.request("resume", null, { timeoutMs: THAW_MS });
  ctx.note(id, resumed.isOk() ? "it stood still, and runs on" : `it stands still and can't go on: ${resumed.error.message}; stop it`, resumed.isOk() ? "info" : "warn");
}

/** Asleep on record: a monitor that is still there has nothing that counts, whether it was going to sleep or waking. */
async function adoptSleeper(ctx: Context, { id }: Instance): Promise<void> {
  const process = ctx.records.process(id);
  if (process === null) await endUnused(ctx, id);
  else if (process.bootId === bootId()) await killUnheld(ctx, id);
  clearLeftovers(ctx, id);
  await knockWakes(ctx, id);
}

/** A process that is ending refuses connections a moment before it is seen to have ended. */
async function holdPatiently(ctx: Context, id: string, process: Spawned): Promise<Res<Machine | null>> {
  for (let attempt = 1; ; attempt++) {
    const held = hold(ctx, id, process, restartIfAsked);
    if (held.isOk() || attempt === HOLD_ATTEMPTS) return held;
    await Bun.sleep(HOLD_DELAY_MS);
  }
}

/** No VMM: leftovers go, and a state that needs one becomes Stopped. */
function settleDead(ctx: Context, { id }: Instance, reason: string): void {
  settleEnded(ctx, id, reason);
  if (ctx.records.find(id)?.state !== "Created") return;
  ctx.records.transition(id, "Stopped", DAEMON_DIED, { stoppedAt: Date.now(), exitMessage: DAEMON_DIED });
  ctx.note(id, DAEMON_DIED, "warn");
}

/** A monitor without a guest ends when its daemon hangs up, or at `kill`; where nobody listens there is none. */
async function endUnused(ctx: Context, id: string): Promise<void> {
  let closed = () => {};
  const gone = new Promise<void>((resolve) => (closed = resolve));
  const client = VmmClient.connect(socketPath(ctx.dir(id)), ctx.poller, { onState() {}, onClosed: closed });
  if (client.isErr()) return;
  // Its answer is mostly that the connection closes; one that is silent is hung up on, which ends it too.
  const asked = client.value.request("kill", null, { timeoutMs: STATUS_TIMEOUT_MS }).match(() => {}, () => {});
  await Promise.race([gone, asked]);
  client.value.close();
}

/** Folders of instances that the database does not know are kept: whoever moved the database away may want them back. */
function reportStrangers(ctx: Context, known: ReadonlySet<string>): void {
  const strangers = readdirSync(ctx.deps.dir, { withFileTypes: true }).filter((entry) => entry.isDirectory() && !entry.name.startsWith(".") && !known.has(entry.name));
  for (const { name } of strangers) ctx.deps.logger.warn("instance.unknown_folder", { folder: name });
}
