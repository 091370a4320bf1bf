// The second part: one instance put to sleep, woken by nothing but a request to its address, and forked while it runs.
import type { Daemon } from "../../../test/support/daemon.ts";
import { until } from "../../../test/support/until.ts";
import { expectText, http, running, Timings, type Instance } from "./shared.ts";

const NAME = "demo-sleeper";
const FORKS = [1, 2, 3];
/** Of a request that wakes: under emulation a wake takes seconds. */
const PATIENCE_MS = 60_000;

const page = /^200 .*It is nginx/s;
const stateOf = async (daemon: Daemon, ref: string): Promise<string> => (await daemon.api<Instance>("GET", `/instances/${ref}`)).state;

/** `reference`: an image of nginx that is pulled already. */
export async function sleepAndWake(daemon: Daemon, reference: string): Promise<Timings> {
  const timings = new Timings("sleep and wake");
  // Enabled, its policy has packets wake it; so long an idle time leaves going to sleep to us.
  const auto_standby = { enabled: true, idle_timeout: "1h" };
  const { id } = await daemon.api<Instance>("POST", "/instances", { name: NAME, image: reference, size: "256MB", vcpus: 1, auto_standby });
  const { network: { ip } } = await running(daemon, id);
  await until("nginx to serve", () => http(80, "/", page)(ip).then(() => true));

  await timings.step("standby", async () => {
    await daemon.run(["standby", NAME]);
    expectText(await stateOf(daemon, NAME), /^Standby$/);
  });
  // One request, asked once: its first packet is what wakes the instance, and is answered by it.
  await timings.step("wake by request", () => http(80, "/", page, PATIENCE_MS)(ip));
  expectText(await stateOf(daemon, NAME), /^Running$/);

  for (const n of FORKS) {
    await timings.step(`fork ${n}`, async () => {
      await daemon.run(["fork", "--from-running", NAME, `${NAME}-${n}`]);
      const fork = await running(daemon, `${NAME}-${n}`);
      await until(`fork ${n} to serve`, () => http(80, "/", page)(fork.network.ip).then(() => true));
    });
  }
  await http(80, "/", page, PATIENCE_MS)(ip);
  await timings.step("delete all", async () => {
    await daemon.run(["rm", "-f", NAME, ...FORKS.map((n) => `${NAME}-${n}`)]);
    expectText(JSON.stringify(await daemon.api("GET", "/instances")), /^\[\]$/);
  });
  return timings;
}
