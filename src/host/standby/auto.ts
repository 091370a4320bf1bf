// Automatic standby: looks at all instances with an enabled policy at once, counts down, and asks for standby.
import { err, ok, ResultAsync } from "neverthrow";
import type { Connection } from "../../ffi/netlink/conntrack.ts";
import { fail, messageOf, wrap, type AsyncRes, type Res } from "../../errors.ts";
import { describeError, type Logger } from "../../log.ts";
import { Rounds } from "../background.ts";
import type { Clock } from "../clock.ts";
import type { AutoStandbyStatus } from "../snapshots/service.ts";
import type { Activity } from "./activity.ts";
import { decide, obstacle, withObstacle, type Candidate, type Decision, type Seen } from "./decide.ts";
import { Observer } from "./observe.ts";
import type { TimerStore } from "./timers.ts";

export interface AutoStandbyDeps {
  /** Instances whose policy is enabled, in whatever state. Asked for once a look. */
  readonly enabled: () => readonly Candidate[];
  readonly find: (id: string) => Candidate | null;
  /** The kernel's table; may throw. */
  readonly connections: () => readonly Connection[];
  /** exec, cp, attach and requests of the ingress. */
  readonly otherActivity: (id: string) => Activity;
  /** The daemon's own connections to guests. */
  readonly ignored: (connection: Connection) => boolean;
  /** Puts one to sleep; `conflict` where it was called off. `calledOff` asks for that: it is heeded until the commit, and then means nothing. */
  readonly standby: (id: string, calledOff: AbortSignal) => AsyncRes<unknown>;
  readonly timers: TimerStore;
  readonly clock: Clock;
  /** Milliseconds that nobody sets forward or back: how long a look takes. */
  readonly elapsed?: () => number;
  readonly logger: Pick<Logger, "info" | "warn">;
}

const LOOK_EVERY_MS = 1_000, SOONEST_MS = 20;
/** A host with very many connections pays for each look: it may take at most a twentieth of the time. */
const REST_PER_LOOK = 20;
/** Standbys at once: each writes a guest's memory. The others stay due. */
const MOST_AT_ONCE = 4;
const SAY_AGAIN_MS = 10 * 60_000;

/** `done` resolves to whether it sleeps now. */
interface Attempt { readonly controller: AbortController; readonly done: Promise<boolean> }

export class AutoStandby {
  private readonly observer: Observer;
  private readonly seen = new Map<string, Seen>();
  private readonly attempts = new Map<string, Attempt>();
  private readonly rounds: Rounds;
  private blindSince: number | null = null;
  private saidBlindAt = -Infinity;

  constructor(private readonly deps: AutoStandbyDeps) {
    this.observer = new Observer(deps.ignored, deps.otherActivity);
    this.rounds = new Rounds(deps.clock, LOOK_EVERY_MS, () => this.tick(), (error) => this.sayBlind(error));
  }

  /** Begins to look; call it again whenever a policy was set or changed, or an instance with one came or went. */
  kick(): void {
    this.rounds.in(0);
  }

  /** Its policy is not enabled (any more): a standby that was asked for by it is called off. */
  switchedOff(id: string): void {
    this.attempts.get(id)?.controller.abort();
  }

  /** Looks no more. What was asked for already goes on, and is whoever's it was asked of. */
  close(): void {
    this.rounds.stop();
  }

  status(id: string): Res<AutoStandbyStatus> {
    const candidate = this.deps.find(id);
    if (candidate === null) return fail("instance.not_found", `Cannot tell the standby status of instance ${id}: there is none with this id`);
    return ok(this.statusOf(candidate));
  }

  /** Keeps it awake until now + its timeout, and calls off what is under way; `instance.in_standby` where that is too late. `called`: what a message calls it. */
  hold(id: string, called = id): AsyncRes<AutoStandbyStatus> {
    return new ResultAsync(this.holdNow(id, called));
  }

  private async holdNow(id: string, called: string): Promise<Res<AutoStandbyStatus>> {
    const { timers, clock } = this.deps;
    const candidate = this.deps.find(id);
    if (candidate === null) return fail("instance.not_found", `Cannot hold instance ${called}: there is none with this id`);
    if (candidate.policy?.enabled !== true) return ok(this.statusOf(candidate)); // nothing would put it to sleep
    if (candidate.state === "Standby") return asleep(called);
    try {
      timers.set(id, { ...timers.get(id), holdUntil: clock.now() + candidate.policy.idleTimeoutMs });
    } catch (error) {
      return err(wrap("host.storage", `Cannot hold instance ${called}`, error));
    }
    const attempt = this.attempts.get(id);
    attempt?.controller.abort();
    if (attempt !== undefined && await attempt.done) return asleep(called);
    return this.status(id);
  }

