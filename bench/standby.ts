// How long a guest stands still while it is saved, and what is written: all of it the first time, and what was touched since the next.
import { figure, judged, say, type Metrics } from "./metric.ts";
import { prepareSleepers, Sleepers } from "./sleepers.ts";

export const needsKvm = true;
export const prepare = prepareSleepers;

const MIB = 2 ** 20;
const TOUCHED_MIB = [1, 10, 100] as const;
const ROUNDS = 3;
const GOAL_RATIO = 1.1, GOAL_SLACK_MIB = 2;

export async function run(): Promise<Metrics> {
  await using host = await Sleepers.start();
  const web = await host.create("web", "512MB");
  const largest = Math.max(...TOUCHED_MIB);
  // The pages are there before: what is written over them is all that changes.
  await host.exec(web, "sh", "-c", `mkdir -p /fill && mount -t tmpfs fill /fill && head -c ${largest * MIB} /dev/zero | tr '\\0' x > /fill/data`);
  const first = await host.standby(web);
  say(`first: ${(first.bytes / MIB).toFixed(1)} MiB, paused ${first.pausedMs.toFixed(0)} ms`);
  const metrics: Record<string, Metrics[string]> = { first_written: figure([first.bytes / MIB], "MiB"), first_paused: figure([first.pausedMs], "ms", 0), first_whole: figure([first.wholeMs], "ms", 0) };
  for (const mib of TOUCHED_MIB) {
    const written: number[] = [], paused: number[] = [];
    for (let i = 0; i < ROUNDS; i++) {
      await host.restore(web);
      // One process: what it takes itself is written too.
      await host.exec(web, "dd", "if=/dev/urandom", "of=/fill/data", "bs=64k", `count=${mib * 16}`, "conv=notrunc", "status=none");
      const slept = await host.standby(web);
      say(`${mib} MiB touched: ${(slept.bytes / MIB).toFixed(1)} MiB, paused ${slept.pausedMs.toFixed(0)} ms`);
      written.push(slept.bytes / MIB);
      paused.push(slept.pausedMs);
    }
    metrics[`written_after_${mib}_mib`] = judged(written, "MiB", "at most", GOAL_RATIO * mib + GOAL_SLACK_MIB, 1);
    metrics[`paused_after_${mib}_mib`] = figure(paused, "ms", 0);
  }
  return metrics;
}
