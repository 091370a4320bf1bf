// What an instance does with its volumes: their disks and those written over them, in the order of the machine; attach and detach,
// which take effect at the next start.
import { statSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { err, ok, ResultAsync } from "neverthrow";
import { fail, type AsyncRes, type DormouseError, type Res } from "../../errors.ts";
import type { VolumeFile, VolumeMount } from "../volumes/service.ts";
import type { Context } from "./context.ts";
import type { Instance } from "./service.ts";
import { obstacle } from "./states.ts";

/** A disk after `vdb`; what lies over a read-only volume comes right behind it. */
export interface VolumeDisk { readonly path: string; readonly readonly: boolean; readonly serial: string }

const OVERLAY_PREFIX = "overlay.", OVERLAY_LABEL = "overlay";
/** What of an id a disk's serial number has room for. */
const SERIAL = 20;

const overlayPath = (ctx: Context, id: string, volumeId: string): string => join(ctx.dir(id), `${OVERLAY_PREFIX}${volumeId}.ext4`);

/** Disks of a machine that is to boot or to wake. Those over volumes are made at the first start; later one that is missing was somebody's. */
export async function volumeDisks(ctx: Context, instance: Pick<Instance, "id" | "name" | "startedAt" | "volumes">): Promise<Res<readonly VolumeDisk[]>> {
  if (instance.volumes.length === 0) return ok([]); // of its record, as the files would be: a wake does without the query
  const files = ctx.deps.volumes.files({ kind: "instance", id: instance.id });
  if (files.isErr()) return err(files.error);
  const disks: VolumeDisk[] = [];
  for (const file of files.value) {
    disks.push({ path: file.path, readonly: file.readonly, serial: file.volumeId.slice(0, SERIAL) });
    if (file.overlayBytes === null) continue;
    const over = await overlay(ctx, instance, file, file.overlayBytes);
    if (over.isErr()) return err(over.error);
    disks.push(over.value);
  }
  return ok(disks);
}

async function overlay(ctx: Context, { id, name, startedAt }: Pick<Instance, "id" | "name" | "startedAt">, { volumeId }: VolumeFile, bytes: number): Promise<Res<VolumeDisk>> {
  const path = overlayPath(ctx, id, volumeId), disk = { path, readonly: false, serial: OVERLAY_LABEL };
  if (startedAt === null) return ctx.ext4.ensure(path, bytes, OVERLAY_LABEL).map(() => disk);
  const found = statSync(path, { throwIfNoEntry: false })?.size;
  if (found === bytes) return ok(disk);
  const why = found === undefined ? "is missing" : `has ${found} bytes instead of ${bytes}`;
  return fail("volume.missing", `Cannot use what instance ${name} has written over the volume ${volumeId}: ${path} ${why}; bring it back, or detach the volume while the instance is stopped`, { details: { volume: volumeId } });
}

/** Lines of init's key `mount` (src/guest/README.md), for the disks of volumeDisks(). */
export function mountLines(mounts: readonly VolumeMount[]): string[] {
  let disk = 2;
  return mounts.map(({ mountPath, readonly, overlayBytes }) => {
    const device = deviceName(disk++);
    const options = overlayBytes !== null ? `ro,overlay=${deviceName(disk++)}` : readonly ? "ro" : "noatime";
    return `${device} ext4 ${options} ${mountPath}`;
  });
}

/** What stands behind a disk of its machine, for a message. */
export function describeDisk({ volumes }: Pick<Instance, "volumes">, index: number): string {
  const behind = ["its image", "its own disk", ...volumes.flatMap(({ volumeId, overlayBytes }) => [`volume ${volumeId}`, ...(overlayBytes === null ? [] : [`what it has written over volume ${volumeId}`])])];
  return `${deviceName(index)} (${behind[index] ?? "unknown"})`;
}

const deviceName = (index: number): string => `vd${String.fromCharCode("a".charCodeAt(0) + index)}`;

const isWritten = ({ readonly, overlayBytes }: VolumeMount): boolean => !readonly || overlayBytes !== null;

/** Whether its guest may change what others could get, or what no copy of its machine could share. */
export const writesVolumes = ({ volumes }: Pick<Instance, "volumes">): boolean => volumes.some(isWritten);

/** Null, or why no copy can be made of it: a copy's memory would go with a volume that only one can write. */
export function copyRefusal({ deps }: Pick<Context, "deps">, instance: Instance, what: string): DormouseError | null {
  const written = instance.volumes.find(isWritten);
  if (written === undefined) return null;
  const how = written.overlayBytes === null ? "writes the volume" : "has an overlay over the volume";
  return fail("request.not_supported", `Cannot ${what} instance ${instance.name}: it ${how} ${deps.volumes.get(written.volumeId).map(({ name }) => name).unwrapOr(written.volumeId)} at ${written.mountPath}, and only volumes that are read alone can be shared with a copy; stop it and detach that one first`, { details: { field: "volumes", volume: written.volumeId } }).error;
}

export function attachVolume(ctx: Context, ref: string, mount: VolumeMount): AsyncRes<Instance> {
  return ctx.records.get(ref).asyncAndThen(({ id }) => new ResultAsync(ctx.lanes.run(id, `attach ${JSON.stringify(mount)}`, async () => {
    const instance = settled(ctx, id, "attach a volume to");
    return instance.isErr() ? err(instance.error) : attachNow(ctx, instance.value, mount);
  })));
}

async function attachNow(ctx: Context, instance: Instance, mount: VolumeMount): Promise<Res<Instance>> {
  const { id } = instance, found = ctx.deps.volumes.get(mount.volumeId);
  if (found.isErr()) return err(found.error);
  // Of one that it has already, the layer is in use: that is refused below.
  const fresh = mount.overlayBytes !== null && mount.readonly && !instance.volumes.some(({ volumeId }) => volumeId === found.value.id);
  const path = overlayPath(ctx, id, found.value.id);
  if (fresh) {
    // Before the record: what a crash leaves is dropped by whoever attaches it next.
    ctx.deps.trash.drop(path);
    const made = instance.startedAt === null ? ok() : await ctx.ext4.ensure(path, mount.overlayBytes!, OVERLAY_LABEL);
    if (made.isErr()) return err(made.error);
  }
  const attached = ctx.records.attachVolume(id, mount);
  if (attached.isErr() && fresh) ctx.deps.trash.drop(path);
  if (attached.isOk()) ctx.note(id, `volume ${found.value.name} attached, at ${mount.mountPath}`);
  return attached;
}

/** What was written over it goes. */
export function detachVolume(ctx: Context, ref: string, volume: string): AsyncRes<Instance> {
  return ctx.records.get(ref).asyncAndThen(({ id }) => new ResultAsync(ctx.lanes.run(id, `detach ${volume}`, async () => {
    const detached = settled(ctx, id, "detach a volume from").andThen(() => ctx.records.detachVolume(id, volume));
    if (detached.isErr()) return err(detached.error);
    ctx.note(id, `volume ${volume} detached`);
    await dropOverlays(ctx, detached.value);
    return ok(detached.value);
  })));
}

function settled(ctx: Context, id: string, what: string): Res<Instance> {
  const instance = ctx.records.find(id);
  if (instance === null) return fail("instance.not_found", `Cannot ${what} instance ${id}: it was deleted meanwhile`);
  const wrong = obstacle(instance, "attach");
  return wrong === null ? ok(instance) : fail("instance.invalid_state", `Cannot ${what} instance ${instance.name}: it is ${wrong}${instance.removing ? "" : "; stop it first, and start it again after that"}`, { details: { state: instance.state } });
}

/** Layers over volumes that it does not have any more. */
export async function dropOverlays(ctx: Context, { id, volumes }: Pick<Instance, "id" | "volumes">): Promise<void> {
  const kept = new Set(volumes.filter(({ overlayBytes }) => overlayBytes !== null).map(({ volumeId }) => overlayPath(ctx, id, volumeId)));
  const names = await readdir(ctx.dir(id)).catch(() => []);
  for (const name of names) if (name.startsWith(OVERLAY_PREFIX) && !kept.has(join(ctx.dir(id), name))) ctx.attempt(id, "a layer over a volume is left", () => ctx.deps.trash.drop(join(ctx.dir(id), name)));
}
