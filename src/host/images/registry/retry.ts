// Repeats what a busy or broken network spoils: pauses that double, with jitter, until there was no progress too often.
import type { ImageLimits } from "../limits.ts";

/** A failure that may pass by itself; `afterMs` is what the server asked for. */
export class TransientError extends Error {
  override readonly name = "TransientError";
  constructor(message: string, readonly afterMs: number | null = null, cause?: unknown) {
    super(message, { cause });
  }
}

/** A server may ask for a pause of at most this. */
const MAX_PAUSE_MS = 30_000;

export interface RetryOptions { readonly limits: ImageLimits; readonly signal: AbortSignal }

/**
 * Calls `attempt` until it returns or throws something else than TransientError. `progress` is read before and after:
 * an attempt that got further counts as a first one. Throws the last TransientError, or the signal's reason.
 */
export async function retrying<T>({ limits, signal }: RetryOptions, attempt: () => Promise<T>, progress: () => number = () => 0): Promise<T> {
  let fruitless = 0;
  for (;;) {
    signal.throwIfAborted();
    const before = progress();
    try {
      return await attempt();
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof TransientError)) throw error;
      fruitless = progress() > before ? 1 : fruitless + 1;
      if (fruitless >= limits.attempts) throw error;
      await pause(pauseMs(limits.retryDelayMs, fruitless, error.afterMs), signal);
    }
  }
}

function pauseMs(first: number, fruitless: number, asked: number | null): number {
  const own = first * 2 ** (fruitless - 1) * (0.5 + Math.random());
  return Math.min(Math.max(own, asked ?? 0), MAX_PAUSE_MS);
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    signal.addEventListener("abort", onAbort, { once: true });
  });
}

/** RFC 9110 Retry-After: seconds or a date. */
export function retryAfterMs(value: string | null): number | null {
  if (value === null) return null;
  const ms = /^[0-9]+$/.test(value.trim()) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isFinite(ms) && ms > 0 ? ms : null;
}
