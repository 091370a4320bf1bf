// The states of an instance and the single hops between them, as data. Verbs go through it; nothing else sets a state.
import type { Instance, InstanceState } from "./service.ts";

/** Allowed hops. What is observed may also always become Unknown, and Unknown any state once it is settled. */
const HOPS: Readonly<Record<InstanceState, readonly InstanceState[]>> = {
  Created: ["Initializing", "Stopped", "Standby"],
  Initializing: ["Running", "Paused", "Shutdown", "Stopped"],
  Running: ["Paused", "Shutdown", "Stopped", "Standby"],
  Paused: ["Running", "Initializing", "Shutdown", "Stopped", "Standby"],
  Shutdown: ["Stopped"],
  Stopped: ["Initializing", "Standby"],
  Standby: ["Initializing", "Running", "Paused", "Stopped"],
  Unknown: ["Created", "Initializing", "Running", "Paused", "Shutdown", "Stopped", "Standby"],
};

export const canHop = (from: InstanceState, to: InstanceState): boolean => to === "Unknown" || HOPS[from].includes(to);

/** States in which a VMM may be there. */
export const LIVE_STATES: readonly InstanceState[] = ["Initializing", "Running", "Paused", "Shutdown", "Unknown"];

/** States from which each verb sets out. */
const VERB_FROM = {
  start: ["Stopped", "Created"],
  stop: ["Created", "Initializing", "Running", "Paused", "Shutdown", "Unknown", "Standby"],
  exec: ["Running"],
  standby: ["Running"],
  restore: ["Standby"],
  attach: ["Stopped"],
  stats: ["Initializing", "Running", "Paused"],
} satisfies Record<string, readonly InstanceState[]>;

/** Why it can't be the subject of a verb, to follow on "it is"; null where it can. One that is being deleted stays on record while that fails, and is nobody's to use. */
export function obstacle({ state, removing }: Pick<Instance, "state" | "removing">, verb: keyof typeof VERB_FROM): string | null {
  if (removing) return "being deleted";
  const from: readonly InstanceState[] = VERB_FROM[verb];
  if (from.includes(state)) return null;
  return `${state}${from.length <= 2 ? `, not ${from.join(" or ")}` : ""}${remedy(state, from)}`;
}

/** What makes an instance in `state` one that is awake. */
function remedy(state: InstanceState, from: readonly InstanceState[]): string {
  if (state === "Standby") return from.includes("Running") || from.includes("Created") ? "; restore it" : "";
  return state === "Stopped" && (from.includes("Running") || from.includes("Standby")) ? "; start it" : "";
}

/** States that nothing leaves without somebody's request: waiting there for another one has no end. */
const RESTING: readonly InstanceState[] = ["Stopped", "Standby", "Unknown"];

/** Whether an instance in `state` may come to `target` by itself (`wait`). */
export function mayReach(state: InstanceState, target: InstanceState): boolean {
  if (RESTING.includes(state)) return false;
  // Nothing goes back to Created or, once running, to its start.
  if (target === "Created") return false;
  return !(target === "Initializing" && (state === "Running" || state === "Shutdown"));
}

/** The phase of a state: keys of `phase_durations_ms`. */
export const phaseOf = (state: InstanceState): string => state.toLowerCase();

/** How a lane calls starts: a plain one this, one with a command of its own this and more. */
export const START = "start";
export const isStart = (verb: string): boolean => verb.startsWith(START);
