// Forks of one sleeping nginx: one alone, and 25 at once. From the request to the fork's first byte; what each costs in memory.
import { judged, figure, median, percentile, say, type Metrics } from "./metric.ts";
import { firstByte, prepareSleepers, rollupKib, Sleepers, type Sleeper } from "./sleepers.ts";

export const needsKvm = true;
export const prepare = prepareSleepers;

const FORKS = 25, SINGLES = 5;
const GOAL_P95 = 2, GOAL_MIB = 10;

interface Forked { readonly fork: Sleeper; readonly ms: number }

export async function run(): Promise<Metrics> {
  const usual = await measure();
  // A burst as large as the pool: no monitor has to be started on the way.
  const ready = await measure(FORKS);
  const times = usual.forks.map(({ ms }) => ms), readyTimes = ready.forks.map(({ ms }) => ms);
  const p95 = (of: readonly number[], single: readonly number[]) => ({ ...judged([percentile(of, 95)], "ms", "at most", GOAL_P95 * median(single), 0), runs: of.length });
  return {
    answered: judged([usual.forks.length], `of ${FORKS}`, "at least", FORKS, 0),
    single: figure(usual.single, "ms", 0), p50: figure(times, "ms", 0), p95: p95(times, usual.single),
    pss: judged(usual.pss, "MiB", "at most", GOAL_MIB), private_dirty: figure(usual.dirty, "MiB", 2),
    large_pool_answered: judged([ready.forks.length], `of ${FORKS}`, "at least", FORKS, 0),
    large_pool_single: figure(ready.single, "ms", 0), large_pool_p50: figure(readyTimes, "ms", 0), large_pool_p95: p95(readyTimes, ready.single),
  };
}

interface Measured { readonly single: readonly number[]; readonly forks: readonly Forked[]; readonly pss: readonly number[]; readonly dirty: readonly number[] }

async function measure(pool?: number): Promise<Measured> {
  await using host = await Sleepers.start([], pool);
  say(pool === undefined ? "the pool as it comes" : `a pool of ${pool}`);
  const source = await host.create("source", "128MB");
  await host.standby(source);
  const single: number[] = [];
  for (let i = 0; i <= SINGLES; i++) {
    await host.poolReady();
    const { fork, ms } = await forked(host, source, `single-${i}`);
    say(`one fork: ${ms.toFixed(0)} ms${i === 0 ? " (warming up)" : ""}`);
    if (i > 0) single.push(ms);
    await host.remove(fork);
  }
  await host.poolReady();
  const settled = await Promise.allSettled(Array.from({ length: FORKS }, (_, i) => forked(host, source, `fork-${i}`)));
  const forks = settled.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
  for (const one of settled) if (one.status === "rejected") say(`a fork failed: ${String(one.reason)}`);
  const kib = (field: "Pss" | "Private_Dirty") => forks.map(({ fork }) => rollupKib(host.monitor(fork), field) / 1024);
  return { single, forks, pss: kib("Pss"), dirty: kib("Private_Dirty") };
}

async function forked(host: Sleepers, source: Sleeper, name: string): Promise<Forked> {
  const started = performance.now();
  const fork = await host.fork(source, name, "Running");
  await firstByte(fork.ip);
  return { fork, ms: performance.now() - started };
}
