// Forks of one sleeping nginx: one alone, and 25 at once. From the request to the fork's first byte; what each costs in memory.
import { judged, figure, median, percentile, say, type Metrics } from "./metric.ts";
import { firstByte, prepareSleepers, rollupKib, Sleepers, type Sleeper } from "./sleepers.ts";

export const needsKvm = true;
export const prepare = prepareSleepers;

const FORKS = 25, SINGLES = 5;
const GOAL_P95 = 2, GOAL_MIB = 10;

interface Forked { readonly fork: Sleeper; readonly ms: number }

export async function run(): Promise<Metrics> {
  await using host = await Sleepers.start();
  const source = await host.create("source", "128MB");
  await host.standby(source);
  const single: number[] = [];
  for (let i = 0; i <= SINGLES; i++) {
    const { fork, ms } = await forked(host, source, `single-${i}`);
    say(`one fork: ${ms.toFixed(0)} ms${i === 0 ? " (warming up)" : ""}`);
    if (i > 0) single.push(ms);
    await host.remove(fork);
  }
  const settled = await Promise.allSettled(Array.from({ length: FORKS }, (_, i) => forked(host, source, `fork-${i}`)));
  const forks = settled.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
  for (const one of settled) if (one.status === "rejected") say(`a fork failed: ${String(one.reason)}`);
  const times = forks.map(({ ms }) => ms);
  const pss = forks.map(({ fork }) => rollupKib(host.monitor(fork), "Pss") / 1024), dirty = forks.map(({ fork }) => rollupKib(host.monitor(fork), "Private_Dirty") / 1024);
  return {
    answered: judged([forks.length], `of ${FORKS}`, "at least", FORKS, 0),
    single: figure(single, "ms", 0), p50: figure(times, "ms", 0),
    p95: { ...judged([percentile(times, 95)], "ms", "at most", GOAL_P95 * median(single), 0), runs: times.length },
    pss: judged(pss, "MiB", "at most", GOAL_MIB), private_dirty: figure(dirty, "MiB", 2),
  };
}

async function forked(host: Sleepers, source: Sleeper, name: string): Promise<Forked> {
  const started = performance.now();
  const fork = await host.fork(source, name, "Running");
  await firstByte(fork.ip);
  return { fork, ms: performance.now() - started };
}
