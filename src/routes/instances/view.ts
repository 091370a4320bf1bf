// An instance of the domain as the contract writes it.
import type { Instance } from "../../host/instances/service.ts";
import { PLATFORM, RUNTIME } from "../capabilities.ts";
import { formatSize, formatTime, formatTimeOrNull } from "../format.ts";
import { autoStandbyView, snapshotPolicyView } from "../policies.ts";
import { volumeMountView } from "./volumes-schema.ts";

export function instanceView(instance: Instance) {
  return {
    id: instance.id,
    name: instance.name,
    image: instance.image,
    image_digest: instance.imageDigest,
    state: instance.state,
    created_at: formatTime(instance.createdAt),
    // Always there; nothing expires yet.
    expires_at: null,
    started_at: formatTimeOrNull(instance.startedAt),
    stopped_at: formatTimeOrNull(instance.stoppedAt),
    state_error: instance.stateError,
    exit_code: instance.exitCode,
    ...(instance.exitMessage === null ? {} : { exit_message: instance.exitMessage }),
    size: formatSize(instance.memoryBytes),
    vcpus: instance.vcpus,
    overlay_size: formatSize(instance.overlayBytes),
    env: instance.env,
    tags: instance.tags,
    entrypoint: instance.entrypoint,
    cmd: instance.cmd,
    hypervisor: RUNTIME,
    platform: PLATFORM,
    has_snapshot: instance.hasSnapshot,
    network: {
      enabled: instance.network,
      ...(instance.network ? { name: "default" } : {}),
      ip: instance.ip,
      mac: instance.mac,
    },
    volumes: instance.volumes.map(volumeMountView),
    ...(instance.autoStandby === null ? {} : { auto_standby: autoStandbyView(instance.autoStandby) }),
    ...(instance.snapshotPolicy === null ? {} : { snapshot_policy: snapshotPolicyView(instance.snapshotPolicy) }),
    port_mappings: instance.ports.map(({ guestPort, hostPort, protocol }) => ({ guest_port: guestPort, host_port: hostPort, protocol })),
    tty: instance.tty,
    open_stdin: instance.openStdin,
    current_phase: instance.phase,
    current_phase_since: formatTime(instance.phaseSince),
    phase_durations_ms: instance.phaseDurationsMs,
  };
}
