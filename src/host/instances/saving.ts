// One save of a running machine, as standby, snapshot and fork need it: a new generation's files, the monitor's `save`, and the
// commit that is the caller's. Until that commit it can be called off, and the guest runs on as before.
import { dirname } from "node:path";
import { err, ok } from "neverthrow";
import { fail, wrap, type DormouseError, type Res } from "../../errors.ts";
import { closeFd, O_CREAT, O_EXCL, O_RDWR, openFd } from "../../ffi/fd.ts";
import type { SaveResult } from "../../vmm/protocol.ts";
import type { Generation } from "../snapshots/generations.ts";
import type { Compression } from "../snapshots/service.ts";
import type { Machine } from "../vmm/machine.ts";
import type { Context } from "./context.ts";
import type { Instance } from "./service.ts";
import { isStorage } from "../storage.ts";
import { sync } from "../sync.ts";

/** Writing and syncing goes at some 20 MiB a second on the slowest disks that anyone has; the rest is for freezing. */
const SAVE_BASE_MS = 60_000, SAVE_MS_PER_MIB = 50;
/** A thaw is one frame to the guest's init and one back. */
export const THAW_MS = 60_000;

/** A save under way, on `ctx.saves` until its machine runs on or its commit. */
export interface Save {
  /** Why it is called off; null while it isn't. */
  readonly calledOff: string | null;
  /** Heeded by the save of a standby; a copy of a running guest stops it for a moment only, and disturbs nobody. */
  callOff(reason: string): void;
}

/** For whoever comes, or is about to. */
export const callOff = (ctx: Context, id: string, reason: string): void => (ctx.saves.get(id) ?? ctx.dozing.get(id))?.callOff(reason);

export interface Saved { readonly generation: Generation; readonly result: SaveResult }

interface SaveOptions {
  /** Whether it is called off for whoever comes. */
  readonly heedful: boolean;
  /** What the TAP is to let through once it is not read any more (SaveParams), and who is called then. */
  readonly filter?: string | undefined;
  readonly deaf?: () => void;
}

/**
 * Has the monitor save `instance`. On Ok the machine stands still with its gates shut, and the caller ends it or has it resumed;
 * on Err it runs on (or is gone), and nothing is left of the generation.
 */
export async function save(ctx: Context, instance: Instance, machine: Machine, { heedful, filter, deaf }: SaveOptions): Promise<Res<Saved>> {
  const { id } = instance;
  const begun = ctx.generations.begin(baseOf(ctx, id));
  if (begun.isErr()) return err(begun.error);
  const generation = begun.value, under = new SaveUnderWay(machine, heedful, () => hearAll(ctx, id));
  ctx.saves.set(id, under);
  ctx.onDeaf.set(id, () => (deaf?.(), ctx.step("deaf")));
  ctx.step("begun");
  const result = await ask(ctx, instance, machine, generation, filter).catch((error: unknown): Res<SaveResult> => err(wrap("host.storage", "its files can't be made", error)));
  ctx.onDeaf.delete(id);
  if (result.isOk()) return ctx.step("saved"), ok({ generation, result: result.value });
  // Mostly it runs on by itself; one that did not answer in time, or did not get its workload thawed, is told to.
  await resume(ctx, id, machine, generation);
  return err(under.calledOff === null ? failed(instance, result.error) : calledOff(instance, under.calledOff));
}

/** What its memory is mapped from; null where somebody has removed a part of that: the guest still has it, and all of it is written. */
function baseOf(ctx: Context, id: string): string | null {
  const { live } = ctx.records.generationsOf(id);
  if (live === null || ctx.generations.isThere(live)) return live;
  ctx.note(id, `files of its saved memory (generation ${live}, or below it) are missing: all of its memory is saved anew`, "warn");
  return null;
}

class SaveUnderWay implements Save {
  calledOff: string | null = null;
  constructor(private readonly machine: Machine, private readonly heedful: boolean, private readonly hearAll: () => void) {}

  callOff(reason: string): void {
    if (this.calledOff !== null || !this.heedful) return;
    this.calledOff = reason;
    this.hearAll();
    // Nobody needs its answer: the save itself answers that it was called off, or was done already and is not committed.
    void this.machine.request("cancelSave", null).match(() => {}, () => {});
  }
}

const saveTimeoutMs = (memoryBytes: number): number => SAVE_BASE_MS + (memoryBytes / 2 ** 20) * SAVE_MS_PER_MIB;

async function ask(ctx: Context, { memoryBytes }: Instance, machine: Machine, { id, baseId }: Generation, filter: string | undefined): Promise<Res<SaveResult>> {
  const fds: Record<string, number> = {};
  try {
    const paths = ctx.generations.paths(id);
    for (const name of ["machine", "memory"] as const) fds[name] = openFd(paths[name], O_RDWR | O_CREAT | O_EXCL, 0o600);
    const named = keepNames(paths.dir); // meanwhile: the monitor's part takes longer
    const asked = await machine.request("save", { id, base: baseId, ...(filter === undefined ? {} : { filter }) }, { fds, timeoutMs: (ctx.deps.saveTimeoutMs ?? saveTimeoutMs)(memoryBytes) });
    const kept = await named;
    return kept.isErr() && asked.isOk() ? err(kept.error) : asked;
  } finally {
    Object.values(fds).forEach(closeFd);
  }
}

/** A file that is synced has its name on disk only once its folder is synced too, fsync(2). */
const keepNames = (dir: string): Promise<Res<void>> =>
  Promise.all([dir, dirname(dir)].map(sync)).then(() => ok(), (error: unknown) => err(wrap("host.storage", `Cannot keep the names in ${dir}`, error)));

/** After a save that is not committed, or only copied: the guest goes on, and the generation that came to nothing goes. Null, or why it does not go on. */
export async function resume(ctx: Context, id: string, machine: Machine, unused: Generation | null): Promise<DormouseError | null> {
  hearAll(ctx, id);
  const resumed = await machine.request("resume", null, { timeoutMs: THAW_MS });
  ctx.saves.delete(id);
  if (unused !== null) ctx.generations.abandon(unused.id);
  if (resumed.isOk()) return null;
  if (ctx.machines.get(id) === machine) {
    ctx.note(id, `it was saved and does not go on: ${resumed.error.message}; stop it`, "warn");
    await machine.request("status", null).match(() => {}, () => {}); // what it is goes on record
  }
  return resumed.error;
}

/** Before a guest runs on: what belongs to its connections is let in and waits for it, though it may take long until its workload runs. */
const hearAll = (ctx: Context, id: string): void => ctx.attempt(id, "not all packets may come through", () => ctx.taps.quiet(id));

/** A committed generation is made cheap to keep and to restore: its chain shorter, and then its memory file smaller, unless nobody wants that. */
export function condenseLater(ctx: Context, id: string, generation: string, compression: Compression | null, delayMs: number): void {
  ctx.attempt(id, "its memory will not be merged", () => ctx.merger.want(generation));
  if (!compression?.enabled) return;
  ctx.attempt(id, "its memory will not be compressed", () => ctx.deps.compression.schedule(generation, ctx.generations.paths(generation).dir, compression, delayMs));
}

export const calledOff = ({ name, state }: Instance, why: string): DormouseError =>
  fail("conflict", `Cannot put instance ${name} to sleep: ${why}; it was called off, and the instance runs on`, { details: { state, reason: "called_off" }, retryAfterMs: 1000 }).error;

const failed = ({ name }: Instance, error: DormouseError): DormouseError =>
  fail(isStorage(error) ? "host.storage" : "host.process", `Cannot save instance ${name}: ${error.message}`, { cause: error }).error;
