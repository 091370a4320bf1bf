// From what is observed of a VMM to the record: news while it runs, and how it ended.
import { rmSync } from "node:fs";
import { E, errnoName } from "../../ffi/abi/errno.ts";
import { describeError } from "../../log.ts";
import type { EndReason, VmmStatus } from "../../vmm/protocol.ts";
import { emptyStatus, readStatusFile, socketPath } from "../vmm/files.ts";
import { Machine, type MachineListener } from "../vmm/machine.ts";
import type { Taken } from "../vmm/spawn.ts";
import type { Res } from "../../errors.ts";
import type { Context } from "./context.ts";
import type { Instance, InstanceState } from "./service.ts";
import { canHop, LIVE_STATES } from "./states.ts";
import { describeDisk } from "./volumes.ts";

/** Called once a guest is gone and recorded so; `status` is the VMM's last word. */
export type OnSettled = (ctx: Context, id: string, status: VmmStatus | null) => void;

const STATE_OF: Partial<Record<VmmStatus["state"], InstanceState>> = { initializing: "Initializing", running: "Running", paused: "Paused" };

const WHAT_HAPPENED: Readonly<Record<EndReason, string>> = {
  exited: "the program ended",
  restart: "the guest asked for a restart",
  panic: "the guest's kernel panicked",
  reset: "the guest reset itself",
  "triple-fault": "the guest's processor gave up (triple fault)",
  killed: "the guest was killed",
  internal: "the virtual machine failed",
};

/** Holds the VMM `spawned` and records its news from here on. Null where its process is gone already. */
export function hold(ctx: Context, id: string, spawned: Taken, onSettled: OnSettled): Res<Machine | null> {
  let latest: VmmStatus | null = null, mine: Machine | null = null;
  // What could not be written down at once may be tried again when the instance has another VMM: that one's record is not touched.
  const isHeld = () => mine !== null && ctx.machines.get(id) === mine;
  const listener: MachineListener = {
    onState(status) {
      latest = status;
      persist(ctx, id, () => { if (status === latest && isHeld()) observe(ctx, id, status); });
    },
    onDeaf: () => ctx.onDeaf.get(id)?.(),
    onDiskFailed: ({ disk, errno }) => { if (isHeld()) diskFailed(ctx, id, disk, errno); },
    onEnded() {
      if (isHeld()) ctx.machines.delete(id);
      persist(ctx, id, () => { if (!ctx.machines.has(id)) onSettled(ctx, id, settleEnded(ctx, id, "the monitor's process was killed")); });
    },
    onUnreachable: (reason) => persist(ctx, id, () => { if (isHeld()) unreachable(ctx, id, reason); }),
  };
  return Machine.attach(spawned, ctx.dir(id), ctx.poller, listener).map((machine) => {
    mine = machine;
    if (machine !== null) ctx.machines.set(id, machine);
    return machine;
  });
}

const PERSIST_RETRY_MS = 2_000;

/**
 * Writes news down, and tries again where that fails (a full disk, say): nobody waits for an answer here, and what was
 * observed must not be lost, nor take the daemon down.
 */
function persist(ctx: Context, id: string, write: () => void): void {
  if (ctx.closing) return;
  try {
    write();
  } catch (error) {
    ctx.deps.logger.error("instance.unrecorded", { instance: id, error: describeError(error) });
    setTimeout(() => persist(ctx, id, write), PERSIST_RETRY_MS);
  }
}

/** Its guest was told of an I/O error; what its file system makes of that shows in there. */
function diskFailed(ctx: Context, id: string, disk: number, errno: number): void {
  const instance = ctx.records.find(id);
  if (instance === null) return;
  const full = errno === E.ENOSPC || errno === E.EDQUOT;
  ctx.note(id, `its guest got an I/O error from ${describeDisk(instance, disk)}: ${full ? "there is no room for it on the host; make room, then stop and start the instance where its file system has gone read-only" : `the host could not do what it asked for (${errnoName(errno)})`}`, "warn");
}

