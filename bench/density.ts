// What a sleeping and an idle running nginx cost this machine, measured on a few, and how many of them would fill it: an extrapolation
// along its memory and its disk, nothing that was run.
import { readFileSync, statfsSync } from "node:fs";
import { join } from "node:path";
import { command } from "../test/support/command.ts";
import { figure, say, type Metrics } from "./metric.ts";
import { prepareSleepers, rollupKib, Sleepers } from "./sleepers.ts";

export const needsKvm = true;
export const prepare = prepareSleepers;

const RUNNING = 6, FORKS = 30;
const GIB = 2 ** 30, MIB = 2 ** 20;

export async function run(): Promise<Metrics> {
  await using host = await Sleepers.start();
  const { dataDir, pid } = host.daemon;
  const daemonKib = () => rollupKib(pid!, "Pss");
  const disk = async () => Number((await command(["du", "-s", "--block-size=1", join(dataDir, "instances"), join(dataDir, "memory"), join(dataDir, "disks")])).split("\n").reduce((sum, line) => sum + Number(line.split("\t", 1)[0] ?? 0), 0));
  const webs = [];
  for (let i = 0; i < RUNNING; i++) webs.push(await host.create(`web-${i}`, "128MB"));
  const running = webs.map((web) => rollupKib(host.monitor(web), "Pss") / 1024);
  say(`running: ${running.map((mib) => mib.toFixed(0)).join(", ")} MiB`);
  const runningDisk = (await disk()) / RUNNING;
  for (const web of webs) await host.standby(web);
  const sleepingDisk = (await disk()) / RUNNING;
  const before = daemonKib(), diskBefore = await disk();
  for (let i = 0; i < FORKS; i++) await host.fork(webs[0]!, `fork-${i}`, "Standby");
  const daemonPer = (daemonKib() - before) / FORKS, forkDisk = ((await disk()) - diskBefore) / FORKS;
  const memory = Number(/^MemTotal:\s+(\d+) kB/m.exec(readFileSync("/proc/meminfo", "utf8"))![1]) * 1024;
  const { blocks, bsize } = statfsSync(dataDir);
  const each = figure(running, "MiB");
  return {
    running_memory: each, running_disk: figure([runningDisk / MIB], "MiB"), sleeping_disk: figure([sleepingDisk / MIB], "MiB"), sleeping_fork_disk: figure([forkDisk / MIB], "MiB", 2),
    sleeping_daemon_memory: figure([daemonPer], "KiB"),
    machine_memory: figure([memory / GIB], "GiB"), machine_disk: figure([(blocks * bsize) / GIB], "GiB"),
    running_extrapolated: figure([Math.floor(memory / MIB / each.median)], "instances", 0), sleeping_extrapolated: figure([Math.floor((blocks * bsize) / sleepingDisk)], "instances", 0),
  };
}
