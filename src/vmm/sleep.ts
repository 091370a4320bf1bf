// Whether the guest of this monitor runs, and the ways between: pause, save, being called off, resume, and waking after a restore.
import { realtimeNs } from "../ffi/clock.ts";
import type { Epoll } from "../ffi/epoll.ts";
import type { Pair } from "../pairs.ts";
import type { Guest } from "./guest.ts";
import { Frame, type SaveParams, type SaveResult, type VmmStatus, type WakeIdentity } from "./protocol.ts";
import type { Record } from "./record.ts";
import { FileWriter } from "./snapshot/file-writer.ts";
import { Save } from "./snapshot/save.ts";
import { ClockOffset } from "./snapshot/clock.ts";
import { wakePairs } from "./snapshot/wake.ts";

/** Before it acknowledges a thaw, a woken guest writes files; its disk may be slow. */
const THAW_TIMEOUT_MS = 30_000;

/**
 * A guest's clock is behind by the way of what it was told. The first word waits until the guest runs at all, which takes long where much
 * of its memory must be read or its instructions are emulated. Where it may be off by more than this, it is asked the time until the answers
 * say as well as that what to take from its clock, or so often: on a host that is overloaded, each is on its way for half a second.
 */
const CLOCK_OFF_NS = 20_000_000n;
const CLOCK_QUESTIONS = 8;

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

/** Of a WAKE: what the guest is to do, and what it is told for that. */
type Word = readonly [what: string, pairs: readonly Pair[]];
type Settle<T> = (result: T | null, error: string) => void;

export class Sleep {
  private state: State = "awake";
  private save: Save | null = null;
  /** From the first save on: its Worker starts while the guest freezes. */
  private writer: FileWriter | null = null;
  /** Those who asked that the guest runs on. */
  private waiting: Settle<VmmStatus>[] = [];

  /** `now`: the time of day in nanoseconds. */
  constructor(private readonly guest: Guest, private readonly host: SleepHost, private readonly now: () => bigint = realtimeNs) {}

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
    const writer = (this.writer ??= new FileWriter(epoll));
    const save = new Save(this.guest, params, files, {
      epoll, pagemapFd, writer,
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
    if (devices.agent) this.setClock(["be who it is", wakePairs(identity, this.now())], deadlineMs, done);
    machine.resume();
    running();
    if (!devices.agent) done(null);
  }

  /** A first word that sets the clock, and what it takes until that is right or can't be told better. `known`: by answers before this, the nth. */
  private setClock([what, pairs]: Word, deadlineMs: number, done: (error: string | null) => void, known: ClockOffset | null = null, nth = 1): void {
    const { agent } = this.guest, asked = this.now();
    agent.request(Frame.WAKE, what, pairs, deadlineMs, (error, answer) => {
      const offset = ClockOffset.heard(answer, asked, this.now())?.and(known) ?? null;
      if (error !== null || offset === null || offset.worst <= CLOCK_OFF_NS) return done(error);
      if (offset.doubt > CLOCK_OFF_NS && nth < CLOCK_QUESTIONS) return this.setClock(["say the time", []], deadlineMs, done, offset, nth + 1);
      agent.request(Frame.WAKE, "shift its clock", [["offset_ns", String(-offset.middle)]], deadlineMs, done);
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
