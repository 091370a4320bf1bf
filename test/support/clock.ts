// A clock that only a test turns.
import type { Clock } from "../../src/host/clock.ts";

export class ManualClock implements Clock {
  private readonly timers = new Set<{ at: number; readonly run: () => void }>();
  /** What advance() goes on to. */
  private end = 0;
  constructor(private time = 1_700_000_000_000) {}

  now(): number {
    return this.time;
  }

  after(ms: number, run: () => void): () => void {
    const timer = { at: this.time + Math.max(0, ms), run };
    this.timers.add(timer);
    return () => void this.timers.delete(timer);
  }

  /** Lets `ms` pass: timers run in the order in which they are due, at their time. */
  advance(ms: number): void {
    this.end = this.time + ms;
    for (;;) {
      const next = [...this.timers].filter((timer) => timer.at <= this.end).toSorted((a, b) => a.at - b.at)[0];
      if (next === undefined) break;
      this.timers.delete(next);
      this.time = Math.max(this.time, next.at);
      next.run();
    }
    this.time = this.end;
  }

  /** It is set forward or back: that makes no timer due sooner or later. */
  jump(ms: number): void {
    this.time += ms;
    this.end += ms;
    for (const timer of this.timers) timer.at += ms;
  }

  /** Timers that are set. */
  get waiting(): number {
    return this.timers.size;
  }
}
