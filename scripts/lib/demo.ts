// The demo's main job, on a machine whose KVM runs kernels: real images from a real registry, each run in a virtual machine of its own.
// Ends with `demo: ok`, or `demo: failed: <why>` and status 1. Needs dist/dormouse and the images in the cache.
import { connect } from "node:net";
import { Daemon } from "../../test/support/daemon.ts";
import { image } from "../../test/support/images.ts";
import { Registry } from "../../test/support/registry.ts";
import type { ImageName } from "../../test/support/recipes.ts";
import { until } from "../../test/support/until.ts";

interface Instance { readonly id: string; readonly name: string; readonly state: string; readonly exit_message?: string; readonly network: { readonly ip: string } }

interface Act {
  readonly image: ImageName;
  /** Talks to the server at `ip`; throws until it answers as it should. */
  readonly talk: (ip: string) => Promise<void>;
  readonly exec: { readonly argv: readonly string[]; readonly says: RegExp };
  readonly logs: RegExp;
}

const expectText = (text: string, pattern: RegExp): void => {
  if (!pattern.test(text)) throw new Error(`expected ${pattern}, got ${JSON.stringify(text.slice(0, 200))}`);
};

const http = (port: number, path: string, says: RegExp) => async (ip: string): Promise<void> => {
  const answer = await fetch(`http://${ip}:${port}${path}`, { signal: AbortSignal.timeout(5000) });
  expectText(`${answer.status} ${await answer.text()}`, says);
};

const ping = (ip: string): Promise<void> =>
  new Promise((done, fail) => {
    const socket = connect({ host: ip, port: 6379 }, () => socket.write("PING\r\n"));
    socket.setTimeout(5000, () => socket.destroy(new Error("no answer to PING")));
    socket.on("error", fail);
    socket.once("data", (bytes: Buffer) => {
      socket.destroy();
      if (bytes.toString() === "+PONG\r\n") done();
      else fail(new Error(`PING was answered with ${JSON.stringify(bytes.toString())}`));
    });
  });

const acts: readonly Act[] = [
  { image: "busybox", talk: http(80, "/", /^200 .*It is busybox/s), exec: { argv: ["sh", "-c", "echo uid $(id -u)"], says: /^uid 0\n$/ }, logs: /response:200|url:\/|GET/ },
  { image: "nginx", talk: http(80, "/", /^200 .*It is nginx/s), exec: { argv: ["cat", "/var/www/html/index.html"], says: /It is nginx/ }, logs: /"GET \/ HTTP\/1\.1" 200/ },
  { image: "redis", talk: ping, exec: { argv: ["redis-cli", "set", "who", "dormouse"], says: /^OK\n$/ }, logs: /Ready to accept connections/ },
  { image: "python", talk: http(8000, "/hello", /^200 python at \/hello says hello/), exec: { argv: ["python3", "-c", "print(6 * 7)"], says: /^42\n$/ }, logs: /"GET \/hello HTTP\/1\.1" 200/ },
];

const COLUMNS = ["pull", "create", "running", "answer", "logs", "exec", "stop", "delete"] as const;
type Timings = Record<(typeof COLUMNS)[number], number>;

const say = (text: string): void => void process.stderr.write(`\x1b[2m[demo]\x1b[0m ${text}\n`);

/** One image's whole life; the milliseconds of each step. */
async function play(daemon: Daemon, reference: string, act: Act): Promise<Timings> {
  const timings = {} as Timings;
  const name = `demo-${act.image}`;
  const step = async <T>(column: keyof Timings, work: () => Promise<T>): Promise<T> => {
    const started = performance.now();
    try {
      return await work();
    } catch (error) {
      throw new Error(`${act.image}: ${column}: ${error instanceof Error ? error.message : String(error)}`);
    } finally {
      timings[column] = performance.now() - started;
    }
  };
  await step("pull", () => daemon.run(["pull", "-q", reference]));
  const { id } = await step("create", () => daemon.api<Instance>("POST", "/instances", { name, image: reference, size: "256MB", vcpus: 1 }));
  const instance = await step("running", () => running(daemon, id));
  await step("answer", () => until("an answer", () => act.talk(instance.network.ip).then(() => true)));
  await step("logs", () => until("its log", async () => (expectText(await daemon.run(["logs", name]), act.logs), true)));
  await step("exec", async () => expectText(await daemon.run(["exec", name, ...act.exec.argv]), act.exec.says));
  await step("stop", async () => {
    await daemon.run(["stop", name]);
    expectText((await daemon.api<Instance>("GET", `/instances/${id}`)).state, /^Stopped$/);
  });
  await step("delete", async () => {
    await daemon.run(["rm", name]);
    expectText(JSON.stringify(await daemon.api("GET", "/instances")), /^\[\]$/);
  });
  return timings;
}

async function running(daemon: Daemon, id: string): Promise<Instance> {
  const { state } = await daemon.api<{ state: string }>("GET", `/instances/${id}/wait?state=Running&timeout=120s`);
  const instance = await daemon.api<Instance>("GET", `/instances/${id}`);
  if (state !== "Running") {
    const why = `it is ${state}: ${instance.exit_message ?? "no reason on record"}`;
    throw new Error(`${why}; its monitor's log ends with:\n${(await daemon.try(["logs", "--source", "vmm", "-n", "30", id])).stdout}`);
  }
  return instance;
}

function printTable(rows: readonly (readonly [string, Timings])[]): void {
  const line = (cells: readonly string[]): string => cells.map((cell, i) => (i === 0 ? cell.padEnd(8) : cell.padStart(9))).join("");
  console.log(line(["ms", ...COLUMNS]));
  for (const [name, timings] of rows) console.log(line([name, ...COLUMNS.map((column) => timings[column].toFixed(0))]));
}

async function demo(): Promise<void> {
  await using registry = await Registry.start();
  say(`a registry listens on ${registry.host}`);
  await using daemon = await Daemon.start();
  say(`dormouse serve listens on ${daemon.url}`);
  const rows: [string, Timings][] = [];
  try {
    for (const act of acts) {
      const reference = await (await image(act.image, say)).push(registry.host, act.image);
      say(`${act.image}: pull, create, talk, logs, exec, stop, delete`);
      rows.push([act.image, await play(daemon, reference, act)]);
    }
  } catch (error) {
    say(`the daemon's log ends with:\n${daemon.log.slice(-3000).trimEnd()}`);
    throw error;
  }
  printTable(rows);
}

try {
  await demo();
  console.log("demo: ok");
} catch (error) {
  const why = error instanceof Error ? error.message : String(error);
  const [first = "", ...rest] = why.split("\n");
  if (rest.length > 0) console.log(rest.join("\n"));
  console.log(`demo: failed: ${first}`);
  process.exitCode = 1;
}
process.exit();
