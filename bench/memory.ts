// Private memory of the monitor's process, guest RAM left out, beside an idle guest with one vCPU: ours against QEMU's microvm.
import { mkdirSync } from "node:fs";
import { TempDir } from "../test/support/paths.ts";
import { benchInitrd, guestKernel } from "./files.ts";
import { Guest, monitors, type Monitor } from "./guest.ts";
import { figure, judged, ratio, type Metrics } from "./metric.ts";

export const needsKvm = true;
export const prepare = async (): Promise<void> => void (await guestKernel());

const RUNS = 3;
const GUEST_MIB = 256;
const GOAL_MIB = 12, GOAL_RATIO = 1 / 3;

export async function run(): Promise<Metrics> {
  using dir = new TempDir("bench");
  const spec = { kernel: await guestKernel(), initrd: benchInitrd(dir.path), memoryMib: GUEST_MIB, vcpus: 1, job: { job: "idle" } };
  const sizes: Record<Monitor, number[]> = { ours: [], QEMU: [] };
  for (let i = 0; i < RUNS; i++)
    for (const monitor of monitors) {
      const folder = dir.join(`${monitor}-${i}`);
      mkdirSync(folder);
      const guest = Guest.start(monitor, spec, folder);
      try {
        await guest.serial(/bench: done/);
        sizes[monitor].push(guest.privateDirtyKib(GUEST_MIB) / 1024);
      } finally {
        await guest.stop();
      }
    }
  return { ours: judged(sizes.ours, "MiB", "at most", GOAL_MIB), ratio: ratio(sizes.ours, sizes.QEMU, "at most", GOAL_RATIO), qemu_microvm: figure(sizes.QEMU, "MiB", 2) };
}
