// The routes of sleep.ts in words, for the OpenAPI document.
import { describe, instanceParam } from "../describe.ts";
import { instanceExample } from "./schema.ts";
import { statusExample } from "./sleep-schema.ts";

const tag = "Instances";
const parameters = [instanceParam];
const asleep = { ...instanceExample, state: "Standby", has_snapshot: true, current_phase: "standby" };
const named = ["instance.not_found", "name.ambiguous"] as const;
const saved = ["snapshot.damaged", "snapshot.incompatible", "resources.insufficient", "host.network", "host.storage", "host.process"] as const;

export const standby = describe({
  tag,
  operationId: "standbyInstance",
  summary: "Put an instance in standby",
  description: "`Running → Standby`: the machine is saved to disk as it is, and its monitor ends; from then on it costs disk and nothing else. A later standby writes only what changed. A packet that comes before the save is complete calls it off (409 `conflict`), and so do connections in use unless `force` is set; the instance runs on then. One under way is joined. Compression, where asked for, follows in the background. The body may be absent, empty or null.",
  parameters,
  bodyExample: { compression: { enabled: true, algorithm: "zstd", level: 1 }, compression_delay: "30s" },
  bodyRequired: false,
  answers: { 200: { description: "It sleeps.", schema: "Instance", example: asleep } },
  errors: [...named, "instance.invalid_state", "conflict", "instance.agent_unreachable", "host.storage", "host.process"],
});

export const restore = describe({
  tag,
  operationId: "restoreInstance",
  summary: "Restore an instance from standby",
  description: "`Standby → Running`: all goes on where it was, with the time of now. Answers when the guest has said that it knows. One under way is joined. A failure leaves it in Standby, as it was. Where its policy lets it, a packet to its address, an exec or a request through an ingress does the same.",
  parameters,
  answers: { 200: { description: "It runs.", schema: "Instance", example: instanceExample } },
  errors: [...named, "instance.invalid_state", "instance.agent_unreachable", ...saved],
});

export const fork = describe({
  tag,
  operationId: "forkInstance",
  summary: "Fork an instance",
  description: "A new instance with all that the source has at this moment, disk and (unless stopped) memory, under its own name, address and random numbers. Memory is shared until one of them changes it. From `Stopped`, `Standby`, and with `from_running` from `Running`, which pauses the source for the capture only. Published ports stay the source's.",
  parameters,
  bodyExample: { name: "web-2", from_running: true, target_state: "Running" },
  answers: { 201: { description: "The fork, in its target state.", schema: "Instance", example: { ...instanceExample, id: "h3k2v0q8rjw5ux7m4c1n9d6b", name: "web-2", port_mappings: [] } } },
  errors: [...named, "name.invalid", "name.taken", "instance.already_exists", "instance.invalid_state", "instance.agent_unreachable", ...saved],
});

export const update = describe({
  tag,
  operationId: "updateInstance",
  summary: "Update an instance",
  description: "`auto_standby` and `snapshot_policy`, each replaced as a whole; null removes it, and what is absent stays. The contract's other fields accept only their neutral value. The body may be absent, empty or null, and changes nothing then.",
  parameters,
  bodyExample: { auto_standby: { enabled: true, idle_timeout: "10m", ignore_destination_ports: [9100] } },
  bodyRequired: false,
  answers: { 200: { description: "The instance as it is now.", schema: "Instance", example: instanceExample } },
  errors: [...named, "request.not_supported"],
});

export const status = describe({
  tag,
  operationId: "getAutoStandbyStatus",
  summary: "Status of automatic standby",
  description: "Whether and when the instance goes to sleep by itself, and what keeps it from that.",
  parameters,
  answers: { 200: { description: "The status.", schema: "AutoStandbyStatus", example: statusExample } },
  errors: named,
});

export const hold = describe({
  tag,
  operationId: "holdAutoStandby",
  summary: "Hold off automatic standby",
  description: "Keeps the instance awake for its `idle_timeout` from now, in place of an earlier hold, and calls off a standby of its own that has begun. 409 `instance_in_standby`: it sleeps, or can't be kept from it any more; restore it first. Without an enabled policy there is nothing to hold, and the status is all.",
  parameters,
  answers: { 200: { description: "Held: connections are safe until `hold_until`.", schema: "AutoStandbyStatus", example: { ...statusExample, hold_until: "2026-01-02T03:15:00.000Z" } } },
  errors: [...named, "instance.in_standby"],
});
