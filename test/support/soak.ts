// An instance of the image `soak`, asked over its port. Every question is asked once: it runs, so it must answer.
import { page } from "./request.ts";
import { until } from "./until.ts";

const PORT = 8000;
/** Questions over which the clocks are compared: the fastest says most. */
const CLOCK_SAMPLES = 5;

export interface SoakState {
  readonly errors: readonly string[];
  /** Of everything that goes on in there; each only grows. */
  readonly counts: Readonly<Record<string, number>>;
  readonly boot_id: string;
}
export interface Drawn {
  readonly urandom: string;
  readonly getrandom: string;
  readonly own: string;
  readonly hosts: string;
  readonly hostname: string;
  readonly hostname_file: string;
  readonly address: string;
}

export class Soak {
  constructor(readonly ip: string) {}

  private async ask<T>(path: string): Promise<T> { return JSON.parse(await page(this.ip, PORT, path)) as T; }

  /** For an instance that has just been booted. */
  async ready(): Promise<SoakState> { return until("the soak program", () => this.state()); }
  state(): Promise<SoakState> { return this.ask("/state"); }
  /** Reads all memory and the whole file in there. */
  check(): Promise<SoakState> { return this.ask("/check"); }
  /** When each timer fired, milliseconds since the epoch by the guest's clock. */
  timers(): Promise<Readonly<Record<string, readonly number[]>>> { return this.ask("/timers"); }
  draw(): Promise<Drawn> { return this.ask("/draw"); }
  arm(id: string, clock: "realtime" | "monotonic" | "boottime", ms: number): Promise<void> { return this.ask(`/timer?id=${id}&clock=${clock}&ms=${ms}`); }

  /** Waits until everything has gone on from `before`; throws what the program found wrong. */
  async goesOnFrom(before: SoakState): Promise<SoakState> {
    const wrong = (now: SoakState) => now.errors.length > 0 || now.boot_id !== before.boot_id;
    const stuck = (now: SoakState) => Object.entries(before.counts).filter(([name, count]) => (now.counts[name] ?? 0) <= count).map(([name]) => name);
    const after = await until("the soak program to go on", async () => {
      const now = await this.state();
      if (wrong(now)) return now;
      if (stuck(now).length > 0) throw new Error(`these do not: ${stuck(now).join(", ")}`);
      return now;
    });
    if (wrong(after)) throw new Error(`The soak program lost something: ${after.errors.join("; ") || "it was booted anew"}`);
    return after;
  }

  /** How far the guest's clock is from ours, at least: 0 where it may be right. In milliseconds, positive where it is ahead. */
  async clockError(): Promise<number> {
    let best = { tookMs: Infinity, error: 0 };
    for (let i = 0; i < CLOCK_SAMPLES; i++) {
      const asked = Date.now();
      const guest = await this.ask<number>("/now");
      const answered = Date.now() + 1; // whole milliseconds
      const error = guest < asked ? guest - asked : Math.max(0, guest - answered);
      if (answered - asked < best.tookMs) best = { tookMs: answered - asked, error };
    }
    return best.error;
  }
}