  private statusOf(candidate: Candidate): AutoStandbyStatus {
    const { timers, clock } = this.deps;
    const now = clock.now(), recorded = timers.get(candidate.id);
    const reason = obstacle(candidate) ?? (this.blindSince === null ? null : "observer_error");
    if (reason !== null) return withObstacle(candidate, reason, recorded, now);
    const seen = this.seen.get(candidate.id) ?? { open: 0, ended: 0 };
    const { status } = decide(candidate, { ...seen, other: this.deps.otherActivity(candidate.id) }, recorded, now);
    return this.attempts.has(candidate.id) ? { ...status, status: "standby_requested", reason: "ready_for_standby" } : status;
  }

  private tick(): number | null {
    const { clock, elapsed = () => performance.now() } = this.deps;
    const began = elapsed(), next = this.look();
    this.saySeeing();
    if (next === null) return null; // until somebody sets a policy, and says so
    return Math.max(Math.min(LOOK_EVERY_MS, next - clock.now()), SOONEST_MS, (elapsed() - began) * REST_PER_LOOK);
  }

  /** One look at all who may sleep; the answer is when the next of them is due, or null where no policy is enabled. */
  private look(): number | null {
    const { timers, clock } = this.deps;
    const enabled = this.deps.enabled(), candidates = enabled.filter((candidate) => obstacle(candidate) === null);
    timers.keep(new Set(enabled.map(({ id }) => id)));
    const awake = new Set(candidates.map(({ id }) => id));
    this.observer.keep(awake);
    for (const id of [...this.seen.keys()]) if (!awake.has(id)) this.seen.delete(id);
    if (enabled.length === 0) return null;
    if (candidates.length === 0) return Infinity;
    const seen = this.observer.observe(candidates, this.deps.connections());
    const now = clock.now();
    const decisions = candidates.map((one) => [one.id, decide(one, seen.get(one.id)!, timers.get(one.id), now)] as const);
    timers.setAll(decisions.map(([id, decision]) => [id, decision.timers] as const));
    for (const [id, one] of seen) this.seen.set(id, one);
    return decisions.reduce((next, [id, decision]) => Math.min(next, this.act(id, decision)), Infinity);
  }

  /** As rarely as it was said that it does not. */
  private saySeeing(): void {
    const since = this.blindSince;
    this.blindSince = null;
    if (since !== null && this.saidBlindAt >= since) this.deps.logger.info("auto_standby.sees_again", { blind_ms: this.deps.clock.now() - since });
  }

  private sayBlind(error: unknown): void {
    const now = this.deps.clock.now();
    this.blindSince ??= now;
    if (now - this.saidBlindAt < SAY_AGAIN_MS) return;
    this.saidBlindAt = now;
    this.deps.logger.warn("auto_standby.blind", { error: describeError(error), hint: "instances with auto_standby stay awake; the kernel needs NF_CT_NETLINK, and the daemon CAP_NET_ADMIN" });
  }

  /** Begins or calls off; the answer is when it is due, if it is counting down. */
  private act(id: string, decision: Decision): number {
    const attempt = this.attempts.get(id);
    if (attempt !== undefined) {
      if (!decision.due) attempt.controller.abort();
      return Infinity;
    }
    if (decision.due && this.attempts.size < MOST_AT_ONCE) this.begin(id);
    return decision.due ? Infinity : decision.status.nextStandbyAt ?? Infinity;
  }

  private begin(id: string): void {
    const controller = new AbortController();
    this.attempts.set(id, { controller, done: this.attempt(id, controller.signal) });
  }

  /** What it throws is a failure as any: nobody else would hear of it. */
  private async standby(id: string, calledOff: AbortSignal): Promise<Res<unknown>> {
    try {
      return await this.deps.standby(id, calledOff);
    } catch (error) {
      return err(wrap("internal", `Cannot put instance ${id} to sleep`, error));
    }
  }

  private async attempt(id: string, calledOff: AbortSignal): Promise<boolean> {
    const { timers, clock, logger } = this.deps;
    const outcome = await this.standby(id, calledOff);
    this.attempts.delete(id);
    if (outcome.isOk()) return true;
    const fields = { instance: id, error: messageOf(outcome.error) };
    if (outcome.error.code === "conflict") logger.info("auto_standby.called_off", fields);
    else logger.warn("auto_standby.failed", fields);
    try {
      // Also after a failure the whole time is waited: what failed would mostly fail again at once.
      timers.set(id, { ...timers.get(id), idleSince: clock.now() });
    } catch (error) {
      this.sayBlind(error);
    }
    return false;
  }
}

const asleep = (called: string) => fail("instance.in_standby", `Cannot hold instance ${called}: it is in standby, or past calling that off; restore it`);
