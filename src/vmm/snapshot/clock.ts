// How far a woken guest's clock is off, from questions that each say a little: it answered some time after it was asked and before it was
// heard, so its clock is off by what lies between the two differences. All answers together say more than the fastest of them.
import { pairValue, type Pair } from "../../pairs.ts";

/** Nanoseconds; positive where the guest's clock is ahead. */
export class ClockOffset {
  private constructor(private readonly least: bigint, private readonly most: bigint) {}

  /** From one answer, by the host's clock; null where it does not tell the time. */
  static heard(answer: readonly Pair[], askedNs: bigint, heardNs: bigint): ClockOffset | null {
    const text = pairValue(answer, "realtime_ns") ?? "";
    return /^\d{1,19}$/.test(text) ? new ClockOffset(BigInt(text) - heardNs, BigInt(text) - askedNs) : null;
  }

  /** With what an answer before this said. Where both can't be true one of the clocks was set in between, and only this counts. */
  and(before: ClockOffset | null): ClockOffset {
    if (before === null || before.least > this.most || before.most < this.least) return this;
    return new ClockOffset(before.least > this.least ? before.least : this.least, before.most < this.most ? before.most : this.most);
  }

  /** By how much it may be off at most, either way. */
  get worst(): bigint { return this.most > -this.least ? this.most : -this.least; }
  /** By how much it may be off at most once `middle` has been taken from it. */
  get doubt(): bigint { return (this.most - this.least) / 2n; }
  get middle(): bigint { return (this.most + this.least) / 2n; }
}
