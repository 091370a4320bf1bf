// Waiting for a condition. Never for a time: the limit is only there so that a hang has an end and a name.
const STEP_MS = 50;

/** Repeats `attempt` until it returns something other than null, undefined or false. What it throws counts as "not yet", and is told at the end. */
export async function until<T>(what: string, attempt: () => Promise<T | null | undefined | false> | T | null | undefined | false, limitMs = 120_000): Promise<T> {
  const end = performance.now() + limitMs;
  let last: unknown;
  do {
    try {
      const value = await attempt();
      if (value !== null && value !== undefined && value !== false) return value;
    } catch (error) {
      last = error;
    }
    await Bun.sleep(STEP_MS);
  } while (performance.now() < end);
  const why = last === undefined ? "" : `: ${last instanceof Error ? last.message : String(last)}`;
  throw new Error(`Gave up waiting for ${what} after ${limitMs / 1000} s${why}`);
}

/**
 * The page at `url`, once its server answers: an instance is Running when its program was started, which opens its port a moment later.
 * Only for that: what was served once must be served without asking twice.
 */
export const served = (url: string): Promise<string> => until(`${url} to be served`, async () => {
  const answer = await fetch(url, { keepalive: false, headers: { connection: "close" } }); // or the connection stays, as a visitor
  if (!answer.ok) throw new Error(`it answers ${answer.status}`);
  return answer.text();
});
