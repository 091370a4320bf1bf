// Named snapshots: taken of an instance, given back to it in place, or to a new one.
import { err, errAsync, ok, ResultAsync } from "neverthrow";
import { fail, wrap, type AsyncRes, type Res } from "../../errors.ts";
import type { DiskOwner } from "../disks/service.ts";
import type { Compression, Snapshot, SnapshotFilter, SnapshotKind, TargetState } from "../snapshots/service.ts";
import type { SnapshotRecord } from "../snapshots/snapshots.ts";
import type { Context } from "./context.ts";
import { checkName } from "./create.ts";
import { eventually } from "./eventually.ts";
import { captured, handOver } from "./fork.ts";
import { condenseLater } from "./saving.ts";
import { bear, bringTo, giveDisk, onTo } from "./offspring.ts";
import type { Instance } from "./service.ts";
import { DEFAULT_GRACE_MS, killNow, stopNow } from "./ending.ts";
import { copyRefusal, dropOverlays, writesVolumes } from "./volumes.ts";

export interface TakeSnapshot {
  readonly kind: SnapshotKind;
  readonly name: string | null;
  readonly tags: Readonly<Record<string, string>>;
  readonly compression?: Compression;
}

const diskOf = (id: string): DiskOwner => ({ kind: "snapshot", id });
const instanceDisk = (id: string): DiskOwner => ({ kind: "instance", id });

/** `kind` null: the one that fits its state, as that is when its turn has come. */
export function createSnapshot(ctx: Context, ref: string, request: Omit<TakeSnapshot, "kind"> & { readonly kind: SnapshotKind | null }): AsyncRes<Snapshot> {
  const named = request.name === null ? ok() : checkName(request.name);
  // Each is one of its own: two without a name are two snapshots, and none joins another.
  const id = ctx.snapshots.newId();
  return named.andThen(() => ctx.records.get(ref)).asyncAndThen((source) => new ResultAsync(ctx.lanes.run(source.id, `snapshot ${id}`, () => {
    const kind = request.kind ?? (ctx.records.stateOf(source.id) === "Stopped" ? "Stopped" : "Standby");
    return take(ctx, source.id, id, { ...request, kind });
  })));
}

async function take(ctx: Context, sourceId: string, id: string, request: TakeSnapshot): Promise<Res<Snapshot>> {
  const source = ctx.records.find(sourceId);
  if (source === null) return fail("instance.not_found", `Cannot take a snapshot of instance ${sourceId}: it was deleted meanwhile`);
  const wrong = refusal(source, request.kind);
  if (wrong !== null) return fail("instance.invalid_state", `Cannot take a snapshot of instance ${source.name}: ${wrong}`, { details: { state: source.state } });
  const written = copyRefusal(ctx, source, "take a snapshot of");
  if (written !== null) return err(written);
  if (ctx.snapshots.isTaken(source.id, request.name)) return fail("name.taken", `Cannot take a snapshot of instance ${source.name} as ${request.name}: it has one of that name; choose another, or delete that one`);
  const disk = ctx.disk(source.id, source.state !== "Stopped");
  if (disk.isErr()) return err(disk.error);
  const taken = source.state === "Running" ? await takeRunning(ctx, source, id, request) : await takeResting(ctx, source, id, request);
  if (taken.isErr()) return err(taken.error);
  ctx.note(source.id, `snapshot ${request.name ?? id} taken`);
  const record = ctx.snapshots.find(id);
  if (record === null) return fail("snapshot.not_found", `Cannot tell of the snapshot ${id} of instance ${source.name}: it was taken, and deleted meanwhile`);
  if (record.generationId !== null) condenseLater(ctx, source.id, record.generationId, record.compression ?? source.snapshotPolicy?.compression ?? null, 0);
  return ok(view(ctx, record));
}

function refusal({ state, removing }: Instance, kind: SnapshotKind): string | null {
  if (removing) return "it is being deleted";
  if (kind === "Stopped") return state === "Stopped" ? null : `a snapshot of kind Stopped needs a stopped instance, and it is ${state}`;
  return state === "Running" || state === "Standby" ? null : `a snapshot of kind Standby needs one that runs or sleeps, and it is ${state}`;
}

const newSnapshot = ({ name, kind, tags, compression }: TakeSnapshot) => ({ name, kind, tags, compression: compression ?? null });

async function takeResting(ctx: Context, source: Instance, id: string, request: TakeSnapshot): Promise<Res<void>> {
  const given = await giveDisk(ctx, instanceDisk(source.id), diskOf(id));
  const generation = request.kind === "Stopped" ? null : ctx.records.generationsOf(source.id).saved;
  return given.isErr() ? given : record(ctx, id, () => ctx.snapshots.insert(id, source, newSnapshot(request), generation));
}

