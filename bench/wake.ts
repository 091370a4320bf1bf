// A sleeping nginx and one request: to its address, where the packet wakes it, and through an ingress. First byte, and where the time
// goes; beside QEMU's restore of the same guest from a migration file.
import { TempDir } from "../test/support/paths.ts";
import { imageDisk } from "./files.ts";
import { figure, judged, median, percentile, ratio, say, type Metric, type Metrics } from "./metric.ts";
import { QemuSleeper } from "./qemu-wake.ts";
import { firstByte, prepareSleepers, Sleepers, type Sleeper, type WakeSteps } from "./sleepers.ts";

export const needsKvm = true;
export const prepare = async (): Promise<void> => {
  await prepareSleepers();
  await imageDisk("nginx");
};

const ROUNDS = 10, QEMU_ROUNDS = 5;
const MEMORY_MIB = 256;
const HOSTNAME = "web.bench.test", INGRESS_PORT = 8099;
/** On hardware; in the testbed the ratio counts. */
const GOAL_MS = 30, GOAL_RATIO = 0.5;

export async function run(): Promise<Metrics> {
  const tap: number[] = [], ingress: number[] = [], steps: WakeSteps[] = [];
  {
    await using host = await Sleepers.start(["--ingress-address", "127.0.0.1"]);
    const web = await host.create("web", `${MEMORY_MIB}MB`);
    await host.daemon.api("POST", "/ingresses", { name: "web", rules: [{ match: { hostname: HOSTNAME, port: INGRESS_PORT }, target: { instance: "web", port: 80 } }] });
    for (let i = 0; i <= ROUNDS; i++) {
      const one = await wakes(host, web, () => firstByte(web.ip)), other = await wakes(host, web, () => firstByte("127.0.0.1", HOSTNAME, INGRESS_PORT));
      say(`TAP ${one.ms.toFixed(0)} ms, ingress ${other.ms.toFixed(0)} ms${i === 0 ? " (warming up)" : ""}`);
      if (i === 0) continue;
      tap.push(one.ms);
      ingress.push(other.ms);
      steps.push(one.steps, other.steps);
    }
  }
  const qemu: number[] = [];
  using dir = new TempDir("bench");
  await using peer = await QemuSleeper.start(dir.join("qemu"), MEMORY_MIB);
  for (let i = 0; i <= QEMU_ROUNDS; i++) {
    const ms = await peer.wake();
    say(`QEMU ${ms.toFixed(0)} ms${i === 0 ? " (warming up)" : ""}`);
    if (i > 0) qemu.push(ms);
  }
  const inTestbed = process.env["DORMOUSE_TESTBED"] === "1";
  const p50 = (values: readonly number[]): Metric => (inTestbed ? figure(values, "ms") : judged(values, "ms", "at most", GOAL_MS, 1));
  return {
    tap_p50: p50(tap), tap_p99: { ...figure([percentile(tap, 99)], "ms"), runs: tap.length },
    ingress_p50: p50(ingress), ingress_p99: { ...figure([percentile(ingress, 99)], "ms"), runs: ingress.length },
    qemu_p50: figure(qemu, "ms"), ratio: ratio(tap, qemu, "at most", GOAL_RATIO),
    ...shares(steps, median(tap)),
  };
}

async function wakes(host: Sleepers, web: Sleeper, request: () => Promise<number>): Promise<{ ms: number; steps: WakeSteps }> {
  await host.standby(web);
  await host.poolReady();
  const ms = await request();
  return { ms, steps: await host.steps(web) };
}

/** The monitor's steps, and what is left: finding the packet, process or pool, SQLite, opening the gates, the guest's own answer. */
function shares(steps: readonly WakeSteps[], whole: number): Metrics {
  const of = (pick: (one: WakeSteps) => number) => figure(steps.map(pick), "ms");
  const inMonitor = median(steps.map(({ load, machine, acknowledged }) => load + machine + acknowledged));
  return {
    step_load: of(({ load }) => load), step_machine: of(({ machine }) => machine), step_first_instruction: of(({ run }) => run),
    step_acknowledged: of(({ acknowledged, run }) => acknowledged - run), step_rest: { ...figure([whole - inMonitor], "ms"), runs: steps.length },
  };
}
