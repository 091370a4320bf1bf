// What the HTTP API costs: `GET /instances/{id}` on loopback with 100 instances on record, against the real daemon and
// store. The daemon is pinned to one core, the load to the others; all of it in a network namespace of its own.
import { mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { createId } from "../src/host/id.ts";
import { RouteSocket } from "../src/ffi/netlink/route.ts";
import { imageMigrations } from "../src/host/images/images.ts";
import { instanceMigrations } from "../src/host/instances/instances.ts";
import { recordsOf } from "../test/host/instances/fixture.ts";
import { networkMigrations } from "../src/host/network/network.ts";
import { openStore } from "../src/host/store/store.ts";
import { judged, median, type Metrics } from "./metric.ts";

const INSTANCES = 100, RUNS = 5;
const LATENCY_REQUESTS = 2000, LOAD_REQUESTS = 20_000, CONNECTIONS = 16;
const GOAL_P50_MS = 1, GOAL_RATE = 2000;
const INSIDE = "--inside";

export async function run(): Promise<Metrics> {
  const child = Bun.spawn(["unshare", "--net", process.execPath, import.meta.path, INSIDE], { stdout: "pipe", stderr: "inherit" });
  const output = await child.stdout.text();
  if ((await child.exited) !== 0) throw new Error("the bench ended early");
  return JSON.parse(output) as Metrics;
}

/** Stopped instances, as a daemon that ran them would have left them. */
function record(dataDir: string): string[] {
  const store = openStore(join(dataDir, "dormouse.db"), [...networkMigrations, ...imageMigrations, ...instanceMigrations])._unsafeUnwrap();
  const records = recordsOf(store.db);
  const ids = Array.from({ length: INSTANCES }, (_, i) => {
    const id = createId();
    const env = { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", PORT: "8080" };
    const wanted = { name: `bench-${i}`, image: "docker.io/library/nginx:latest", memoryBytes: 2 ** 29, vcpus: 2, overlayBytes: 10 * 2 ** 30, env, tags: { team: "bench" }, entrypoint: null, cmd: null, network: true, ports: [{ guestPort: 80, hostPort: 20_000 + i, protocol: "tcp" as const }], tty: false, openStdin: false, autoStandby: null, snapshotPolicy: null, volumes: [] };
    records.insert(id, wanted, `sha256:${"a".repeat(64)}`)._unsafeUnwrap();
    records.transition(id, "Stopped", "bench", { stoppedAt: Date.now(), exitCode: 0, exitMessage: "exited with status 0" });
    return id;
  });
  store.close();
  return ids;
}

async function get(url: string): Promise<void> {
  const response = await fetch(url);
  const { state } = (await response.json()) as { state: string };
  if (state !== "Stopped") throw new Error(`${url} answered ${response.status} ${state}`);
}

/** Milliseconds of the middle request of many, one after another. */
async function latency(urls: readonly string[]): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < LATENCY_REQUESTS; i += 1) {
    const start = performance.now();
    await get(urls[i % urls.length] as string);
    times.push(performance.now() - start);
  }
  return median(times);
}

/** Requests a second over several connections. */
async function rate(urls: readonly string[]): Promise<number> {
  let next = 0;
  const start = performance.now();
  const worker = async () => {
    while (next < LOAD_REQUESTS) await get(urls[next++ % urls.length] as string);
  };
  await Promise.all(Array.from({ length: CONNECTIONS }, worker));
  return (LOAD_REQUESTS * 1000) / (performance.now() - start);
}

async function inside(): Promise<Metrics> {
  const route = new RouteSocket();
  const lo = route.link("lo");
  if (lo === null) throw new Error("there is no loopback interface");
  route.bringUp(lo);
  route.close();
  const dataDir = mkdtempSync(join(tmpdir(), "dormouse-bench-"));
  try {
    const ids = record(dataDir);
    const last = availableParallelism() - 1;
    const pin = (cores: string) => (last > 0 ? ["taskset", "-c", cores] : []);
    Bun.spawnSync(["taskset", "-a", "-p", "-c", last > 1 ? `1-${last}` : String(last), String(process.pid)], { stdout: "ignore" });
    const daemon = Bun.spawn([...pin("0"), process.execPath, join(import.meta.dir, "api-daemon.ts"), dataDir], { stdout: "pipe", stderr: "inherit" });
    try {
      const base = await firstLine(daemon.stdout);
      const urls = ids.map((id) => `${base}/instances/${id}`);
      await rate(urls); // warms both sides up
      const p50: number[] = [], rates: number[] = [];
      for (let i = 0; i < RUNS; i += 1) {
        p50.push(await latency(urls));
        rates.push(await rate(urls));
      }
      return {
        get_instance_p50: judged(p50, "ms", "at most", GOAL_P50_MS, 3),
        get_instance_rate: judged(rates, "requests/s", "at least", GOAL_RATE, 0),
      };
    } finally {
      daemon.kill("SIGTERM");
      await daemon.exited;
    }
  } finally {
    rmSync(dataDir, { recursive: true });
  }
}

async function firstLine(stream: ReadableStream<Uint8Array>): Promise<string> {
  let text = "";
  for await (const chunk of stream) {
    text += new TextDecoder().decode(chunk);
    if (text.includes("\n")) return text.trim();
  }
  throw new Error("the daemon ended before it listened");
}

if (process.argv[2] === INSIDE) console.log(JSON.stringify(await inside()));
