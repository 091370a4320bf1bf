// One flight for each key: whoever asks while it is under way shares it, and it is called off when the last one leaves.

interface Flight<T> { readonly promise: Promise<T>; readonly controller: AbortController; members: number }

export class SharedFlights<T> {
  private readonly flights = new Map<string, Flight<T>>();
  /** Ends of flights that were called off and still clean up: the next one of their key would be at the same files. */
  private readonly leaving = new Map<string, Promise<void>>();

  has(key: string): boolean {
    return this.flights.has(key);
  }

  /** Starts the flight of `key`, or joins it. Rejects with the signal's reason when this caller's `signal` aborts. */
  async join(key: string, signal: AbortSignal, start: (signal: AbortSignal) => Promise<T>): Promise<T> {
    signal.throwIfAborted();
    const flight = this.flights.get(key) ?? this.begin(key, start);
    flight.members++;
    const { promise: left, reject } = Promise.withResolvers<never>();
    const leave = (): void => {
      const gone = (): void => reject(signal.reason);
      if (--flight.members > 0) return gone();
      // Out of the table at once: a later caller must not join a flight that is being called off.
      if (this.flights.get(key) === flight) this.flights.delete(key);
      this.clear(key, flight);
      flight.controller.abort(signal.reason);
      // The last one to leave waits until the flight has cleaned up.
      flight.promise.then(gone, gone);
    };
    signal.addEventListener("abort", leave, { once: true });
    try {
      return await Promise.race([flight.promise, left]);
    } finally {
      signal.removeEventListener("abort", leave);
      if (!signal.aborted) flight.members--;
    }
  }

  private clear(key: string, { promise }: Flight<T>): void {
    const cleared = promise.then(() => {}, () => {}).then(() => {
      if (this.leaving.get(key) === cleared) this.leaving.delete(key);
    });
    this.leaving.set(key, cleared);
  }

  private begin(key: string, start: (signal: AbortSignal) => Promise<T>): Flight<T> {
    const controller = new AbortController(), before = this.leaving.get(key);
    const started = before === undefined ? start(controller.signal) : before.then(() => (controller.signal.throwIfAborted(), start(controller.signal)));
    const promise = started.finally(() => {
      if (this.flights.get(key) === flight) this.flights.delete(key);
    });
    const flight: Flight<T> = { promise, controller, members: 0 };
    // A flight whose members have all left rejects with nobody listening.
    promise.catch(() => undefined);
    this.flights.set(key, flight);
    return flight;
  }
}

/** At most `size` at a time, first come first served. */
export class Slots {
  private free: number;
  private readonly waiting: { readonly signal: AbortSignal; readonly go: () => void }[] = [];

  constructor(size: number, private readonly onQueueChange: () => void = () => {}) {
    this.free = size;
  }

  /** 1 for the next in line, null for who does not wait. */
  position(signal: AbortSignal): number | null {
    const index = this.waiting.findIndex((entry) => entry.signal === signal);
    return index < 0 ? null : index + 1;
  }

  /** Runs `work` once there is room; rejects with the signal's reason if it aborts before. */
  async run<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    await this.enter(signal);
    try {
      return await work();
    } finally {
      this.release();
    }
  }

  private enter(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.free > 0) {
      this.free--;
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.waiting.splice(this.waiting.indexOf(entry), 1);
        reject(signal.reason);
        this.onQueueChange();
      };
      const entry = {
        signal,
        go: () => {
          signal.removeEventListener("abort", onAbort);
          resolve();
        },
      };
      signal.addEventListener("abort", onAbort, { once: true });
      this.waiting.push(entry);
      this.onQueueChange();
    });
  }

  private release(): void {
    const next = this.waiting.shift();
    if (next === undefined) this.free++;
    else {
      next.go();
      this.onQueueChange();
    }
  }
}
