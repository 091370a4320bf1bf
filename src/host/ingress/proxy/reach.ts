// Gets a request to its instance: waits for one that starts, wakes one that sleeps (once, however many ask), connects, and is
// patient with a closed port only while the instance has just come up. Says why where it can't.
import type { Logger } from "../../../log.ts";
import { describeError } from "../../../log.ts";
import type { DormouseError } from "../../../errors.ts";
import type { Instance, InstanceService, InstanceState } from "../../instances/service.ts";
import type { Wake } from "../service.ts";
import { NoConnection, type Pool, Upstream } from "./upstream.ts";

export interface Timing {
  /** The longest that a request is held. */
  readonly holdMs: number;
  /** How long one attempt to connect may take. */
  readonly connectMs: number;
  /** How long after an instance has come up a closed port may be one that is not open yet. */
  readonly graceMs: number;
  /** How long answers under way may take when the daemon ends. */
  readonly drainMs: number;
  /** How long the head of a request may take to come, from its first byte to its last. */
  readonly headS: number;
}
export const TIMING: Timing = { holdMs: 60_000, connectMs: 10_000, graceMs: 15_000, drainMs: 5_000, headS: 30 };

/** Why a request can't be served, in words for whoever sent it: no path, no address, no secret. */
export interface Unreachable {
  readonly status: 502 | 503 | 504;
  readonly message: string;
  /** Where asking again may help. */
  readonly retryAfterS: number | null;
}
export type Reached = Upstream | Unreachable | "aborted";

interface Deps {
  readonly instances: Pick<InstanceService, "get" | "subscribe">;
  /** The instance where it runs, without a look at the record. */
  readonly running: (id: string) => Instance | null;
  readonly wake: Wake;
  readonly pool: Pool;
  readonly log: Logger;
  readonly timing: Timing;
}

/** Between attempts to connect. */
const RETRY_FIRST_MS = 10, RETRY_MAX_MS = 250;
/** A wake that says it worked and leaves the instance asleep is not tried for ever. */
const WAKES_MAX = 3;
const RETRY_AFTER_S = 5;

const unreachable = (status: Unreachable["status"], message: string, retryAfterS: number | null = null): Unreachable => ({ status, message, retryAfterS });
const COMING: readonly InstanceState[] = ["Created", "Initializing"];
const ASLEEP: readonly InstanceState[] = ["Standby", "Paused"];

export class Reach {
  private readonly flights = new Map<string, Promise<Unreachable | null>>();
  constructor(private readonly deps: Deps) {}

  /** `reuse`: a kept connection will do. */
  async to(id: string, port: number, reuse: boolean, signal: AbortSignal): Promise<Reached> {
    try {
      return await this.find(id, port, reuse, signal);
    } catch (error) {
      this.deps.log.error("ingress.blind", { instance: id, error: describeError(error, true) });
      return unreachable(503, "its instance can't be looked up; the daemon's log says why", RETRY_AFTER_S);
    }
  }

  private async find(id: string, port: number, reuse: boolean, signal: AbortSignal): Promise<Reached> {
    const { instances, pool, timing } = this.deps;
    const deadline = performance.now() + timing.holdMs;
    for (let wakes = 0, delay = RETRY_FIRST_MS, first = true; ; first = false) {
      if (signal.aborted) return "aborted";
      const instance = (first ? this.deps.running(id) : null) ?? instances.get(id).unwrapOr(null);
      if (instance === null) return unreachable(502, "its instance is gone");
      if (instance.state !== "Running") {
        if (ASLEEP.includes(instance.state) && ++wakes > WAKES_MAX) return unreachable(503, "its instance falls asleep again and again", RETRY_AFTER_S);
        const up = await this.up(instance, deadline, signal);
        if (up !== null) return up;
        continue;
      }
      if (instance.ip === null) return unreachable(502, "its instance has no network");
      const kept = reuse ? pool.take(id, instance.ip, port) : null;
      if (kept !== null) return kept;
      const left = deadline - performance.now();
      const connected = await pool.connect(id, instance.ip, port, Math.max(1, Math.min(left, timing.connectMs)), signal);
      if (connected instanceof Upstream) return connected;
      const why = this.refused(id, port, connected, deadline);
      if (why !== null) return why;
      await within(Bun.sleep(delay), deadline, signal);
      delay = Math.min(delay * 2, RETRY_MAX_MS);
    }
  }

