// What the daemon does with nobody waiting for the outcome: a timer was due, a descriptor was ready, something begun earlier has ended.
// What is thrown there would end the daemon. It ends here instead: in the log, with its cause; and whatever comes round is tried again.
import { describeError, type Logger } from "../log.ts";
import type { Clock } from "./clock.ts";

/** Hears of what nobody waits for; `what` follows on "Cannot". */
export type Unheard = (what: string, error: unknown) => void;

/** With stacks: what is no failure of the database (a full disk, mostly) is a bug. */
export const unheardBy = (log: Pick<Logger, "error">): Unheard => (what, error) => log.error("background.failed", { error: `Cannot ${what}`, cause: describeError(error, true) });

/** For whoever gives no other: an error is its caller's, as everywhere. */
export const rethrow: Unheard = (_, error) => { throw error; };

/** Work that comes round, from a timer or because somebody asks for it. A round that throws is told of, and repeated after `retryMs`. */
export class Rounds {
  private unset = () => {};
  private stopped = false;

  /** `work` answers in how many milliseconds it is due again; null: not before it is asked for. */
  constructor(private readonly clock: Clock, private readonly retryMs: number, private readonly work: () => number | null, private readonly failed: (error: unknown) => void) {}

  /** A round in `ms` from now, instead of when it was due. */
  in(ms: number): void {
    if (this.stopped) return;
    this.unset();
    this.unset = this.clock.after(ms, () => this.now());
  }

  /** A round at once. Throws nothing. */
  now(): void {
    if (this.stopped) return;
    this.unset();
    const next = this.round();
    if (next !== null) this.in(next);
  }

  stop(): void {
    this.stopped = true;
    this.unset();
  }

  private round(): number | null {
    try {
      return this.work();
    } catch (error) {
      this.failed(error);
      return this.retryMs;
    }
  }
}

/** The last resort, for what has come past all else: nobody knows what it left half-done. Guests run on, and the next daemon settles what it finds. */
export function endOnCrash(log: Pick<Logger, "error">): void {
  const crashed = (error: unknown) => {
    log.error("serve.crashed", { cause: describeError(error, true) });
    process.exit(CRASHED);
  };
  process.on("uncaughtException", crashed).on("unhandledRejection", crashed);
}

/** EX_SOFTWARE, sysexits.h. */
const CRASHED = 70;
