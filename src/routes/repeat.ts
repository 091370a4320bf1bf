// The contract's client repeats a request that it got no answer to, with no idempotency key; it only counts.
import { ok } from "neverthrow";
import type { Res } from "../errors.ts";

/** True where the client says that it has sent this request before. */
export const isRepeat = (request: Request): boolean => Number(request.headers.get("x-stainless-retry-count") ?? 0) > 0;

/**
 * A repeat whose outcome already holds is answered with success: `holds` finds that outcome (null: it doesn't hold)
 * where the verb failed. A first attempt keeps its error.
 */
export function forgiveRepeat<T>(request: Request, result: Res<T>, holds: () => T | null): Res<T> {
  if (result.isOk() || !isRepeat(request)) return result;
  const outcome = holds();
  return outcome === null ? result : ok(outcome);
}
