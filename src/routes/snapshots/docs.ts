// The snapshot routes in words, for the OpenAPI document.
import { describe, instanceParam, pathParam } from "../describe.ts";
import { instanceExample } from "../instances/schema.ts";
import { describeQuery } from "../query.ts";
import { listQuery } from "./queries.ts";
import { scheduleExample, snapshotExample } from "./schema.ts";

const tag = "Snapshots";
const snapshotParam = pathParam("snapshotId", "Exact id, exact name where only one source has it, or a prefix that only one id has.", "before-upgrade");
const snapshot = ["snapshot.not_found", "name.ambiguous"] as const;
const instance = ["instance.not_found", "name.ambiguous"] as const;
const waking = ["instance.agent_unreachable", "instance.start_failed", "snapshot.damaged", "snapshot.incompatible", "resources.insufficient", "host.network", "host.storage", "host.process"] as const;

export const create = describe({
  tag,
  operationId: "createSnapshot",
  summary: "Create a snapshot",
  description: "Keeps what the instance is now under an id, and a name where one is given, apart from the instance. Kind `Standby`: memory and disk of one that runs (it stands still while its memory is written, and runs on) or sleeps. Kind `Stopped`: the disk of a stopped one. Nothing is copied where files can be shared. A snapshot outlives its source.",
  parameters: [instanceParam],
  bodyExample: { kind: "Standby", name: "before-upgrade", tags: { team: "web" } },
  answers: { 201: { description: "Safely on disk; compression, where asked for, follows in the background.", schema: "Snapshot", example: { ...snapshotExample, compression_state: "compressing", compressed_size_bytes: null } } },
  errors: [...instance, "name.invalid", "name.taken", "instance.invalid_state", "instance.agent_unreachable", "conflict", "host.storage", "host.process"],
});

export const restore = describe({
  tag,
  operationId: "restoreSnapshot",
  summary: "Restore a snapshot in place",
  description: "The instance becomes what it was when the snapshot was taken, under its own name and address; what it is now is lost, and one that runs is killed. Settings stay as they are. The snapshot must be of this instance, and stays. The body may be absent, empty or null.",
  parameters: [instanceParam, snapshotParam],
  bodyExample: { target_state: "Running" },
  bodyRequired: false,
  answers: { 200: { description: "In its target state.", schema: "Instance", example: instanceExample } },
  errors: [...instance, "snapshot.not_found", "request.not_supported", "instance.invalid_state", "conflict", ...waking],
});

export const list = describe({
  tag,
  operationId: "listSnapshots",
  summary: "List snapshots",
  description: "All snapshots, or those that match every filter.",
  parameters: describeQuery(listQuery),
  answers: { 200: { description: "The snapshots.", schema: "Snapshot", list: true, example: [snapshotExample] } },
  errors: ["name.ambiguous"],
});

export const get = describe({
  tag,
  operationId: "getSnapshot",
  summary: "Get a snapshot",
  description: "By exact id, exact name, or a prefix of the id that only one snapshot has.",
  parameters: [snapshotParam],
  answers: { 200: { description: "The snapshot.", schema: "Snapshot", example: snapshotExample } },
  errors: snapshot,
});

export const remove = describe({
  tag,
  operationId: "deleteSnapshot",
  summary: "Delete a snapshot",
  description: "Frees what nobody else needs: forks and other snapshots that came from it stay whole.",
  parameters: [snapshotParam],
  answers: { 204: { description: "Deleted." } },
  errors: [...snapshot, "conflict", "host.storage"],
});

export const fork = describe({
  tag,
  operationId: "forkSnapshot",
  summary: "Fork an instance from a snapshot",
  description: "A new instance as the snapshot has it, with a name and address of its own and the kernel's random numbers seeded anew; settings are the source's as they were then, but for `port_mappings`. Any number of forks share its memory and disk until they change them.",
  parameters: [snapshotParam],
  bodyExample: { name: "web-2" },
  answers: { 201: { description: "The fork, in its target state.", schema: "Instance", example: { ...instanceExample, id: "h3k2v0q8rjw5ux7m4c1n9d6b", name: "web-2", port_mappings: [] } } },
  errors: [...snapshot, "request.not_supported", "name.invalid", "instance.already_exists", "instance.invalid_state", ...waking],
});

export const setSchedule = describe({
  tag,
  operationId: "setSnapshotSchedule",
  summary: "Set the snapshot schedule",
  description: "Snapshots by the clock; creates the schedule or replaces it. Each run takes a `Standby` snapshot of an instance that runs or sleeps, and a `Stopped` one of a stopped one, and deletes what its retention no longer keeps, of its own snapshots only. A run that was missed is made up for once. A new interval counts from now; an unchanged one keeps `next_run_at`.",
  parameters: [instanceParam],
  bodyExample: { interval: "24h", retention: { max_count: 7 }, name_prefix: "nightly", metadata: { team: "web" } },
  answers: { 200: { description: "The schedule.", schema: "SnapshotSchedule", example: scheduleExample } },
  errors: instance,
});

export const getSchedule = describe({
  tag,
  operationId: "getSnapshotSchedule",
  summary: "Get the snapshot schedule",
  description: "With its last run and its next.",
  parameters: [instanceParam],
  answers: { 200: { description: "The schedule.", schema: "SnapshotSchedule", example: scheduleExample } },
  errors: [...instance, "snapshot.not_found"],
});

export const removeSchedule = describe({
  tag,
  operationId: "deleteSnapshotSchedule",
  summary: "Delete the snapshot schedule",
  description: "The snapshots that it made stay.",
  parameters: [instanceParam],
  answers: { 204: { description: "Deleted." } },
  errors: [...instance, "snapshot.not_found"],
});
