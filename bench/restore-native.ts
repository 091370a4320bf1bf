// The daemon's restore of a tiny guest of our own, on whatever KVM there is: from the HTTP request, as its bytes are given to a socket that
// is there already, until its vCPU is let go, by the clock that monitor and bench share (a guest that begins with an access has made it 10 to
// 25 µs later); with the monitor out of the pool and started for it. Instance domain, store, routes, pool and monitor are the real ones;
// image and network are not needed.
import { connect } from "node:net";
import { join } from "node:path";
import { monotonicMs } from "../src/ffi/clock.ts";
import { openPoller } from "../src/host/poller.ts";
import { openPool, spawning, type Monitors } from "../src/host/vmm/pool.ts";
import { createLogger } from "../src/log.ts";
import type { ApiDeps } from "../src/routes/deps.ts";
import { sleepRoutes } from "../src/routes/instances/sleep.ts";
import { Live } from "../src/routes/live.ts";
import { executable } from "../test/support/daemon.ts";
import { TempDir } from "../test/support/paths.ts";
import { until } from "../test/support/until.ts";
import { open, recordsOf, request } from "../test/host/instances/fixture.ts";
import { tinyGuest } from "../test/vmm/guests/build.ts";
import { figure, judged, percentile, say, type Metrics } from "./metric.ts";

const ROUNDS = 25;
const GOAL_POOL_MS = 5, GOAL_SPAWN_MS = 25;
/** What a standby leaves in the background is over (a chain that is merged), and what a pool's monitor makes ahead. */
const SETTLE_MS = 300;
const COMMAND = [executable, "vmm"];

interface Round { readonly running: number; readonly whole: number }

export async function run(): Promise<Metrics> {
  if ((await Bun.spawn([process.execPath, "build.ts"], { cwd: join(import.meta.dir, ".."), stdin: "ignore", stdout: "ignore", stderr: "inherit" }).exited) !== 0) throw new Error("the executable can't be built");
  using dir = new TempDir("bench");
  const poller = openPoller();
  const pool = openPool({ command: COMMAND, size: 2, dir: dir.join("pool"), poller, logger: createLogger("warn") })._unsafeUnwrap();
  const fromPool = await rounds(dir.join("from-pool"), pool, () => until("a full pool", () => pool.idle === 2).then(() => Bun.sleep(SETTLE_MS)));
  pool.close();
  await poller.close();
  const started = await rounds(dir.join("started"), spawning(COMMAND), () => Bun.sleep(SETTLE_MS));
  return {
    pool_p50: judged(fromPool.map(({ running }) => running), "ms", "at most", GOAL_POOL_MS), pool_p99: { ...figure([percentile(fromPool.map(({ running }) => running), 99)], "ms"), runs: ROUNDS },
    pool_whole_request: figure(fromPool.map(({ whole }) => whole), "ms"),
    spawn_p50: judged(started.map(({ running }) => running), "ms", "at most", GOAL_SPAWN_MS), spawn_p99: { ...figure([percentile(started.map(({ running }) => running), 99)], "ms"), runs: ROUNDS },
    spawn_whole_request: figure(started.map(({ whole }) => whole), "ms"),
  };
}

async function rounds(root: string, monitors: Monitors, ready: () => Promise<void>): Promise<Round[]> {
  let runningAt = 0;
  const kernel = tinyGuest("ticker");
  const kernelPath = `/proc/${process.pid}/fd/${kernel.fd}`;
  const host = await open(root, {
    monitors, logger: createLogger("error", () => {}), artifacts: { kernelPath, initramfsPath: "/dev/null" },
    onRunning: (atMs) => { runningAt = atMs; },
  });
  await Bun.write(join(root, "rootfs"), new Uint8Array(2 ** 20));
  // These routes ask for nothing else.
  const app = sleepRoutes({ instances: host.instances, live: new Live() } as unknown as ApiDeps);
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: (incoming) => app.handle(incoming) });
  try {
    const { id } = (await host.instances.create(request("tiny", ["tiny"])))._unsafeUnwrap();
    await until("the guest to boot", () => host.instances.get(id)._unsafeUnwrap().state === "Initializing");
    recordsOf(host.store.db).transition(id, "Running", "a guest without an agent never says so");
    const client = await Client.connect(server.port!), post = (verb: string) => client.post(`/instances/${id}/${verb}`);
    const found: Round[] = [];
    for (let i = 0; i <= ROUNDS; i++) {
      await post("standby");
      await ready();
      const asked = monotonicMs();
      await post("restore");
      if (i > 0) found.push({ running: runningAt - asked, whole: monotonicMs() - asked });
    }
    client.close();
    say(`${found.map(({ running }) => running.toFixed(1)).join(" ")} ms`);
    return found;
  } finally {
    await host.instances.remove("tiny", { graceful: false });
    await host.close();
    await server.stop(true);
  }
}

/** One connection, one request at a time: what a client in the same process spends on itself is not the daemon's. */
class Client {
  private constructor(private readonly socket: ReturnType<typeof connect>) {}

  static connect(port: number): Promise<Client> {
    return new Promise((resolve, reject) => {
      const socket = connect({ port, host: "127.0.0.1", noDelay: true }, () => resolve(new Client(socket)));
      socket.once("error", reject);
    });
  }

  post(path: string): Promise<void> {
    let heard = "";
    return new Promise((resolve, reject) => {
      const take = (bytes: Buffer) => {
        heard += bytes.toString("latin1");
        const [, status, length] = /^HTTP\/1\.1 (\d+)[^]*?\r\ncontent-length: (\d+)\r\n/i.exec(heard) ?? [], head = heard.indexOf("\r\n\r\n");
        if (head < 0 || heard.length < head + 4 + Number(length)) return;
        this.socket.off("data", take);
        if (status === "200") resolve();
        else reject(new Error(`${path}: ${heard}`));
      };
      this.socket.on("data", take);
      this.socket.write(`POST ${path} HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n`);
    });
  }

  close(): void { this.socket.destroy(); }
}
