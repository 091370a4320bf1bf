// What sleeping, snapshots and forks offer to routes, ingress and schedules. Implemented by src/host/instances (the verbs)
// and src/host/snapshots (the records and files).
import type { AsyncRes, Res } from "../../errors.ts";
import type { Instance } from "../instances/service.ts";

/** `enabled: false` keeps the memory file as it was written. Levels: zstd 1 to 19, lz4 0 to 9. */
export type Compression =
  | { readonly enabled: false }
  | { readonly enabled: true; readonly algorithm: "zstd" | "lz4"; readonly level: number };

/** Standing policy of an instance; null fields mean none. */
export interface SnapshotPolicy {
  readonly compression: Compression | null;
  /** How long after a standby its compression begins. */
  readonly standbyCompressionDelayMs: number | null;
}

export interface AutoStandbyPolicy {
  readonly enabled: boolean;
  readonly idleTimeoutMs: number;
  readonly ignoreDestinationPorts: readonly number[];
  /** IPv4 networks in CIDR notation. */
  readonly ignoreSourceCidrs: readonly string[];
  /** Extension of ours: whether a packet wakes the sleeping instance. */
  readonly wakeOnPacket: boolean;
}

export const AUTO_STANDBY_REASONS = [
  "unsupported_platform", "policy_missing", "policy_disabled", "instance_not_running", "network_disabled", "missing_ip", "has_vgpu",
  "active_inbound_connections", "idle_timeout_not_elapsed", "observer_error", "ready_for_standby",
] as const;
export const AUTO_STANDBY_STATUSES = ["unsupported", "disabled", "ineligible", "active", "idle_countdown", "ready_for_standby", "standby_requested", "error"] as const;

/** `GET /instances/{id}/auto-standby/status`. Times in milliseconds since the epoch. */
export interface AutoStandbyStatus {
  readonly activeInboundConnections: number;
  readonly configured: boolean;
  readonly eligible: boolean;
  readonly enabled: boolean;
  readonly reason: (typeof AUTO_STANDBY_REASONS)[number];
  readonly status: (typeof AUTO_STANDBY_STATUSES)[number];
  readonly supported: boolean;
  readonly trackingMode: string;
  readonly countdownRemainingMs: number | null;
  readonly holdUntil: number | null;
  readonly idleSince: number | null;
  readonly idleTimeoutMs: number | null;
  readonly lastInboundActivityAt: number | null;
  readonly nextStandbyAt: number | null;
}

export type SnapshotKind = "Standby" | "Stopped";
export type TargetState = "Stopped" | "Standby" | "Running";
export type CompressionState = "none" | "compressing" | "compressed" | "error";

/** A named snapshot. It outlives its source. */
export interface Snapshot {
  readonly id: string;
  readonly name: string | null;
  readonly kind: SnapshotKind;
  readonly tags: Readonly<Record<string, string>>;
  readonly createdAt: number;
  readonly sourceInstanceId: string;
  readonly sourceInstanceName: string;
  /** Bytes on disk now of its own generation, without those below it, and of its disk what nobody else needs. */
  readonly sizeBytes: number;
  readonly compression: Compression | null;
  readonly compressionState: CompressionState;
  readonly compressionError: string | null;
  readonly compressedSizeBytes: number | null;
  readonly uncompressedSizeBytes: number | null;
}

export interface SnapshotFilter {
  readonly kind?: SnapshotKind;
  readonly name?: string;
  readonly sourceInstanceId?: string;
  readonly tags?: Readonly<Record<string, string>>;
}

export interface SnapshotSchedule {
  readonly instanceId: string;
  readonly intervalMs: number;
  /** At least one of the two is not null; 0 as a count is none. */
  readonly maxCount: number | null;
  readonly maxAgeMs: number | null;
  readonly namePrefix: string | null;
  readonly metadata: Readonly<Record<string, string>>;
  readonly createdAt: number;
  readonly updatedAt: number;
  readonly nextRunAt: number;
  readonly lastRunAt: number | null;
  readonly lastSnapshotId: string | null;
  readonly lastError: string | null;
}
export type SetSchedule = Pick<SnapshotSchedule, "intervalMs" | "maxCount" | "maxAgeMs" | "namePrefix" | "metadata">;

export interface StandbyOptions {
  /** Absent: the instance's policy. */
  readonly compression?: Compression;
  readonly compressionDelayMs?: number;
  /** Goes to sleep also with connections in use; an extension of ours. */
  readonly force?: boolean;
}

/** Everywhere: `instance.not_found`, `snapshot.not_found`, `name.ambiguous`, `instance.invalid_state`, `name.taken`, `snapshot.damaged`, `snapshot.incompatible`, `host.storage`. */
export interface SleepService {
  /** Running → Standby. Joins one under way. `conflict` where it was called off by a packet or a connection in use. */
  standby(ref: string, options?: StandbyOptions): AsyncRes<Instance>;
  /** Standby → Running. Joins one under way. */
  restore(ref: string): AsyncRes<Instance>;
  /** As restore(), for a request that has come (ingress, exec, a packet): Running answers at once, policy decides the rest (`instance.invalid_state`). */
  wake(ref: string): AsyncRes<Instance>;
  /** A running source needs `fromRunning`. The target defaults to the source's state. */
  fork(ref: string, request: { readonly name: string; readonly fromRunning: boolean; readonly targetState: TargetState | null }): AsyncRes<Instance>;
  update(ref: string, change: { readonly autoStandby?: AutoStandbyPolicy | null; readonly snapshotPolicy?: SnapshotPolicy | null }): AsyncRes<Instance>;

  autoStandbyStatus(ref: string): AsyncRes<AutoStandbyStatus>;
  /** `instance.in_standby` where it sleeps or is past the commit. */
  holdAutoStandby(ref: string): AsyncRes<AutoStandbyStatus>;

  createSnapshot(ref: string, request: { readonly kind: SnapshotKind; readonly name: string | null; readonly tags: Readonly<Record<string, string>>; readonly compression?: Compression }): AsyncRes<Snapshot>;
  /** In place: what the instance is now is lost. */
  restoreSnapshot(ref: string, snapshotRef: string, targetState: TargetState | null): AsyncRes<Instance>;
  forkSnapshot(snapshotRef: string, request: { readonly name: string; readonly targetState: TargetState | null }): AsyncRes<Instance>;
  listSnapshots(filter?: SnapshotFilter): Snapshot[];
  getSnapshot(ref: string): Res<Snapshot>;
  removeSnapshot(ref: string): AsyncRes<void>;

  setSchedule(ref: string, schedule: SetSchedule): AsyncRes<SnapshotSchedule>;
  /** `snapshot.not_found` where there is none. */
  getSchedule(ref: string): Res<SnapshotSchedule>;
  removeSchedule(ref: string): AsyncRes<void>;
}