function takeRunning(ctx: Context, source: Instance, id: string, request: TakeSnapshot): Promise<Res<void>> {
  return captured(ctx, source, async ({ generation, result }, machine) => {
    const given = await giveDisk(ctx, instanceDisk(source.id), diskOf(id), (clone) => handOver(machine, clone));
    return given.isErr() ? given : record(ctx, id, () => {
      ctx.generations.ready(generation.id, result.dataBytes);
      ctx.snapshots.insert(id, source, newSnapshot(request), generation.id);
    });
  });
}

/** The snapshot's disk is nobody's if this fails, and goes. */
async function record(ctx: Context, id: string, write: () => void): Promise<Res<void>> {
  try {
    ctx.deps.db.transaction(write).immediate();
    return ok();
  } catch (error) {
    await eventually(ctx, `delete the disk of snapshot ${id}, which came to nothing`, async () => ctx.deps.disks.remove(diskOf(id)));
    return err(wrap("host.storage", `Cannot record snapshot ${id}`, error));
  }
}

/** In place: what the instance is now is lost. */
export function restoreSnapshot(ctx: Context, ref: string, snapshotRef: string, target: TargetState | null): AsyncRes<Instance> {
  return ctx.records.get(ref).andThen((instance) => ctx.snapshots.get(snapshotRef).map((snapshot) => ({ instance, snapshot }))).asyncAndThen(({ instance, snapshot }) => {
    if (snapshot.sourceInstanceId !== instance.id)
      return errAsync(fail("snapshot.not_found", `Cannot restore instance ${instance.name} from snapshot ${snapshotRef}: it is another instance's; fork it instead`).error);
    const to = target ?? defaultTarget(snapshot);
    const wrong = targetRefusal(snapshot, to);
    if (wrong !== null) return errAsync(fail("request.bad", `Cannot restore instance ${instance.name}: ${wrong}`).error);
    return new ResultAsync(ctx.lanes.run(instance.id, `restore snapshot ${snapshot.id} to ${to}`, () => restoreInPlace(ctx, instance.id, snapshot.id, to)));
  });
}

const defaultTarget = ({ kind }: SnapshotRecord): TargetState => (kind === "Standby" ? "Running" : "Stopped");
const targetRefusal = ({ kind }: SnapshotRecord, target: TargetState): string | null =>
  kind === "Stopped" && target === "Standby" ? "a snapshot of kind Stopped has no memory to sleep on; its target is Stopped or Running" : null;

async function restoreInPlace(ctx: Context, id: string, snapshotId: string, target: TargetState): Promise<Res<Instance>> {
  // In the snapshot's lane too, so that it is not deleted under the exchange. Nobody holds that lane and waits for an instance's.
  const given = await ctx.lanes.run(snapshotId, `give back ${target}`, () => giveBack(ctx, id, snapshotId));
  return given.isErr() ? err(given.error) : bringTo(ctx, id, target);
}

async function giveBack(ctx: Context, id: string, snapshotId: string): Promise<Res<void>> {
  const instance = ctx.records.find(id), snapshot = ctx.snapshots.find(snapshotId);
  if (instance === null) return fail("instance.not_found", `Cannot restore instance ${id}: it was deleted meanwhile`);
  if (instance.removing) return fail("instance.invalid_state", `Cannot restore instance ${instance.name}: it is being deleted`, { details: { state: instance.state } });
  if (snapshot === null) return fail("snapshot.not_found", `Cannot restore instance ${instance.name}: its snapshot ${snapshotId} was deleted meanwhile`);
  const { generationId } = snapshot, sound = generationId === null ? ok() : await check(ctx, generationId);
  if (sound.isErr()) return sound;
  // One that runs goes on until the commit, whatever fails before; after it, it is void, as after a standby's. But volumes that it writes
  // are somebody else's to write from the commit on, and keep what it has written: it ends before, and in order.
  const running = ctx.records.stateOf(id) === "Running", machine = running && !writesVolumes(instance) ? ctx.machines.get(id) : undefined;
  const ended = machine !== undefined ? ok() : running ? await stopNow(ctx, id, DEFAULT_GRACE_MS) : await killNow(ctx, id);
  if (ended.isErr()) return err(ended.error);
  // Of one that was never started there is no disk yet; this one is as if it never was.
  const empty = () => generationId === null && ctx.disk(id, true).isErr();
  const replaced = await ctx.deps.disks.replace(diskOf(snapshot.id), instanceDisk(id), () => {
    const state = generationId === null ? "Stopped" : "Standby";
    ctx.records.change(id, state, `restored from snapshot ${snapshot.id}`, { savedGeneration: generationId, liveGeneration: null, ...(empty() ? { startedAt: null } : {}), stoppedAt: generationId === null ? Date.now() : null, exitCode: null, exitMessage: null });
    ctx.records.takeVolumes(id, { kind: "snapshot", id: snapshot.id });
    // A daemon that dies now: the next one must not take this monitor for that of a start that was not written down.
    if (generationId === null) ctx.records.clearProcess(id);
  });
  if (replaced.isErr()) return err(replaced.error);
  ctx.records.told(id);
  machine?.kill();
  await machine?.ended;
  const forgotten = await ctx.deps.network.forget(id);
  if (forgotten.isErr()) ctx.note(id, forgotten.error.message, "warn");
  ctx.taps.discard(id); // it was for the guest of before, and would wake this one
  // It may have slept, and listened.
  if (generationId === null) ctx.taps.close(id);
  ctx.generations.sweep();
  const now = ctx.records.find(id);
  if (now !== null) await dropOverlays(ctx, now);
  ctx.note(id, `back at snapshot ${snapshot.name ?? snapshot.id}`);
  return ok();
}

