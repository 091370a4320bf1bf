// One save of a running machine, as standby, snapshot and fork need it: a new generation's files, the monitor's `save`, and the
// commit that is the caller's. Until that commit it can be called off, and the guest runs on as before.
import { err, ok } from "neverthrow";
import { fail, type DormouseError, type Res } from "../../errors.ts";
import { closeFd, O_CREAT, O_EXCL, O_RDWR, openFd } from "../../ffi/fd.ts";
import type { SaveResult } from "../../vmm/protocol.ts";
import type { Generation } from "../snapshots/generations.ts";
import type { Compression } from "../snapshots/service.ts";
import type { Machine } from "../vmm/machine.ts";
import type { Context } from "./context.ts";
import type { Instance } from "./service.ts";

/** Writing and syncing goes at some 20 MiB a second on the slowest disks that anyone has; the rest is for freezing. */
const SAVE_BASE_MS = 60_000, SAVE_MS_PER_MIB = 50;
/** A thaw is one frame to the guest's init and one back. */
export const THAW_MS = 60_000;

/** A save under way; on `ctx.saves` until it is over. */
export interface Save {
  /** Why it is called off; null while it isn't. */
  calledOff: string | null;
  /** Heeded where it puts the instance to sleep: a fork or snapshot disturbs nobody for long. */
  callOff(reason: string): void;
}

export interface Saved { readonly generation: Generation; readonly result: SaveResult }

/**
 * Has the monitor save `instance`. On Ok the machine stands still with its gates shut, and the caller ends it or has it resumed;
 * on Err it runs on (or is gone), and nothing is left of the generation. `asleep` for a standby: `deaf` runs once the TAP is not read
 * any more, and it may be called off.
 */
export async function save(ctx: Context, instance: Instance, machine: Machine, asleep: { readonly deaf: () => void } | null = null): Promise<Res<Saved>> {
  const { id } = instance;
  const begun = ctx.generations.begin(ctx.records.generationsOf(id).live);
  if (begun.isErr()) return err(begun.error);
  const generation = begun.value;
  ctx.saves.set(id, asleep === null ? UNDISTURBED : begin(machine));
  ctx.onDeaf.set(id, () => (asleep?.deaf(), ctx.step("deaf")));
  ctx.step("begun");
  try {
    const result = await ask(ctx, instance, machine, generation);
    if (result.isOk()) return ctx.step("saved"), ok({ generation, result: result.value });
    const why = ctx.saves.get(id)?.calledOff ?? null;
    drop(ctx, id, generation);
    return why === null ? err(failed(instance, result.error)) : err(calledOff(instance, why));
  } catch (error) {
    drop(ctx, id, generation);
    throw error;
  } finally {
    ctx.onDeaf.delete(id);
  }
}

const UNDISTURBED: Save = { calledOff: null, callOff() {} };

function begin(machine: Machine): Save {
  return {
    calledOff: null,
    callOff(reason) {
      if (this.calledOff !== null) return;
      this.calledOff = reason;
      // Nobody needs its answer: the save itself answers that it was called off, or was done already and is not committed.
      void machine.request("cancelSave", null).match(() => {}, () => {});
    },
  };
}

async function ask(ctx: Context, instance: Instance, machine: Machine, { id, baseId }: Generation): Promise<Res<SaveResult>> {
  const fds: Record<string, number> = {};
  try {
    const paths = ctx.generations.paths(id);
    for (const name of ["machine", "memory"] as const) fds[name] = openFd(paths[name], O_RDWR | O_CREAT | O_EXCL, 0o600);
    return await machine.request("save", { id, base: baseId }, { fds, timeoutMs: SAVE_BASE_MS + (instance.memoryBytes / 2 ** 20) * SAVE_MS_PER_MIB });
  } finally {
    Object.values(fds).forEach(closeFd);
  }
}

/** After a save that is not committed: the guest goes on, the generation goes. */
export async function resume(ctx: Context, id: string, machine: Machine, generation: Generation | null): Promise<Res<void>> {
  const resumed = await machine.request("resume", null, { timeoutMs: THAW_MS });
  ctx.saves.delete(id);
  if (generation !== null) ctx.generations.abandon(generation.id);
  return resumed.map(() => undefined);
}

/** A committed generation is made cheap to keep and to restore: its chain shorter, and then its memory file smaller, unless nobody wants that. */
export function condenseLater(ctx: Context, generation: string, compression: Compression | null, delayMs: number): void {
  ctx.merger.want(generation);
  if (compression?.enabled) ctx.deps.compression.schedule(generation, ctx.generations.paths(generation).dir, compression, delayMs);
}

function drop(ctx: Context, id: string, generation: Generation): void {
  ctx.saves.delete(id);
  ctx.generations.abandon(generation.id);
}

export const calledOff = ({ name, state }: Instance, why: string): DormouseError =>
  fail("conflict", `Cannot put instance ${name} to sleep: ${why}; it was called off, and the instance runs on`, { details: { state, reason: "called_off" }, retryAfterMs: 1000 }).error;

const failed = ({ name }: Instance, error: DormouseError): DormouseError =>
  fail(error.code === "host.storage" ? "host.storage" : "host.process", `Cannot save instance ${name}: ${error.message}`, { cause: error }).error;
