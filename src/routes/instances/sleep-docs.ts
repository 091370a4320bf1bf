// The routes of sleep.ts in words, for the OpenAPI document.
import { describeGroup, instanceParam, NAMED, WAKING } from "../describe.ts";
import { forkAnswer, instanceExample } from "./schema.ts";
import { statusExample } from "./sleep-schema.ts";

const route = describeGroup("Instances", [instanceParam], NAMED);
const asleep = { ...instanceExample, state: "Standby", has_snapshot: true, current_phase: "standby" };

export const standby = route({
  operationId: "standbyInstance",
  summary: "Put an instance in standby",
  description: [
    "`Running → Standby`. Programs are frozen, memory and devices are written to disk as they are, and the process that ran the machine ends: from then on the instance costs disk and nothing else. A standby after a wake writes only what has changed since.",
    "It goes on with `restore`; with a policy that lets requests wake it (`auto_standby.wake_on_packet`) also by itself, when somebody connects.",
    "Refused with 409 `conflict` while a connection from outside is in use or a session is open, unless `force` is set. Called off with the same when a packet comes before all is safely on disk. Either way the instance runs on. A standby under way is joined: its answer is this one's too. Compression, where asked for here or by `snapshot_policy`, follows in the background. The body may be absent, empty or null.",
  ].join("\n\n"),
  bodyExample: { compression: { enabled: true, algorithm: "zstd", level: 1 }, compression_delay: "30s" },
  bodyRequired: false,
  answers: { 200: { description: "It sleeps.", schema: "Instance", example: asleep } },
  errors: ["instance.invalid_state", "conflict", "instance.agent_unreachable", "host.storage", "host.process"],
});

export const restore = route({
  operationId: "restoreInstance",
  summary: "Restore an instance from standby",
  description: [
    "`Standby → Running`. Memory is mapped from the files and read as it is touched, so the size of the instance hardly matters. Before its programs run on and before the network reaches it, the guest is told the time, its name and address, and new random numbers. Answers once its programs run. Connections are there as they were, as far as the other end has kept them.",
    "A restore under way is joined. One that fails leaves the instance in `Standby` with `state_error`, and its saved memory as good as before. Where its policy lets requests wake it, a new TCP connection or a UDP packet, an exec, a copy of files, and a request through an ingress do the same as this route.",
  ].join("\n\n"),
  answers: { 200: { description: "It runs.", schema: "Instance", example: instanceExample } },
  errors: ["instance.invalid_state", ...WAKING],
});

export const fork = route({
  operationId: "forkInstance",
  summary: "Fork an instance",
  description: [
    "A new instance with all that the source has at this moment: its disk and, unless it is stopped, its memory with the programs in it. It has a name, address and MAC of its own, and the kernel's random numbers are seeded anew. Memory and disk are shared until one of them changes them.",
    "From `Stopped`, `Standby`, and with `from_running` from `Running`: the source then stands still while its memory is written, and runs on. The fork has the source's settings but `port_mappings`, as a port of the host leads to one instance. Connections to the source do not lead to the fork. A program that has seeded a random generator of its own draws the same from it in each.",
    "A fork that was made and can't be brought to its target state answers with the error, and stays as what it is by then.",
  ].join("\n\n"),
  bodyExample: { name: "web-2", from_running: true, target_state: "Running" },
  answers: forkAnswer,
  errors: ["name.invalid", "instance.already_exists", "instance.invalid_state", ...WAKING],
});

export const update = route({
  operationId: "updateInstance",
  summary: "Update an instance",
  description: "When the instance goes to sleep by itself and what wakes it (`auto_standby`), and how its saved memory is kept (`snapshot_policy`). Each is replaced as a whole; null removes it, and what is absent stays. Both count at once, in any state. The contract's other fields accept only their neutral value. The body may be absent, empty or null, and changes nothing then.",
  bodyExample: { auto_standby: { enabled: true, idle_timeout: "10m", ignore_destination_ports: [9100] } },
  bodyRequired: false,
  answers: { 200: { description: "The instance as it is now.", schema: "Instance", example: instanceExample } },
  errors: ["request.not_supported"],
});

export const status = route({
  operationId: "getAutoStandbyStatus",
  summary: "Status of automatic standby",
  description: "Whether and when the instance goes to sleep by itself, and what keeps it from that: `status` in short, `reason` why. Looked at once a second.",
  answers: { 200: { description: "The status.", schema: "AutoStandbyStatus", example: statusExample } },
});

export const hold = route({
  operationId: "holdAutoStandby",
  summary: "Hold off automatic standby",
  description: "For a client that is about to connect: keeps the instance awake for its `idle_timeout` from now, in place of an earlier hold, and calls off a standby that has begun. 409 `instance_in_standby`: it sleeps, or can't be kept from it any more; restore it first. Without an enabled policy there is nothing to hold, and the status is all.",
  answers: { 200: { description: "Held: connections are safe until `hold_until`.", schema: "AutoStandbyStatus", example: { ...statusExample, hold_until: "2026-01-02T03:15:00.000Z" } } },
  errors: ["instance.in_standby"],
});
