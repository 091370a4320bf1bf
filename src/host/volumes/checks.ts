// What may be asked for: names, ids and sizes of volumes; where in a guest one may be mounted. Nothing here looks at other volumes.
import { posix } from "node:path";
import { err, ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";
import { checkImageSize } from "../ext4-images.ts";
import { isLabel, LABEL_WORDS } from "../label.ts";
import type { CreateVolume, VolumeMount } from "./service.ts";

/** Each is a device of the guest's one PCI bus, and one with a layer over it is two. */
export const MAX_MOUNTS = 23;
/** Far below the guest's PATH_MAX. */
const MAX_MOUNT_PATH = 1024;
/** The kernel's own, and init needs them as they are. */
const SYSTEM = ["/proc", "/sys", "/dev"];

export function checkVolume({ name, id, sizeBytes }: CreateVolume): Res<void> {
  if (!isLabel(name)) return fail("name.invalid", `Cannot name a volume ${JSON.stringify(name)}: a name is ${LABEL_WORDS}`, { details: { field: "name" } });
  if (id !== null && !isLabel(id)) return bad("id", `Cannot give the volume ${name} the id ${JSON.stringify(id)}: an id is ${LABEL_WORDS}; leave it out to have one made up`);
  return checkImageSize(`the volume ${name}`, sizeBytes);
}

/** `had`: what the owner has already. */
export function checkMounts(mounts: readonly VolumeMount[], had: readonly VolumeMount[]): Res<void> {
  const all = [...had, ...mounts], devices = all.reduce((sum, { overlayBytes }) => sum + (overlayBytes === null ? 1 : 2), 0);
  if (devices > MAX_MOUNTS) return bad("volumes", `Cannot attach so many volumes: an instance has room for ${MAX_MOUNTS} disks of volumes, and these take ${devices} (one with an overlay takes two)`);
  for (const [i, mount] of mounts.entries()) {
    const checked = checkPath(mount.mountPath, all.slice(0, had.length + i)).andThen(() => checkOverlay(mount));
    if (checked.isErr()) return err(checked.error);
  }
  return ok();
}

function checkPath(path: string, earlier: readonly VolumeMount[]): Res<void> {
  const refuse = (why: string) => bad("mount_path", `Cannot mount a volume at ${JSON.stringify(path)}: ${why}`);
  if (!path.startsWith("/") || path.length > MAX_MOUNT_PATH) return refuse(`a mount path is absolute, and at most ${MAX_MOUNT_PATH} characters long`);
  if (/[\s\x00-\x1f\x7f]/.test(path)) return refuse("it has a space or control character in it");
  if (path === "/" || posix.normalize(path) !== path || path.endsWith("/")) return refuse("write it without `.`, `..`, doubled or final slashes, and not as the root");
  const system = SYSTEM.find((one) => isWithin(one, path));
  if (system !== undefined) return refuse(`${system} is the system's`);
  for (const { mountPath } of earlier) {
    if (mountPath === path) return refuse("another volume is mounted there");
    if (isWithin(path, mountPath)) return refuse(`it would hide the volume at ${mountPath}, which is mounted before it; name the outer one first`);
  }
  return ok();
}

function checkOverlay({ mountPath, readonly, overlayBytes }: VolumeMount): Res<void> {
  if (overlayBytes === null) return ok();
  if (!readonly) return bad("overlay", `Cannot attach a volume at ${mountPath} with an overlay: it must be readonly, as writes go to the overlay`);
  return checkImageSize(`the overlay at ${mountPath}`, overlayBytes);
}

const isWithin = (folder: string, path: string): boolean => path === folder || path.startsWith(`${folder}/`);
const bad = (field: string, message: string) => fail("request.bad", message, { details: { field } });
