// Bodies of the snapshot routes, and snapshots and schedules as the wire shows them, with examples.
import { type Static, Type } from "@sinclair/typebox";
import type { Snapshot, SnapshotSchedule } from "../../host/snapshots/service.ts";
import { RUNTIME } from "../capabilities.ts";
import { formatDuration, formatTime, formatTimeOrNull } from "../format.ts";
import { Name, TargetState } from "../instances/sleep-schema.ts";
import { CompressionSchema, compressionView } from "../policies.ts";
import { Bytes, nullable, Tags, Text, Time } from "../schema.ts";

export const KINDS = ["Standby", "Stopped"] as const;
const Kind = Type.Union(KINDS.map((kind) => Type.Literal(kind)), { description: "`Standby`: memory and disk, of an instance that runs or sleeps. `Stopped`: the disk of a stopped one." });

export const CreateSnapshotBody = Type.Object(
  {
    kind: Kind,
    name: Type.Optional(nullable(Name("Unique among the snapshots of its source."))),
    tags: Type.Optional(Tags),
    compression: Type.Optional(nullable(CompressionSchema)),
  },
  { additionalProperties: false, title: "CreateSnapshot" },
);

const target = {
  target_state: Type.Optional(TargetState("By default `Running` for a `Standby` snapshot, `Stopped` for a `Stopped` one.")),
  target_hypervisor: Type.Optional(Text("`dormouse` is the only one there is.")),
};
export const RestoreSnapshotBody = Type.Object(target, { additionalProperties: false, title: "RestoreSnapshot" });
export const ForkSnapshotBody = Type.Object({ name: Name("Of the new instance."), ...target }, { additionalProperties: false, title: "ForkSnapshot" });

/** Room for what a schedule appends, in a name of 63. */
const PREFIX_MAX = 47;
const Retention = Type.Object(
  {
    max_count: Type.Optional(Type.Integer({ minimum: 0, maximum: 1_000_000, description: "Keep at most so many; 0 is no limit." })),
    max_age: Type.Optional(Text("Go duration: keep none that is older; 0s is no limit.")),
  },
  { additionalProperties: false, description: "What of its own snapshots a schedule deletes; at least one limit. Those made by hand stay." },
);
export const SetScheduleBody = Type.Object(
  {
    interval: Type.String({ description: "Go duration, at least 1m.", examples: ["24h"] }),
    retention: Retention,
    name_prefix: Type.Optional(nullable(Type.String({ maxLength: PREFIX_MAX, pattern: "^([a-z0-9][a-z0-9-]*)?$", description: `Of the names of its snapshots; small letters, digits and dashes, at most ${PREFIX_MAX}.` }))),
    metadata: Type.Optional(Tags),
  },
  { additionalProperties: false, title: "SetSnapshotSchedule" },
);
export type SetScheduleBody = Static<typeof SetScheduleBody>;

export const SnapshotSchema = Type.Object(
  {
    id: Text("CUID2."),
    name: nullable(Type.String()),
    kind: Kind,
    created_at: Time("When it was taken."),
    source_instance_id: Type.String(),
    source_instance_name: Text("As it was then."),
    source_hypervisor: Text("`dormouse`."),
    tags: Tags,
    size_bytes: Bytes("Allocated on disk now: its memory and state, without older saved memory that they are a delta over, and of its disk what nobody else needs. Forks that share them change nothing of it."),
    compression: Type.Optional(CompressionSchema),
    compression_state: Type.Union(["none", "compressing", "compressed", "error"].map((one) => Type.Literal(one))),
    compression_error: nullable(Type.String()),
    compressed_size_bytes: nullable(Bytes("Of its memory, compressed.")),
    uncompressed_size_bytes: nullable(Bytes("Of its memory, before.")),
  },
  { title: "Snapshot" },
);

export const snapshotView = (snapshot: Snapshot): Static<typeof SnapshotSchema> => ({
  id: snapshot.id,
  name: snapshot.name,
  kind: snapshot.kind,
  created_at: formatTime(snapshot.createdAt),
  source_instance_id: snapshot.sourceInstanceId,
  source_instance_name: snapshot.sourceInstanceName,
  source_hypervisor: RUNTIME,
  tags: snapshot.tags,
  size_bytes: snapshot.sizeBytes,
  ...(snapshot.compression === null ? {} : { compression: compressionView(snapshot.compression) }),
  compression_state: snapshot.compressionState,
  compression_error: snapshot.compressionError,
  compressed_size_bytes: snapshot.compressedSizeBytes,
  uncompressed_size_bytes: snapshot.uncompressedSizeBytes,
});

export const ScheduleSchema = Type.Object(
  {
    instance_id: Type.String(),
    interval: Text("Go duration."),
    retention: Retention,
    name_prefix: nullable(Type.String()),
    metadata: Tags,
    created_at: Time("When it was first set."),
    updated_at: Time("When it was last set."),
    next_run_at: Time("When it runs next; an unchanged interval keeps it."),
    last_run_at: nullable(Time("When it last ran.")),
    last_snapshot_id: nullable(Text("Of the last run that succeeded.")),
    last_error: nullable(Text("Of the last run, if it failed.")),
  },
  { title: "SnapshotSchedule" },
);

export const scheduleView = (schedule: SnapshotSchedule): Static<typeof ScheduleSchema> => ({
  instance_id: schedule.instanceId,
  interval: formatDuration(schedule.intervalMs),
  retention: {
    ...(schedule.maxCount === null ? {} : { max_count: schedule.maxCount }),
    ...(schedule.maxAgeMs === null ? {} : { max_age: formatDuration(schedule.maxAgeMs) }),
  },
  name_prefix: schedule.namePrefix,
  metadata: schedule.metadata,
  created_at: formatTime(schedule.createdAt),
  updated_at: formatTime(schedule.updatedAt),
  next_run_at: formatTime(schedule.nextRunAt),
  last_run_at: formatTimeOrNull(schedule.lastRunAt),
  last_snapshot_id: schedule.lastSnapshotId,
  last_error: schedule.lastError,
});

export const snapshotExample: Static<typeof SnapshotSchema> = {
  id: "q7w3n5k1d9c2x4v8b6m0z3tr",
  name: "before-upgrade",
  kind: "Standby",
  created_at: "2026-01-02T04:00:00.000Z",
  source_instance_id: "tz4a98xxat96iws9zmbrgj3a",
  source_instance_name: "web",
  source_hypervisor: RUNTIME,
  tags: { team: "web" },
  size_bytes: 62_914_560,
  compression: { enabled: true, algorithm: "zstd", level: 1 },
  compression_state: "compressed",
  compression_error: null,
  compressed_size_bytes: 17_825_792,
  uncompressed_size_bytes: 54_525_952,
};

export const scheduleExample: Static<typeof ScheduleSchema> = {
  instance_id: "tz4a98xxat96iws9zmbrgj3a",
  interval: "24h",
  retention: { max_count: 7 },
  name_prefix: "nightly",
  metadata: { team: "web" },
  created_at: "2026-01-02T03:04:05.000Z",
  updated_at: "2026-01-02T03:04:05.000Z",
  next_run_at: "2026-01-03T03:04:05.000Z",
  last_run_at: null,
  last_snapshot_id: null,
  last_error: null,
};
