// One row of `instances` (with its phase) to an Instance and back.
import type { PortMapping } from "../network/service.ts";
import type { AutoStandbyPolicy, SnapshotPolicy } from "../snapshots/service.ts";
import type { VolumeMount } from "../volumes/service.ts";
import type { CreateInstance, Instance, InstanceState } from "./service.ts";

/** As SELECTed in records.ts: the table's columns, the current phase, and past phases as a JSON object (or null). */
export interface Row {
  id: string; name: string; image: string; image_digest: string;
  memory_bytes: number; vcpus: number; overlay_bytes: number;
  env: string; tags: string; entrypoint: string | null; cmd: string | null;
  network: number; ports: string; tty: number; open_stdin: number;
  auto_standby: string | null; snapshot_policy: string | null; saved_generation: string | null; live_generation: string | null;
  state: InstanceState; state_error: string | null;
  created_at: number; started_at: number | null; stopped_at: number | null;
  exit_code: number | null; exit_message: string | null;
  ip: string | null; mac: string | null; removing: number;
  phase: string; phase_since: number; phases: string | null;
}

export function encodeRow(id: string, request: CreateInstance, imageDigest: string, at: number): Record<string, string | number | null> {
  return {
    id, name: request.name, image: request.image, image_digest: imageDigest,
    memory_bytes: request.memoryBytes, vcpus: request.vcpus, overlay_bytes: request.overlayBytes,
    env: JSON.stringify(request.env), tags: JSON.stringify(request.tags),
    entrypoint: request.entrypoint && JSON.stringify(request.entrypoint), cmd: request.cmd && JSON.stringify(request.cmd),
    network: Number(request.network), ports: JSON.stringify(request.ports), tty: Number(request.tty), open_stdin: Number(request.openStdin),
    auto_standby: request.autoStandby && JSON.stringify(request.autoStandby), snapshot_policy: request.snapshotPolicy && JSON.stringify(request.snapshotPolicy),
    state: "Created", created_at: at,
  };
}

// Written by encodeRow() from checked values, in a table that is ours alone.
const json = <T>(text: string): T => JSON.parse(text) as T;

export function decodeRow(row: Row, volumes: readonly VolumeMount[], now: number): Instance {
  const durations = json<Record<string, number>>(row.phases ?? "{}");
  durations[row.phase] = (durations[row.phase] ?? 0) + Math.max(0, now - row.phase_since);
  return {
    id: row.id, name: row.name, image: row.image, imageDigest: row.image_digest,
    memoryBytes: row.memory_bytes, vcpus: row.vcpus, overlayBytes: row.overlay_bytes,
    env: json<Record<string, string>>(row.env), tags: json<Record<string, string>>(row.tags),
    entrypoint: row.entrypoint === null ? null : json<string[]>(row.entrypoint), cmd: row.cmd === null ? null : json<string[]>(row.cmd),
    network: row.network === 1, ports: json<PortMapping[]>(row.ports), tty: row.tty === 1, openStdin: row.open_stdin === 1,
    autoStandby: row.auto_standby === null ? null : json<AutoStandbyPolicy>(row.auto_standby),
    snapshotPolicy: row.snapshot_policy === null ? null : json<SnapshotPolicy>(row.snapshot_policy),
    volumes,
    state: row.state, stateError: row.state_error,
    createdAt: row.created_at, startedAt: row.started_at, stoppedAt: row.stopped_at,
    exitCode: row.exit_code, exitMessage: row.exit_message,
    ip: row.ip, mac: row.mac, hasSnapshot: row.saved_generation !== null, removing: row.removing === 1,
    phase: row.phase, phaseSince: row.phase_since, phaseDurationsMs: durations,
  };
}
