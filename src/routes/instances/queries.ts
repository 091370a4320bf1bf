// Query parameters of the instance routes.
import { INSTANCE_STATES } from "../../host/instances/service.ts";
import { bad, orThrow } from "../errors.ts";
import { parseDuration } from "../format.ts";
import { booleanParam, choiceParam, integerParam, tagsParam, textParam } from "../query.ts";
import { TAIL_DEFAULT, TAIL_MAX } from "./logs.ts";
import { WAIT_DEFAULT_MS } from "./wait.ts";

/** A stop holds its caller and the instance's lane; longer than this is a mistake. */
const GRACE_MAX_MS = 3_600_000;

export const listQuery = {
  state: choiceParam(INSTANCE_STATES, undefined, "Only instances in this state."),
  tags: tagsParam,
};
export const deleteQuery = {
  graceful_shutdown: booleanParam(true, "Ask the program to end first, as stop does; false kills it."),
};
export const stopQuery = {
  grace: textParam("Go duration until SIGKILL; 10s by default. An extension.", "30s", (text, name) => {
    if (text === undefined || text === "") return undefined;
    const graceMs = orThrow(parseDuration(text, name));
    if (graceMs > GRACE_MAX_MS) throw bad(`Cannot read query parameter ${name}: it must be at most 1h.`, name);
    return graceMs;
  }),
};
export const waitQuery = {
  state: choiceParam(INSTANCE_STATES, null, "State to wait for.", "Running"),
  timeout: textParam("Go duration; 60s by default, capped at 5m.", "30s", (text, name) =>
    text === undefined || text === "" ? WAIT_DEFAULT_MS : orThrow(parseDuration(text, name)),
  ),
};
export const logsQuery = {
  source: choiceParam(["app", "vmm", "hypeman", "dormouse"], "app", "`app`: output of the program; `vmm`: serial port and monitor; `dormouse` (in the contract `hypeman`): what the daemon did."),
  tail: integerParam(TAIL_DEFAULT, 0, TAIL_MAX, "Lines from the end."),
  follow: booleanParam(false, "Go on with new lines until the instance is Stopped."),
};
