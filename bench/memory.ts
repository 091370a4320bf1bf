// Private memory of the monitor's process, guest RAM left out, beside an idle guest with one vCPU: ours against QEMU's microvm.
// Two guests of a kind run at a time, as on any host: the executable's pages are then shared, and count for neither.
import { mkdirSync } from "node:fs";
import { TempDir } from "../test/support/paths.ts";
import { benchInitrd, guestKernel } from "./files.ts";
import { Guest, monitors, type GuestSpec, type Monitor } from "./guest.ts";
import { figure, judged, ratio, say, type Metrics } from "./metric.ts";

export const needsKvm = true;
export const prepare = async (): Promise<void> => void (await guestKernel());

const ROUNDS = 2, GUESTS = 2;
const GUEST_MIB = 256;
const GOAL_MIB = 12, GOAL_RATIO = 1 / 3;

async function measure(monitor: Monitor, spec: GuestSpec, folders: readonly string[]): Promise<number[]> {
  const guests: Guest[] = [];
  try {
    for (const folder of folders) {
      mkdirSync(folder);
      guests.push(Guest.start(monitor, spec, folder));
    }
    for (const guest of guests) await guest.serial(/bench: done/);
    return guests.map((guest) => guest.privateKib(GUEST_MIB) / 1024);
  } finally {
    for (const guest of guests) await guest.stop();
  }
}

export async function run(): Promise<Metrics> {
  using dir = new TempDir("bench");
  const spec = { kernel: await guestKernel(), initrd: benchInitrd(dir.path), memoryMib: GUEST_MIB, vcpus: 1, job: { job: "idle" } };
  const sizes: Record<Monitor, number[]> = { ours: [], QEMU: [] };
  for (let round = 0; round < ROUNDS; round++)
    for (const monitor of monitors) {
      const values = await measure(monitor, spec, Array.from({ length: GUESTS }, (_, i) => dir.join(`${monitor}-${round}-${i}`)));
      say(`${monitor}: ${values.map((value) => `${value.toFixed(2)} MiB`).join(", ")}`);
      sizes[monitor].push(...values);
    }
  return { ours: judged(sizes.ours, "MiB", "at most", GOAL_MIB), ratio: ratio(sizes.ours, sizes.QEMU, "at most", GOAL_RATIO), qemu_microvm: figure(sizes.QEMU, "MiB", 2) };
}
