import { describe, expect, test } from "bun:test";
import { decide, obstacle, withObstacle, type Candidate, type Seen } from "../../../src/host/standby/decide.ts";
import { NO_TIMERS, type Timers } from "../../../src/host/standby/timers.ts";
import type { AutoStandbyStatus } from "../../../src/host/snapshots/service.ts";
import { GUEST, policy } from "./support.ts";

const NOW = 1_000_000, TIMEOUT = 60_000;
const candidate = (change: Partial<Candidate> = {}): Candidate => ({ id: "a", state: "Running", network: true, ip: GUEST, policy: policy({ idleTimeoutMs: TIMEOUT }), runningSince: 0, ...change });
const seen = (change: Partial<Seen> = {}): Seen => ({ open: 0, ended: 0, other: { open: 0, lastAt: null }, ...change });

test.each<[string, Partial<Candidate>, ReturnType<typeof obstacle>, AutoStandbyStatus["status"] | null]>([
  ["nothing", {}, null, null],
  ["no policy", { policy: null }, "policy_missing", "disabled"],
  ["a policy that is off", { policy: policy({ enabled: false }) }, "policy_disabled", "disabled"],
  ["that and no network", { policy: policy({ enabled: false }), network: false }, "policy_disabled", "disabled"],
  ["no network", { network: false, ip: null }, "network_disabled", "ineligible"],
  ["sleep", { state: "Standby" }, "instance_not_running", "ineligible"],
  ["a start", { state: "Initializing" }, "instance_not_running", "ineligible"],
  ["no address", { ip: null }, "missing_ip", "ineligible"],
])("obstacle(): %s", (_, change, reason, status) => {
  const one = candidate(change);
  expect(obstacle(one)).toBe(reason);
  if (reason !== null) expect(withObstacle(one, reason, NO_TIMERS, NOW)).toMatchObject({ reason, status, eligible: false, supported: true, configured: one.policy !== null, enabled: one.policy?.enabled ?? false });
});

test("withObstacle() says that nothing is seen", () => {
  expect(withObstacle(candidate(), "observer_error", { idleSince: 1, holdUntil: NOW + 5, lastActivity: 2 }, NOW)).toEqual({
    reason: "observer_error", status: "error", supported: true, configured: true, enabled: true, eligible: true, activeInboundConnections: 0, trackingMode: "ctnetlink_dump_v4_tcp",
    countdownRemainingMs: null, holdUntil: NOW + 5, idleSince: null, idleTimeoutMs: TIMEOUT, lastInboundActivityAt: 2, nextStandbyAt: null,
  });
});

describe("decide()", () => {
  const active = { reason: "active_inbound_connections", status: "active", idleSince: null, nextStandbyAt: null, countdownRemainingMs: null, lastInboundActivityAt: NOW } as const;
  const countdown = (idleSince: number, next = idleSince + TIMEOUT) => ({ reason: "idle_timeout_not_elapsed", status: "idle_countdown", idleSince, nextStandbyAt: next, countdownRemainingMs: next - NOW }) as const;
  const ready = (idleSince: number, next = idleSince + TIMEOUT) => ({ reason: "ready_for_standby", status: "ready_for_standby", idleSince, nextStandbyAt: next, countdownRemainingMs: 0 }) as const;
  const timers = (change: Partial<Timers>): Timers => ({ ...NO_TIMERS, ...change });
  const long = NOW - TIMEOUT - 1;

  test.each<[what: string, seen: Seen, timers: Timers, change: Partial<Candidate>, status: Partial<AutoStandbyStatus>]>([
    ["seen for the first time, idle", seen(), NO_TIMERS, {}, countdown(NOW)],
    ["idle for a while", seen(), timers({ idleSince: NOW - 10_000 }), {}, countdown(NOW - 10_000)],
    ["idle for long enough", seen(), timers({ idleSince: NOW - TIMEOUT }), {}, ready(NOW - TIMEOUT)],
    ["idle for longer", seen(), timers({ idleSince: long }), {}, ready(long)],
    ["an open connection", seen({ open: 2 }), timers({ idleSince: long }), {}, { ...active, activeInboundConnections: 2 }],
    ["a connection that came and went", seen({ ended: 1 }), timers({ idleSince: long }), {}, { ...active, activeInboundConnections: 0 }],
    ["an open exec", seen({ other: { open: 1, lastAt: 5 } }), timers({ idleSince: long }), {}, { ...active, activeInboundConnections: 0 }],
    ["an exec that ended between two looks", seen({ other: { open: 0, lastAt: NOW - 100 } }), timers({ idleSince: long }), {}, { ...countdown(NOW - 100), lastInboundActivityAt: NOW - 100 }],
    ["an exec of long ago", seen({ other: { open: 0, lastAt: 5 } }), timers({ idleSince: long, lastActivity: 7 }), {}, { ...ready(long), lastInboundActivityAt: 7 }],
    ["woken a moment ago", seen(), timers({ idleSince: long }), { runningSince: NOW - 200 }, countdown(NOW - 200)],
    ["held", seen(), timers({ idleSince: long, holdUntil: NOW + 500 }), {}, { ...countdown(long, NOW + 500), holdUntil: NOW + 500 }],
    ["held, but not idle for long enough by then", seen(), timers({ idleSince: NOW - 1, holdUntil: NOW + 500 }), {}, { ...countdown(NOW - 1), holdUntil: NOW + 500 }],
    ["a hold that is over", seen(), timers({ idleSince: long, holdUntil: NOW }), {}, { ...ready(long, NOW), holdUntil: null }],
    ["a clock that was set back", seen(), timers({ idleSince: NOW + 9_000_000 }), {}, countdown(NOW)],
    ["running since a time to come", seen(), NO_TIMERS, { runningSince: NOW + 9_000_000 }, countdown(NOW)],
    ["the same, and idle for long enough", seen(), timers({ idleSince: long }), { runningSince: NOW + 9_000_000 }, ready(long)],
    ["an exec at a time to come", seen({ other: { open: 0, lastAt: NOW + 9_000_000 } }), timers({ idleSince: long, lastActivity: NOW + 9_000_000 }), {}, { ...ready(long), lastInboundActivityAt: null }],
    ["held by a clock that was set back", seen(), timers({ idleSince: long, holdUntil: NOW + 9_000_000 }), {}, { ...countdown(long, NOW + TIMEOUT), holdUntil: NOW + TIMEOUT }],
  ])("%s", (_, saw, before, change, status) => {
    const decision = decide(candidate(change), saw, before, NOW);
    expect(decision.status).toMatchObject({ eligible: true, configured: true, enabled: true, supported: true, idleTimeoutMs: TIMEOUT, ...status });
    expect(decision.due).toBe(status.status === "ready_for_standby");
    expect(decision.timers.idleSince).toBe(decision.status.idleSince);
    expect(decision.timers.holdUntil).toBe(before.holdUntil && Math.min(before.holdUntil, NOW + TIMEOUT));
  });
});