/** What can be known of a saved machine before it is tried: what is damaged costs nobody what runs now. */
async function check(ctx: Context, generation: string): Promise<Res<void>> {
  const letGo = ctx.merger.hold(generation);
  try {
    for (const id of ctx.generations.chainIds(generation)) {
      const sound = await ctx.deps.compression.ensureRaw(id, ctx.generations.paths(id).dir).andThen(() => ctx.generations.check(id));
      if (sound.isErr()) return err(sound.error);
    }
    return ok();
  } finally {
    letGo();
  }
}

export function forkSnapshot(ctx: Context, ref: string, request: { readonly name: string; readonly targetState: TargetState | null }): AsyncRes<Instance> {
  return checkName(request.name).andThen(() => ctx.snapshots.get(ref)).asyncAndThen((snapshot) => {
    const target = request.targetState ?? defaultTarget(snapshot);
    const wrong = targetRefusal(snapshot, target);
    if (wrong !== null) return errAsync(fail("request.bad", `Cannot fork snapshot ${ref}: ${wrong}`).error);
    // In the snapshot's lane, so that it is not deleted under the clone.
    return new ResultAsync(ctx.lanes.run(snapshot.id, `fork ${request.name}`, () => bearOf(ctx, snapshot.id, request.name))).andThen((id) => new ResultAsync(onTo(ctx, id, target)));
  });
}

async function bearOf(ctx: Context, snapshotId: string, name: string): Promise<Res<string>> {
  const snapshot = ctx.snapshots.find(snapshotId);
  if (snapshot === null) return fail("snapshot.not_found", `Cannot fork snapshot ${snapshotId}: it was deleted meanwhile`);
  return bear(ctx, name, { like: snapshot.source, imageDigest: snapshot.imageDigest, disk: diskOf(snapshot.id) }, { generation: snapshot.generationId });
}

export function removeSnapshot(ctx: Context, ref: string): AsyncRes<void> {
  return ctx.snapshots.get(ref).asyncAndThen(({ id }) => new ResultAsync(ctx.lanes.run(id, "remove", async () => {
    if (ctx.snapshots.find(id) === null) return ok();
    ctx.snapshots.delete(id);
    ctx.generations.sweep();
    const removed = ctx.deps.disks.remove(diskOf(id));
    await ctx.deps.trash.emptied();
    return removed;
  })));
}

export const listSnapshots = (ctx: Context, filter?: SnapshotFilter): Snapshot[] => ctx.snapshots.list(filter).map((record) => view(ctx, record));
export const getSnapshot = (ctx: Context, ref: string): Res<Snapshot> => ctx.snapshots.get(ref).map((record) => view(ctx, record));

function view(ctx: Context, record: SnapshotRecord): Snapshot {
  const { source: _, imageDigest: __, generationId, ...rest } = record;
  const memory = generationId === null ? null : ctx.deps.compression.state(generationId);
  const bytes = ctx.deps.disks.bytes(diskOf(record.id)) + (generationId === null ? 0 : ctx.generations.bytes(generationId));
  return {
    ...rest, sizeBytes: bytes,
    compressionState: memory?.state ?? "none", compressionError: memory?.error ?? null,
    compressedSizeBytes: memory?.compressedBytes ?? null, uncompressedSizeBytes: memory?.uncompressedBytes ?? null,
  };
}