  /** Null: it is worth another attempt. */
  private refused(id: string, port: number, { code }: NoConnection, deadline: number): Unreachable | "aborted" | null {
    if (code === "aborted") return "aborted";
    const now = this.deps.instances.get(id);
    // It went to sleep or ended meanwhile: the next round sees to it.
    if (now.isOk() && now.value.state !== "Running" && performance.now() < deadline) return null;
    if (code === "busy" && performance.now() < deadline) return null;
    if (code === "busy") return unreachable(503, "too many connections to its instance are being opened", RETRY_AFTER_S);
    if (code === "timeout") return unreachable(504, `its instance does not take the connection to port ${port}`, RETRY_AFTER_S);
    // Also ahead of the clock, which may have been set back: that is not for ever just now.
    const justUp = now.isOk() && Math.abs(Date.now() - now.value.phaseSince) < this.deps.timing.graceMs;
    if (justUp && performance.now() < deadline) return null;
    return unreachable(502, code === "ECONNREFUSED" ? `nothing listens on port ${port} of its instance` : `its instance can't be connected to on port ${port}`);
  }

  /** Null once its state has changed. */
  private async up(instance: Instance, deadline: number, signal: AbortSignal): Promise<Unreachable | "aborted" | null> {
    const { id, state } = instance;
    if (ASLEEP.includes(state)) {
      const woken = await within(this.wake(instance), deadline, signal);
      return woken === "late" ? unreachable(504, "its instance sleeps and took too long to wake", RETRY_AFTER_S) : woken;
    }
    if (!COMING.includes(state)) return unreachable(503, `its instance is ${state}`);
    const changed = Promise.withResolvers<null>();
    const unsubscribe = this.deps.instances.subscribe((one) => { if (one.id === id && one.state !== state) changed.resolve(null); });
    const outcome = await within(changed.promise, deadline, signal);
    unsubscribe();
    return outcome === "late" ? unreachable(504, "its instance takes too long to start", RETRY_AFTER_S) : outcome;
  }

  private wake({ id, name }: Instance): Promise<Unreachable | null> {
    const flight = this.flights.get(id) ?? this.deps.wake(id).match(() => null, (error) => this.wakeFailed(name, error)).finally(() => this.flights.delete(id));
    this.flights.set(id, flight);
    return flight;
  }

  private wakeFailed(name: string, error: DormouseError): Unreachable {
    this.deps.log.warn("ingress.wake_failed", { instance: name, code: error.code, error: describeError(error) });
    if (error.code === "instance.invalid_state") return unreachable(503, "its instance sleeps, and requests don't wake it");
    if (error.code === "instance.not_found") return unreachable(502, "its instance is gone");
    const later = error.code === "snapshot.damaged" || error.code === "snapshot.incompatible" ? null : Math.ceil((error.retryAfterMs ?? RETRY_AFTER_S * 1000) / 1000);
    return unreachable(503, "its instance sleeps and could not be woken; the daemon's log says why", later);
  }
}

/** What `promise` brings, unless the deadline or the end of the wish comes first. */
async function within<T>(promise: Promise<T>, deadline: number, signal: AbortSignal): Promise<T | "late" | "aborted"> {
  const { promise: cut, resolve } = Promise.withResolvers<"late" | "aborted">();
  const timer = setTimeout(() => resolve("late"), Math.max(0, deadline - performance.now()));
  const onAbort = () => resolve("aborted");
  signal.addEventListener("abort", onAbort);
  try {
    return await Promise.race([promise, cut]);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
}
