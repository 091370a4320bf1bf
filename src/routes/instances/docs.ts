// The instance routes in words, for the OpenAPI document.
import { DELETED, describe, describeGroup, instanceParam, NAMED, WAKING } from "../describe.ts";
import { describeQuery } from "../query.ts";
import { deleteQuery, listQuery, logsQuery, stopQuery, waitQuery } from "./queries.ts";
import { createExample, instanceExample } from "./schema.ts";
import { statsExample } from "./stats.ts";

const tag = "Instances";
const ofInstance = describeGroup(tag, [instanceParam], NAMED);
const one = (description: string, state = "Running") => ({ description, schema: "Instance", example: { ...instanceExample, state } });
const stopped = { ...instanceExample, state: "Stopped", stopped_at: "2026-01-02T03:05:06.000Z", exit_code: 0, exit_message: "exited with code 0", current_phase: "stopped" };

export const create = describe({
  tag,
  operationId: "createInstance",
  summary: "Create and start an instance",
  description: "Answers at once with the state `Created`; use `wait` to see it `Running`. A later failure ends in `Stopped` with `exit_message`. The image must be `ready`. Fields that are not implemented yet accept only their neutral value.",
  bodyExample: createExample,
  answers: { 201: { ...one("Recorded, and being started.", "Created") } },
  errors: ["request.not_supported", "name.invalid", "size.invalid", "platform.invalid", "image.not_found", "image.not_ready", "instance.already_exists", "volume.not_found", "name.ambiguous", "volume.in_use", "port.taken", "resources.insufficient", "host.network", "host.storage"],
});

export const list = describe({
  tag,
  operationId: "listInstances",
  summary: "List instances",
  description: "All instances, or those that match every filter.",
  parameters: describeQuery(listQuery),
  answers: { 200: { description: "The instances.", schema: "Instance", list: true, example: [instanceExample] } },
});

export const get = ofInstance({
  operationId: "getInstance",
  summary: "Get an instance",
  description: "By exact id, exact name, or a prefix of the id that only one instance has.",
  answers: { 200: one("The instance.") },
});

export const remove = ofInstance({
  operationId: "deleteInstance",
  summary: "Stop and delete an instance",
  description: "Graceful unless told otherwise; its disk, logs, address and saved memory go with it. One that sleeps is not woken for it. Its named snapshots and forks stay whole. Goes on to its end even if the caller hangs up.",
  parameters: describeQuery(deleteQuery),
  answers: DELETED,
  errors: ["instance.invalid_state", "host.network", "host.storage"],
});

export const start = ofInstance({
  operationId: "startInstance",
  summary: "Start a stopped instance",
  description: "`Stopped → Initializing`, and `Running` when its program was started. Its disk is as it was left. One that sleeps is not started but restored. The body may be absent, empty or null.",
  bodyExample: { cmd: ["nginx", "-g", "daemon off;"] },
  bodyRequired: false,
  answers: { 200: one("Being started.", "Initializing") },
  errors: ["instance.invalid_state", "image.not_found", "image.not_ready", "volume.missing", "volume.unclean", "port.taken", "resources.insufficient", "host.network", "host.storage"],
});

export const stop = ofInstance({
  operationId: "stopInstance",
  summary: "Stop an instance",
  description: "Sends the image's StopSignal (SIGTERM by default), and SIGKILL after 10 s; answers when it is `Stopped`. One that sleeps is woken first, so that its program can end in order. A stop under way is joined. Goes on to its end even if the caller hangs up.",
  parameters: describeQuery(stopQuery),
  answers: { 200: { description: "It is stopped.", schema: "Instance", example: stopped } },
  errors: ["instance.invalid_state"],
});

export const wait = ofInstance({
  operationId: "waitForState",
  summary: "Wait for a state",
  description: "Answers on the target state, on a state from which it can't come (one that sleeps or is stopped stays so unless somebody asks), or at the timeout. Headers and white space go out before the JSON, so that no connection goes quiet.",
  parameters: describeQuery(waitQuery),
  answers: { 200: { description: "The wait is over.", schema: "WaitAnswer", example: { state: "Running", timed_out: false, state_error: null } } },
});

export const logs = ofInstance({
  operationId: "getInstanceLogs",
  summary: "Stream logs",
  description: "Server-sent events: each `data:` is one line as a JSON string; comments keep the connection alive. A failure resets the connection; a clean end is the end of the log.",
  parameters: describeQuery(logsQuery),
  answers: { 200: { description: "Lines.", type: "text/event-stream", schema: "LogStream", example: ':\n\ndata: "listening on port 80"\n\n' } },
  errors: ["log.not_found"],
});

export const stats = ofInstance({
  operationId: "getInstanceStats",
  summary: "What a running instance uses",
  description: "CPU time, memory and network traffic, as its monitor and the kernel count them.",
  answers: { 200: { description: "The figures.", schema: "Stats", example: statsExample } },
  errors: ["instance.invalid_state", "host.process"],
});

export const exec = ofInstance({
  operationId: "execInstance",
  summary: "Run a command (WebSocket)",
  description: [
    "In an instance that is `Running`; one in `Standby` is woken first where its policy lets requests do that.",
    "First frame, text: `{\"command\":[\"ls\",\"-l\"],\"tty\":false,\"env\":{},\"cwd\":\"\",\"timeout\":0,\"wait_for_agent\":0}`; all optional, `command` is `/bin/sh`. Extensions: `user`, `rows`, `cols`.",
    "Then binary frames both ways; text `{\"resize\":{\"rows\":R,\"cols\":C}}`. Last, text `{\"exitCode\":N}`. A command that can't start sends `Error: …`, then 127 or 126; past `timeout` seconds it is killed, 124. A hang-up kills the command.",
    "With the subprotocol `dormouse.exec.v1` (an extension) binary frames begin with a byte for the stream: 0 standard input (the byte alone is its end), 1 standard output, 2 standard error; text `{\"signal\":N}` sends a signal; the last frame is `{\"exitCode\":N,\"message\":\"…\"}`, or `{\"error\":\"…\"}` where guest or agent went away.",
  ].join("\n\n"),
  answers: { 101: { description: "The WebSocket is open." } },
  errors: ["instance.invalid_state", ...WAKING],
});

export const attach = ofInstance({
  operationId: "attachInstance",
  summary: "Attach to the program's terminal or input (WebSocket)",
  description: "For instances created with `tty` or `open_stdin`. Frames as in exec, without the first. A hang-up leaves the program running. An extension of Dormouse.",
  answers: { 101: { description: "The WebSocket is open." } },
  errors: ["instance.invalid_state"],
});
