// The snapshot routes in words, for the OpenAPI document.
import { DELETED, describe, describeGroup, instanceParam, NAMED, pathParam, WAKING } from "../describe.ts";
import { forkAnswer, instanceExample } from "../instances/schema.ts";
import { describeQuery } from "../query.ts";
import { listQuery } from "./queries.ts";
import { scheduleExample, snapshotExample } from "./schema.ts";

const tag = "Snapshots";
const snapshotParam = pathParam("snapshotId", "Exact id, exact name where only one source has it, or a prefix that only one id has.", "before-upgrade");
const ofSnapshot = describeGroup(tag, [snapshotParam], ["snapshot.not_found", "name.ambiguous"]);
const ofInstance = describeGroup(tag, [instanceParam], NAMED);
const schedule = { 200: { description: "The schedule.", schema: "SnapshotSchedule", example: scheduleExample } };

export const create = ofInstance({
  operationId: "createSnapshot",
  summary: "Create a snapshot",
  description: "Keeps what the instance is now under an id, and a name where one is given, apart from the instance. Kind `Standby`: memory and disk of one that runs (it stands still while its memory is written, and runs on) or sleeps. Kind `Stopped`: the disk of a stopped one. Nothing is copied where files can be shared. A snapshot outlives its source.",
  bodyExample: { kind: "Standby", name: "before-upgrade", tags: { team: "web" } },
  answers: { 201: { description: "Safely on disk; compression, where asked for, follows in the background.", schema: "Snapshot", example: { ...snapshotExample, compression_state: "compressing", compressed_size_bytes: null } } },
  errors: ["name.invalid", "name.taken", "instance.invalid_state", "instance.agent_unreachable", "conflict", "host.storage", "host.process"],
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
  errors: ["snapshot.not_found", "request.not_supported", "instance.invalid_state", "conflict", ...WAKING, ...NAMED],
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

export const get = ofSnapshot({
  operationId: "getSnapshot",
  summary: "Get a snapshot",
  description: "By exact id, exact name, or a prefix of the id that only one snapshot has.",
  answers: { 200: { description: "The snapshot.", schema: "Snapshot", example: snapshotExample } },
});

export const remove = ofSnapshot({
  operationId: "deleteSnapshot",
  summary: "Delete a snapshot",
  description: "Frees what nobody else needs: forks and other snapshots that came from it stay whole.",
  answers: DELETED,
  errors: ["conflict", "host.storage"],
});

export const fork = ofSnapshot({
  operationId: "forkSnapshot",
  summary: "Fork an instance from a snapshot",
  description: "A new instance as the snapshot has it, with a name and address of its own and the kernel's random numbers seeded anew; settings are the source's as they were then, but for `port_mappings`. Any number of forks share its memory and disk until they change them.",
  bodyExample: { name: "web-2" },
  answers: forkAnswer,
  errors: ["request.not_supported", "name.invalid", "instance.already_exists", "instance.invalid_state", ...WAKING],
});

export const setSchedule = ofInstance({
  operationId: "setSnapshotSchedule",
  summary: "Set the snapshot schedule",
  description: "Snapshots by the clock; creates the schedule or replaces it. Each run takes a `Standby` snapshot of an instance that runs or sleeps, and a `Stopped` one of a stopped one, and deletes what its retention no longer keeps, of its own snapshots only. A run that was missed is made up for once. A new interval counts from now; an unchanged one keeps `next_run_at`.",
  bodyExample: { interval: "24h", retention: { max_count: 7 }, name_prefix: "nightly", metadata: { team: "web" } },
  answers: schedule,
});

export const getSchedule = ofInstance({
  operationId: "getSnapshotSchedule",
  summary: "Get the snapshot schedule",
  description: "With its last run and its next.",
  answers: schedule,
  errors: ["snapshot.not_found"],
});

export const removeSchedule = ofInstance({
  operationId: "deleteSnapshotSchedule",
  summary: "Delete the snapshot schedule",
  description: "The snapshots that it made stay.",
  answers: DELETED,
  errors: ["snapshot.not_found"],
});
