// What automatic standby makes of one instance at one moment: no clock, no database, no kernel.
import type { InstanceState } from "../instances/service.ts";
import type { AutoStandbyPolicy, AutoStandbyStatus } from "../snapshots/service.ts";
import type { Activity } from "./activity.ts";
import type { Timers } from "./timers.ts";

/** An instance as automatic standby sees it. */
export interface Candidate {
  readonly id: string;
  readonly state: InstanceState;
  /** Whether it has a network at all. */
  readonly network: boolean;
  readonly ip: string | null;
  readonly policy: AutoStandbyPolicy | null;
  /** When it became Running last, by a start or a wake; milliseconds since the epoch. */
  readonly runningSince: number;
}

/** What was seen of one. */
export interface Seen {
  /** Connections that are open now and count. */
  readonly open: number;
  /** Connections that count, came since the last look, and have ended already. */
  readonly ended: number;
  readonly other: Activity;
}

export interface Decision { readonly status: AutoStandbyStatus; readonly timers: Timers; /** Time to sleep. */ readonly due: boolean }

type Reason = AutoStandbyStatus["reason"];

/** Why it never goes to sleep by itself as it is now; null where it may. */
export function obstacle(candidate: Candidate): Reason | null {
  if (candidate.policy === null) return "policy_missing";
  if (!candidate.policy.enabled) return "policy_disabled";
  if (!candidate.network) return "network_disabled";
  if (candidate.state !== "Running") return "instance_not_running";
  return candidate.ip === null ? "missing_ip" : null;
}

/** Of one that may not sleep; the timers are shown as far as they mean something. */
export function withObstacle(candidate: Candidate, reason: Reason, timers: Timers, now: number): AutoStandbyStatus {
  const status = reason === "policy_missing" || reason === "policy_disabled" ? "disabled" : reason === "observer_error" ? "error" : "ineligible";
  return { ...base(candidate, timers, now), reason, status };
}

/** Of one that nothing stands in the way of. */
export function decide(candidate: Candidate, seen: Seen, timers: Timers, now: number): Decision {
  const shared = (next: Timers) => ({ ...base(candidate, next, now), activeInboundConnections: seen.open });
  if (seen.open > 0 || seen.ended > 0 || seen.other.open > 0) {
    const next: Timers = { ...timers, idleSince: null, lastActivity: now };
    return { timers: next, due: false, status: { ...shared(next), reason: "active_inbound_connections", status: "active" } };
  }
  const next = idle(candidate, seen, timers, now);
  const at = Math.max(next.idleSince + timeoutOf(candidate), next.holdUntil ?? 0);
  const due = at <= now;
  return {
    timers: next, due,
    status: {
      ...shared(next), idleSince: next.idleSince, nextStandbyAt: at, countdownRemainingMs: Math.max(0, at - now),
      ...(due ? { reason: "ready_for_standby", status: "ready_for_standby" } as const : { reason: "idle_timeout_not_elapsed", status: "idle_countdown" } as const),
    },
  };
}

/**
 * Idle from when it was first seen so, but not from before it ran, or was used otherwise. What is still to come was written before the clock
 * was set back, and says nothing: it must not keep it awake until then.
 */
function idle(candidate: Candidate, { other }: Seen, timers: Timers, now: number): Timers & { idleSince: number } {
  const past = (at: number | null) => (at === null || at > now ? 0 : at);
  const used = past(other.lastAt);
  return {
    idleSince: Math.max(Math.min(timers.idleSince ?? now, now), past(candidate.runningSince), used),
    holdUntil: timers.holdUntil === null ? null : Math.min(timers.holdUntil, now + timeoutOf(candidate)),
    lastActivity: Math.max(past(timers.lastActivity), used) || null,
  };
}

const timeoutOf = (candidate: Candidate): number => candidate.policy?.idleTimeoutMs ?? 0;

function base(candidate: Candidate, timers: Timers, now: number): Omit<AutoStandbyStatus, "reason" | "status"> {
  return {
    activeInboundConnections: 0,
    configured: candidate.policy !== null,
    eligible: obstacle(candidate) === null,
    enabled: candidate.policy?.enabled ?? false,
    supported: true,
    trackingMode: "ctnetlink_dump_v4_tcp",
    countdownRemainingMs: null,
    holdUntil: timers.holdUntil !== null && timers.holdUntil > now ? timers.holdUntil : null,
    idleSince: null,
    idleTimeoutMs: candidate.policy?.enabled === true ? candidate.policy.idleTimeoutMs : null,
    lastInboundActivityAt: timers.lastActivity,
    nextStandbyAt: null,
  };
}
