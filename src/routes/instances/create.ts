// The body of `POST /instances` as the instance domain takes it.
import { DormouseError } from "../../errors.ts";
import type { CreateInstance, Instance } from "../../host/instances/service.ts";
import type { PortMapping } from "../../host/network/service.ts";
import type { VolumeService } from "../../host/volumes/service.ts";
import { PLATFORM, RUNTIME } from "../capabilities.ts";
import { bad, orThrow } from "../errors.ts";
import { checkName, parseSize } from "../format.ts";
import { toAutoStandby, toSnapshotPolicy } from "../policies.ts";
import type { CreateBody } from "./schema.ts";
import { byId, toVolumeMounts } from "./volumes-schema.ts";
import { refuseUnsupported, UNSUPPORTED_CREATE, UNSUPPORTED_NETWORK } from "./unsupported.ts";

const DEFAULT_SIZE = "1GB";
const DEFAULT_OVERLAY_SIZE = "10GB";
const DEFAULT_VCPUS = 2;

/** Throws a DormouseError that names the field at fault. */
export function toCreateInstance(body: CreateBody): CreateInstance {
  orThrow(checkName(body.name));
  refuseUnsupported(body, UNSUPPORTED_CREATE);
  refuseUnsupported(body.network ?? {}, UNSUPPORTED_NETWORK, "network.");
  checkRuntime(body.hypervisor, "hypervisor");
  checkPlatform(body.platform);
  const network = body.network?.enabled ?? true;
  return {
    name: body.name,
    image: body.image,
    memoryBytes: positiveSize(body.size || DEFAULT_SIZE, "size"),
    vcpus: body.vcpus ?? DEFAULT_VCPUS,
    overlayBytes: positiveSize(body.overlay_size || DEFAULT_OVERLAY_SIZE, "overlay_size"),
    env: checkEnv(body.env ?? {}),
    tags: body.tags ?? {},
    entrypoint: checkWords(body.entrypoint, "entrypoint"),
    cmd: checkWords(body.cmd, "cmd"),
    network,
    ports: toPorts(body.port_mappings ?? [], network),
    tty: body.tty ?? false,
    openStdin: body.open_stdin ?? false,
    autoStandby: toAutoStandby(body.auto_standby),
    snapshotPolicy: toSnapshotPolicy(body.snapshot_policy),
    volumes: toVolumeMounts(body.volumes ?? []),
  };
}

/** Whether a repeated create asks for the very instance that is there. `digest` is what its image name means now. */
export function isSameRequest(request: CreateInstance, instance: Instance, digest: string, volumes: Pick<VolumeService, "get">): boolean {
  const { image: _, ...asked } = request, wanted = { ...asked, volumes: byId(asked.volumes, volumes) };
  const there: Record<keyof typeof wanted, unknown> = {
    name: instance.name, memoryBytes: instance.memoryBytes, vcpus: instance.vcpus, overlayBytes: instance.overlayBytes,
    env: instance.env, tags: instance.tags, entrypoint: instance.entrypoint, cmd: instance.cmd, network: instance.network,
    ports: instance.ports, tty: instance.tty, openStdin: instance.openStdin,
    autoStandby: instance.autoStandby, snapshotPolicy: instance.snapshotPolicy, volumes: instance.volumes,
  };
  return instance.imageDigest === digest && Bun.deepEquals(wanted, there);
}

/** Null where absent: the image's. An empty list is none at all, as `docker run --entrypoint ""` has it. */
export function checkWords(words: readonly string[] | undefined, field: string): readonly string[] | null {
  if (words === undefined) return null;
  if (words.some((word) => word.includes("\0"))) throw bad(`Cannot accept field ${field}: a NUL byte can't stand in an argument.`, field);
  return words;
}

function positiveSize(text: string, field: string): number {
  const bytes = orThrow(parseSize(text, field));
  if (bytes > 0) return bytes;
  throw new DormouseError("size.invalid", `Cannot accept field ${field}: it must be more than 0.`, { details: { field } });
}

/** Throws for a hypervisor other than the one there is. */
export function checkRuntime(hypervisor: string | undefined, field: string): void {
  if (hypervisor === undefined || hypervisor === "" || hypervisor === RUNTIME) return;
  throw new DormouseError("request.not_supported", `Cannot honour field ${field}: there is only ${RUNTIME}.`, { details: { field, available: [RUNTIME] } });
}

function checkPlatform(platform: string | undefined): void {
  if (platform === undefined || platform === "" || platform === PLATFORM) return;
  throw new DormouseError("platform.invalid", `Cannot accept field platform: this host runs ${PLATFORM} only.`, { details: { field: "platform", available: [PLATFORM] } });
}

function checkEnv(env: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  for (const [key, value] of Object.entries(env)) {
    if (key === "" || /[=\0]/.test(key) || value.includes("\0")) {
      throw bad("Cannot accept field env: a name is empty or has '=' in it, or something has a NUL byte.", "env");
    }
  }
  return env;
}

function toPorts(mappings: NonNullable<CreateBody["port_mappings"]>, network: boolean): PortMapping[] {
  if (mappings.length > 0 && !network) throw bad("Cannot accept field port_mappings: the instance has no network.", "port_mappings");
  const ports = mappings.map(({ guest_port, host_port, protocol = "tcp" }) => ({ guestPort: guest_port, hostPort: host_port, protocol }));
  const taken = new Set<string>();
  for (const { hostPort, protocol } of ports) {
    const key = `${hostPort}/${protocol}`;
    if (taken.has(key)) throw bad(`Cannot accept field port_mappings: host port ${key} is there twice.`, "port_mappings");
    taken.add(key);
  }
  return ports;
}
