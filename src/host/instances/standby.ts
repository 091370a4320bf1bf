// standby: Running → Standby. The commit of the record is the point of no return: before it the guest runs on whatever fails,
// after it only the saved machine counts.
import { err, ok, ResultAsync } from "neverthrow";
import { fail, messageOf, wrap, type AsyncRes, type DormouseError, type Res } from "../../errors.ts";
import type { StandbyOptions } from "../snapshots/service.ts";
import type { AskedBy } from "../standby/guard.ts";
import type { Machine } from "../vmm/machine.ts";
import type { Context } from "./context.ts";
import { knockWakes } from "./restore.ts";
import { calledOff, condenseLater, resume, save, type Saved } from "./saving.ts";
import type { Instance } from "./service.ts";
import { obstacle } from "./states.ts";

/** One by force has another answer where somebody is there. */
export const BY_HAND = { polite: "standby", forced: "standby by force" } as const;

export function standby(ctx: Context, ref: string, options: StandbyOptions = {}): AsyncRes<Instance> {
  return ctx.records.get(ref).asyncAndThen(({ id, state }) => new ResultAsync(ctx.lanes.run(id, options.force === true ? BY_HAND.forced : BY_HAND.polite, async () => {
    const instance = ctx.records.find(id);
    // It was put to sleep meanwhile, by itself mostly: as good as this one.
    return state === "Running" && instance?.state === "Standby" ? ok(instance) : standbyNow(ctx, id, options, "by hand");
  })));
}

/** For automatic standby, whose reason may go at any moment before the commit. */
export function standbyByItself(ctx: Context, id: string, calledOff: AbortSignal): AsyncRes<Instance> {
  return new ResultAsync(ctx.lanes.run(id, "standby by itself", async () => {
    const heed = () => ctx.saves.get(id)?.callOff("its reason has gone");
    calledOff.addEventListener("abort", heed);
    try {
      return await standbyNow(ctx, id, {}, "by itself", calledOff);
    } finally {
      calledOff.removeEventListener("abort", heed);
    }
  }));
}

async function standbyNow(ctx: Context, id: string, options: StandbyOptions, asked: AskedBy, signal?: AbortSignal): Promise<Res<Instance>> {
  const instance = ctx.records.find(id);
  if (instance === null) return fail("instance.not_found", `Cannot put instance ${id} to sleep: it was deleted meanwhile`);
  const machine = ctx.machines.get(id), wrong = obstacle(instance, "standby");
  if (wrong !== null || machine === undefined)
    return fail("instance.invalid_state", `Cannot put instance ${instance.name} to sleep: ${wrong === null ? "its monitor has gone" : `it is ${wrong}`}`, { details: { state: instance.state } });
  const inUse = options.force ? null : await visitors(ctx, instance, asked);
  if (inUse !== null) return err(calledOff(instance, inUse));
  if (signal?.aborted) return err(calledOff(instance, "its reason has gone"));
  ctx.note(id, "going to sleep");
  const saved = await save(ctx, instance, machine, { heedful: true, filter: ctx.taps.filter(id), deaf: () => listenEarly(ctx, id) });
  if (saved.isErr()) return stayAwake(ctx, id, saved.error);
  // Who can't be asked may be there.
  const visitor = await lateVisitor(ctx, instance, options).catch(messageOf);
  const problem = visitor === null ? commit(ctx, instance, machine, saved.value) : calledOff(instance, visitor);
  if (problem === null) return fallAsleep(ctx, instance, machine, saved.value, options);
  return stayAwake(ctx, id, (await resume(ctx, id, machine, saved.value.generation)) ?? problem);
}

/** Who is there now, or has come while that was looked at, in words. */
async function visitors(ctx: Context, instance: Instance, asked: AskedBy): Promise<string | null> {
  let came: string | null = null;
  ctx.dozing.set(instance.id, { get calledOff() { return came; }, callOff: (reason) => { came ??= reason; } });
  try {
    return (await ctx.deps.guard.visitors(instance, asked)) ?? came;
  } finally {
    ctx.dozing.delete(instance.id);
  }
}

/** Between the guest's last read and the commit a knock calls it off. */
function listenEarly(ctx: Context, id: string): void {
  if (ctx.saves.get(id)?.calledOff !== null) return; // it runs on, and is to hear all
  const callOff = (reason: string) => ctx.saves.get(id)?.callOff(reason);
  try {
    ctx.taps.listen(id, { onKnock: () => callOff("a packet came for it"), onGone: () => callOff("its link has gone") });
  } catch (error) {
    callOff(messageOf(error));
  }
}

function stayAwake(ctx: Context, id: string, error: DormouseError): Res<Instance> {
  ctx.note(id, error.message, "warn");
  return err(error);
}

/** Whoever came while it was being saved: by packet, by exec, or by a connection that was let in just before. */
async function lateVisitor(ctx: Context, instance: Instance, options: StandbyOptions): Promise<string | null> {
  const came = (): string | null => ctx.saves.get(instance.id)?.calledOff ?? (ctx.taps.knocked(instance.id) ? "a packet came for it" : null);
  return came() ?? (options.force ? null : await ctx.deps.guard.lateVisitors(instance)) ?? came();
}

/** No waiting from the last look at the TAP to this: what comes in between waits there, and wakes. Null once it is asleep on record. */
function commit(ctx: Context, { id, name }: Instance, machine: Machine, { generation, result }: Saved): DormouseError | null {
  // Its end is on record, and was told: it is Stopped, and nothing makes that undone.
  if (ctx.machines.get(id) !== machine) return fail("host.process", `Cannot put instance ${name} to sleep: its monitor ended before that was recorded; its vmm log may say more`).error;
  try {
    ctx.records.transition(id, "Standby", null, { savedGeneration: generation.id, liveGeneration: null }, () => ctx.generations.ready(generation.id, result.dataBytes));
  } catch (error) {
    return wrap("host.storage", "Cannot record the standby", error);
  }
  ctx.saves.delete(id);
  ctx.step("asleep");
  return null;
}

/** The machine of before is nothing any more. From here on nothing fails. */
async function fallAsleep(ctx: Context, instance: Instance, machine: Machine, { generation, result }: Saved, options: StandbyOptions): Promise<Res<Instance>> {
  const { id, snapshotPolicy } = instance;
  ctx.note(id, `asleep: ${result.dataBytes} bytes of memory written, after ${result.pausedMs.toFixed(0)} ms of pause`);
  machine.kill();
  await machine.ended;
  ctx.step("ended");
  await knockWakes(ctx, id);
  if (generation.baseId === null) ctx.generations.sweep(); // the chain that it ran over ends here, and may be nobody's now
  condenseLater(ctx, id, generation.id, options.compression ?? snapshotPolicy?.compression ?? null, options.compressionDelayMs ?? snapshotPolicy?.standbyCompressionDelayMs ?? 0);
  return ok(ctx.records.find(id)!);
}
