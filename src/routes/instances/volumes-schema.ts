// Volumes of an instance as the wire has them.
import { type Static, Type } from "@sinclair/typebox";
import type { VolumeMount, VolumeService } from "../../host/volumes/service.ts";
import { bad, orThrow } from "../errors.ts";
import { formatSize, parseSize } from "../format.ts";

const how = {
  mount_path: Type.String({ description: "Absolute path in the guest; made where it is missing. What the image has there is hidden.", examples: ["/data"] }),
  readonly: Type.Optional(Type.Boolean({ default: false, description: "Nothing is written to it, and others can have it readonly at the same time. Without this it is this instance's alone." })),
  overlay: Type.Optional(Type.Boolean({ default: false, description: "The guest can write all the same: to a disk of this instance's over the volume. Needs `readonly` and `overlay_size`." })),
  overlay_size: Type.Optional(Type.String({ description: "What can be written to the overlay at most, 64MB at least. Binary: 1GB is 2^30 bytes.", examples: ["1GB"] })),
};

export const VolumeMountSchema = Type.Object({ volume_id: Type.String({ description: "Id or name of a volume." }), ...how }, { additionalProperties: false });
export const AttachBody = Type.Object(how, { additionalProperties: false, title: "AttachVolume" });
type AttachFields = Static<typeof AttachBody>;

/** What an instance shows. */
export const AttachedVolume = Type.Object({
  volume_id: Type.String(), mount_path: Type.String(), readonly: Type.Boolean(), overlay: Type.Boolean(), overlay_size: Type.Optional(Type.String()),
});

/** Throws for fields that don't go together; paths and sizes are the domain's to check. */
export function toVolumeMount(volumeId: string, { mount_path, readonly = false, overlay = false, overlay_size = "" }: AttachFields, at = ""): VolumeMount {
  if (overlay && overlay_size === "") throw bad(`Cannot accept field ${at}overlay: it needs overlay_size, which says how much can be written.`, `${at}overlay_size`);
  if (overlay && !readonly) throw bad(`Cannot accept field ${at}overlay: it needs readonly, as writes go to the overlay and not to the volume.`, `${at}overlay`);
  if (!overlay && overlay_size !== "") throw bad(`Cannot accept field ${at}overlay_size: there is no overlay; set that too.`, `${at}overlay_size`);
  return { volumeId, mountPath: mount_path, readonly, overlayBytes: overlay ? orThrow(parseSize(overlay_size, `${at}overlay_size`)) : null };
}

export const toVolumeMounts = (mounts: readonly Static<typeof VolumeMountSchema>[]): VolumeMount[] =>
  mounts.map(({ volume_id, ...fields }, i) => toVolumeMount(volume_id, fields, `volumes[${i}].`));

export const volumeMountView = ({ volumeId, mountPath, readonly, overlayBytes }: VolumeMount): Static<typeof AttachedVolume> => ({
  volume_id: volumeId, mount_path: mountPath, readonly, overlay: overlayBytes !== null, ...(overlayBytes === null ? {} : { overlay_size: formatSize(overlayBytes) }),
});

/** With ids in place of names, as an instance on record has them; what there is no volume of stays. */
export const byId = (mounts: readonly VolumeMount[], volumes: Pick<VolumeService, "get">): VolumeMount[] =>
  mounts.map((mount) => ({ ...mount, volumeId: volumes.get(mount.volumeId).map(({ id }) => id).unwrapOr(mount.volumeId) }));
