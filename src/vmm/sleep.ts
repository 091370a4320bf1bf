// Whether the guest of this monitor runs, and the ways between: pause, save, being called off, resume, and waking after a restore.
import type { Epoll } from "../ffi/epoll.ts";
import type { Pair } from "../pairs.ts";
import type { Guest } from "./guest.ts";
import { Frame, type SaveParams, type SaveResult, type VmmStatus, type WakeIdentity } from "./protocol.ts";
import type { Record } from "./record.ts";
import { Save } from "./snapshot/save.ts";
import { timePairs, wakePairs } from "./snapshot/wake.ts";

/** Before it acknowledges a thaw, a woken guest writes files; its disk may be slow. */
const THAW_TIMEOUT_MS = 30_000;

/**
 * A guest's clock is behind by the way of what it was told. The first word waits until the guest runs at all, which takes long where much
 * of its memory must be read or its instructions are emulated: it is told again until the time between word and answer says that it can't
 * be off by more than this, or so often. If the second answer took long too, that is what a word takes here: half of it is added to the next.
 */
const CLOCK_OFF_MS = 20;
const CLOCK_TELLINGS = 5;

/**
 * `gated`: restored, it runs with its gates shut and its workload frozen. `thawing`: it runs, its workload does not yet;
 * `frozen`: nor did it after having been asked.
 */
type State = "awake" | "paused" | "saving" | "saved" | "gated" | "thawing" | "frozen";

export interface SleepHost {
  readonly epoll: Epoll;
  readonly pagemapFd: number;
  readonly record: Record;
  deaf(): void;
}

interface Telling { readonly nth: number; readonly aheadMs: number }
type Settle<T> = (result: T | null, error: string) => void;

export class Sleep {
  private state: State = "awake";
  private save: Save | null = null;
  /** Those who asked that the guest runs on. */
  private waiting: Settle<VmmStatus>[] = [];

  /** `now`: milliseconds of any clock that only goes on. */
  constructor(private readonly guest: Guest, private readonly host: SleepHost, private readonly now: () => number = () => performance.now()) {}

  pause(done: () => void): void {
    if (this.state !== "awake" && this.state !== "paused") throw new Error(`Cannot pause the guest: it is ${this.state}`);
    this.state = "paused";
    this.guest.machine.pause(() => {
      this.host.record.paused();
      done();
    });
  }

  /** Owns the descriptors. */
  saveTo(params: SaveParams, files: { readonly machine: number; readonly memory: number }, done: Settle<SaveResult>): void {
    const { record, epoll, pagemapFd } = this.host;
    this.state = "saving";
    const save = new Save(this.guest, params, files, {
      epoll, pagemapFd,
      get status() { return record.status; },
      deaf: () => this.host.deaf(),
      paused: () => record.paused(),
      done: (result, error) => {
        this.save = null;
        if (result !== null) {
          this.state = "saved";
          return done(result, "");
        }
        this.undo(save.reached, (problem) => done(null, problem === null ? error : `${error}; then ${problem}`));
      },
    });
    this.save = save;
    save.begin();
  }

  /** Why it can't be saved now; null if it can. */
  refusal(base: string | null): string | null {
    const over = this.guest.chain.ids[0] ?? null;
    if (this.state !== "awake") return `Cannot save the machine: it is ${this.state}`;
    if (base !== null && base !== over) return `Cannot save the machine as a delta over ${base}: its memory is ${over ?? "nobody's"}${over === null ? "" : "'s"}`;
    return null;
  }

  cancelSave(): void { this.save?.cancel(); }

  /** Lets it run, whatever kept it from that, and answers once its workload does too. */
  resume(done: Settle<VmmStatus>): void {
    const { state } = this;
    if (state === "awake") return done(this.host.record.status, "");
    this.waiting.push(done);
    if (state === "saving") this.save?.cancel();
    else if (state === "paused") this.goOn(false);
    else if (state === "saved") {
      this.guest.devices.resume();
      this.goOn(true);
    } else if (state === "gated") {
      this.guest.devices.openGates();
      this.thaw(true);
    } else if (state === "frozen") this.thaw(true);
  }

  /** A restored guest, gates shut and devices in place, begins to run and is told who it is. `done` hears null once it has said so. */
  wake(identity: WakeIdentity, deadlineMs: number, running: () => void, done: (error: string | null) => void): void {
    const { machine, devices } = this.guest;
    this.state = "gated";
    if (devices.agent) this.tell("be who it is", wakePairs(identity), { nth: 1, aheadMs: 0 }, deadlineMs, done);
    machine.resume();
    running();
    if (!devices.agent) done(null);
  }

  /** `aheadMs`: by how much the time among the pairs is later than it is. */
  private tell(what: string, pairs: readonly Pair[], { nth, aheadMs }: Telling, deadlineMs: number, done: (error: string | null) => void): void {
    const asked = this.now();
    this.guest.agent.request(Frame.WAKE, what, pairs, deadlineMs, (error) => {
      const wayMs = this.now() - asked; // set at some moment of it, so the clock is ahead by at most aheadMs, or behind by what is left
      if (error !== null || nth === CLOCK_TELLINGS || Math.max(aheadMs, wayMs - aheadMs) <= CLOCK_OFF_MS) return done(error);
      const next = { nth: nth + 1, aheadMs: nth === 1 ? 0 : wayMs / 2 };
      this.tell("set its clock", timePairs(next.aheadMs), next, deadlineMs, done);
    });
  }

  private undo(reached: Save["reached"], done: (error: string | null) => void): void {
    this.waiting.push((_status, error) => done(error === "" ? null : error));
    if (reached === "deaf" || reached === "paused") this.guest.devices.resume();
    if (reached === "paused") this.goOn(this.guest.devices.agent);
    else this.thaw(reached !== "begun" && this.guest.devices.agent);
  }

  private goOn(frozen: boolean): void {
    this.guest.machine.resume();
    this.thaw(frozen);
  }

  private thaw(frozen: boolean): void {
    this.state = "thawing";
    if (!frozen || !this.guest.devices.agent) return this.awake(null);
    this.guest.agent.request(Frame.THAW, "thaw its workload", [], THAW_TIMEOUT_MS, (error) => this.awake(error));
  }

  private awake(error: string | null): void {
    this.state = error === null ? "awake" : "frozen";
    if (error === null && this.host.record.status.state === "paused") this.host.record.resumed();
    for (const settle of this.waiting.splice(0)) settle(error === null ? this.host.record.status : null, error ?? "");
  }
}
