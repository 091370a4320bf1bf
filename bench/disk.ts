// fio in the guest on a raw file: 4 KiB random reads at depth 32, 1 MiB sequential reads and writes; ours against QEMU's virtio-blk with its default aio.
import { closeSync, existsSync, ftruncateSync, openSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { TempDir } from "../test/support/paths.ts";
import { benchInitrd, benchRootfs, guestKernel } from "./files.ts";
import { Guest, type Monitor } from "./guest.ts";
import { figure, ratio, type Metrics } from "./metric.ts";
import { inTurns } from "./rounds.ts";

export const needsKvm = true;
export const prepare = async (): Promise<void> => {
  await guestKernel();
  await benchRootfs();
};

const MIB = 2 ** 20;
const ROUNDS = 3, SECONDS = 4;
const FILE_MIB = 512;
const GOAL = 1;
/** Where instances have their disks, on ext4 as a rule; elsewhere in development. */
const STATE = "/var/lib/dormouse";

/** fio's terse output, version 3: 0-based fields of KiB a second and operations a second, read and written. */
const FIELD = { readKib: 6, readIops: 7, writeKib: 47 } as const;
const JOBS = {
  randread_4k: { job: "randread", field: FIELD.readIops, unit: "IOPS", scale: 1 },
  read_1m: { job: "read", field: FIELD.readKib, unit: "MiB/s", scale: 1024 },
  write_1m: { job: "write", field: FIELD.writeKib, unit: "MiB/s", scale: 1024 },
} as const;
type Job = keyof typeof JOBS;
const jobs = Object.keys(JOBS) as Job[];

/** A file that is written whole: no holes, no first-write allocation, and the host's page cache holds it. */
function filledFile(path: string): string {
  const fd = openSync(path, "w"), block = Buffer.alloc(MIB, 0x5a);
  ftruncateSync(fd, FILE_MIB * MIB);
  for (let i = 0; i < FILE_MIB; i++) writeSync(fd, block);
  closeSync(fd);
  return path;
}

async function measure(monitor: Monitor, spec: Parameters<typeof Guest.start>[1], folder: string): Promise<Record<Job, number>> {
  const guest = Guest.start(monitor, spec, folder);
  try {
    const [text] = await guest.serial(/[^]*bench: done/);
    const values = {} as Record<Job, number>;
    for (const name of jobs) {
      const { job, field, scale } = JOBS[name];
      const line = new RegExp(`^bench: ${job} (3;[^\\r\\n]*)`, "m").exec(text)?.[1];
      const value = Number(line?.split(";")[field]) / scale;
      if (!(value > 0)) throw new Error(`fio gave no figure for ${name}; the guest said:\n${text.slice(-2000)}`);
      values[name] = value;
    }
    return values;
  } finally {
    await guest.stop();
  }
}

export async function run(): Promise<Metrics> {
  using dir = new TempDir("bench", existsSync(STATE) ? STATE : tmpdir());
  const disk = filledFile(dir.join("disk"));
  const spec = {
    kernel: await guestKernel(), initrd: benchInitrd(dir.path), memoryMib: 512, vcpus: 1, job: { job: "disk", seconds: String(SECONDS) },
    disks: [{ path: await benchRootfs(), readonly: true }, { path: disk, readonly: false }],
  };
  const samples = await inTurns(dir.path, ROUNDS, JOBS, (monitor, folder) => measure(monitor, spec, folder));
  return Object.fromEntries(jobs.flatMap((name) => [
    [name, ratio(samples("ours", name), samples("QEMU", name), "at least", GOAL)],
    [`${name}_ours`, figure(samples("ours", name), JOBS[name].unit, 0)],
    [`${name}_qemu`, figure(samples("QEMU", name), JOBS[name].unit, 0)],
  ]));
}
