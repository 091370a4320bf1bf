// Time as the domains that wait for it see it, so that their tests can turn it by hand.

export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Calls `run` once, in about `ms` (of a long wait, sooner: look at now() again); the answer calls it off. */
  after(ms: number, run: () => void): () => void;
}

/** setTimeout() takes 31 bits, and fires at once for more. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => Date.now(),
  after(ms, run) {
    const timer = setTimeout(run, Math.min(Math.max(ms, 0), MAX_TIMEOUT_MS));
    return () => clearTimeout(timer);
  },
};
