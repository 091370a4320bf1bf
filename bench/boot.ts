// From the start of the monitor's process to the first line of init: ours against QEMU's microvm, in turn, on the same files.
import { mkdirSync } from "node:fs";
import { TempDir } from "../test/support/paths.ts";
import { benchInitrd, guestKernel } from "./files.ts";
import { Guest, monitors, type Monitor } from "./guest.ts";
import { figure, ratio, say, type Metrics } from "./metric.ts";

export const needsKvm = true;
export const prepare = async (): Promise<void> => void (await guestKernel());

const RUNS = 7;
const GOAL = 0.9;

export async function run(): Promise<Metrics> {
  using dir = new TempDir("bench");
  const spec = { kernel: await guestKernel(), initrd: benchInitrd(dir.path), memoryMib: 256, vcpus: 1, job: { job: "boot" } };
  const times: Record<Monitor, number[]> = { ours: [], QEMU: [] };
  for (let i = 0; i <= RUNS; i++)
    for (const monitor of monitors) {
      const folder = dir.join(`${monitor}-${i}`);
      mkdirSync(folder);
      const started = performance.now();
      const guest = Guest.start(monitor, spec, folder);
      try {
        await guest.serial(/bench: init/);
        const ms = performance.now() - started;
        say(`${monitor}: ${ms.toFixed(0)} ms${i === 0 ? " (warming up)" : ""}`);
        if (i > 0) times[monitor].push(ms);
      } finally {
        await guest.stop();
      }
    }
  return { ratio: ratio(times.ours, times.QEMU, "at most", GOAL), ours: figure(times.ours, "ms"), qemu_microvm: figure(times.QEMU, "ms") };
}