/** A status of a living VMM. `created` and `ended` change nothing: before and after them comes more. */
function observe(ctx: Context, id: string, status: VmmStatus): void {
  const state = STATE_OF[status.state], recorded = ctx.records.stateOf(id);
  if (state === undefined || recorded === null || recorded === state) return;
  // What a monitor does while it saves or restores is the verb's to record, when it commits.
  if (recorded === "Standby" || ctx.saves.has(id)) return;
  const before = ctx.records.find(id)!;
  // A daemon that died between `boot` and its record missed the guest's first steps: they are made up for.
  if (!canHop(before.state, state)) ctx.records.transition(id, "Initializing", null, startChanges(before, status));
  ctx.records.transition(id, state, null, canHop(before.state, state) ? startChanges(before, status) : {});
  ctx.note(id, state === "Running" ? "running" : state.toLowerCase());
}

/** What a start leaves of the run before: nothing. */
function startChanges(before: Instance, status: VmmStatus) {
  const begins = before.state === "Created" || before.state === "Stopped";
  return begins ? { startedAt: status.bootedAt ?? Date.now(), stoppedAt: null, exitCode: null, exitMessage: null } : {};
}

export function unreachable(ctx: Context, id: string, reason: string): void {
  if (ctx.records.find(id) === null) return;
  const text = `its monitor (process ${ctx.records.process(id)?.pid ?? "unknown"}) runs but can't be talked to: ${reason}; stop or delete the instance to end it`;
  ctx.records.transition(id, "Unknown", text, { stateError: text });
  ctx.note(id, text, "warn");
}

/**
 * The VMM of an instance is gone: removes what it left and records the end from its status file, or `otherwise` where
 * that doesn't tell. Only for an instance whose guest was booted; a start that failed records its own end.
 */
export function settleEnded(ctx: Context, id: string, otherwise: string): VmmStatus | null {
  const status = readStatusFile(ctx.dir(id));
  // The file is emptied for each VMM, and a VMM is on record until it is settled: together they tell of a guest whose
  // start nobody lived to write down.
  const asleep = ctx.records.find(id)?.state === "Standby";
  const unrecorded = !asleep && ctx.records.process(id) !== null && status !== null && status.bootedAt !== null;
  clearLeftovers(ctx, id);
  const instance = ctx.records.find(id);
  if (instance === null || !(unrecorded || LIVE_STATES.includes(instance.state))) return status;
  const told = status?.reason ?? null;
  const message = told === null || status === null ? otherwise : (status.exitMessage || WHAT_HAPPENED[told]);
  ctx.records.transition(id, "Stopped", told ?? otherwise, {
    // A fork's machine was booted as its source, before the fork was there.
    ...(status?.bootedAt == null ? {} : { startedAt: Math.max(status.bootedAt, instance.startedAt ?? 0) }),
    stoppedAt: status?.endedAt ?? Date.now(),
    exitCode: status?.exitCode ?? null,
    liveGeneration: null,
    // What went well needs no message.
    exitMessage: told === "exited" && status?.exitCode === 0 ? (status.exitMessage || null) : message,
  });
  ctx.generations.sweep();
  const code = status?.exitCode ?? null;
  ctx.note(id, `stopped: ${message}${code === null || message === `exited with code ${code}` ? "" : ` (exit code ${code})`}`);
  return status;
}

/** Socket, control group and process record of a VMM that has ended, and its TAP; of one that sleeps the VMM's own record instead. */
export function clearLeftovers(ctx: Context, id: string): void {
  const asleep = ctx.records.stateOf(id) === "Standby";
  if (!asleep) ctx.taps.close(id);
  rmSync(socketPath(ctx.dir(id)), { force: true });
  ctx.records.clearProcess(id);
  if (asleep) emptyStatus(ctx.dir(id));
  removeGroup(ctx, id, GROUP_ATTEMPTS);
}

const GROUP_ATTEMPTS = 20;
const GROUP_DELAY_MS = 50;

/** The kernel empties a group a moment after its last process is seen to end. */
function removeGroup(ctx: Context, id: string, attempts: number): void {
  try {
    if (ctx.deps.cgroups.remove(id) || attempts === 0) return;
    setTimeout(() => removeGroup(ctx, id, attempts - 1), GROUP_DELAY_MS);
  } catch (error) {
    ctx.deps.logger.warn("instance.cgroup_left", { instance: id, error: describeError(error) });
  }
}
