// Lifecycle verbs of one instance run one after another; the same verb already under way or waiting last is joined.

interface Flight { readonly verb: string; readonly result: Promise<unknown> }

export class Lanes {
  private readonly lanes = new Map<string, Flight[]>();
  private readonly listeners = new Set<(key: string) => void>();

  /**
   * Runs `work` once everything before it on `key` has ended. A `verb` that is the last in line already is joined
   * instead: its answer is this one's too. Names of verbs are chosen so that equal ones have equal answers.
   */
  run<T>(key: string, verb: string, work: () => Promise<T>): Promise<T> {
    const lane = this.lanes.get(key) ?? [];
    const last = lane.at(-1);
    if (last?.verb === verb) return last.result as Promise<T>;
    const before = last === undefined ? Promise.resolve() : last.result.then(ignore, ignore);
    const result = before.then(work);
    const flight: Flight = { verb, result };
    lane.push(flight);
    this.lanes.set(key, lane);
    const leave = () => {
      lane.splice(lane.indexOf(flight), 1);
      if (lane.length === 0) this.lanes.delete(key);
      for (const listener of this.listeners) listener(key);
    };
    result.then(leave, leave);
    return result;
  }

  /** Verbs of `key` that run or wait. */
  verbs(key: string): string[] {
    return (this.lanes.get(key) ?? []).map((flight) => flight.verb);
  }

  /** Calls `listener` with the key of each verb that has ended and is among verbs() no longer; it must not throw. Returns the end of it. */
  subscribe(listener: (key: string) => void): () => void {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }

  /** Resolves once the `verb`s of `key` that run or wait now have ended, however. */
  async settled(key: string, verb: string): Promise<void> {
    await Promise.allSettled((this.lanes.get(key) ?? []).filter((flight) => flight.verb === verb).map((flight) => flight.result));
  }

  /** Resolves once nothing runs or waits on `key`. */
  async idle(key: string): Promise<void> {
    for (let lane = this.lanes.get(key); lane !== undefined; lane = this.lanes.get(key)) await Promise.allSettled(lane.map((flight) => flight.result));
  }

  /** Resolves once nothing runs or waits at all. */
  async allIdle(): Promise<void> {
    while (this.lanes.size > 0) await Promise.all([...this.lanes.keys()].map((key) => this.idle(key)));
  }
}

/** Whoever asked for that verb has its outcome; here only its end counts. */
const ignore = () => undefined;
