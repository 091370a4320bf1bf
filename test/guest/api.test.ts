// The contract's own client against the executable: a real registry, a real image, a real guest.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import Hypeman from "@onkernel/hypeman";
import { Channel, EXEC_V1 } from "../../src/routes/exec-protocol.ts";
import { Daemon } from "../support/daemon.ts";
import { image } from "../support/images.ts";
import { Registry } from "../support/registry.ts";
import { served, until } from "../support/until.ts";

let registry: Registry;
let daemon: Daemon;
let client: Hypeman;
let name: string;
let id: string;

beforeAll(async () => {
  registry = await Registry.start();
  name = `${registry.host}/busybox:1`;
  await (await image("busybox")).push(registry.host, "busybox", "1");
  daemon = await Daemon.start();
  client = new Hypeman({ apiKey: "any", baseURL: daemon.url, maxRetries: 2 });
}, 300_000);
afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
  await registry.stop();
}, 120_000);

const failure = async (call: Promise<unknown>) => {
  const thrown = await call.then(() => null, (error: unknown) => error);
  if (!(thrown instanceof Hypeman.APIError)) throw new Error("the call did not fail");
  return { status: thrown.status, ...(thrown.error as { code: string }) };
};

test("the executable carries its documentation", async () => {
  for (const path of ["/swagger", "/swagger/json", "/swagger/ui.js", "/swagger/ui.css", "/swagger/start.js"]) {
    const part = await fetch(daemon.url + path);
    expect({ path, status: part.status, empty: (await part.text()).length < 100 }).toEqual({ path, status: 200, empty: false });
  }
  expect((await client.capabilities.get()).default_runtime).toEqual({ name: "dormouse", available: true });
});

describe("images", () => {
  test("an unknown one is 404, and creating an instance of it too", async () => {
    expect(await failure(client.images.get("nobody/nothing"))).toMatchObject({ status: 404, code: "image_not_found" });
    expect(await failure(client.instances.create({ name: "early", image: name }))).toMatchObject({ status: 404, code: "image_not_found" });
  });
  test("pull, and get until it is ready", async () => {
    await client.images.create({ name, tags: { kind: "web" } });
    const ready = await until("the image", async () => {
      const one = await client.images.get(name);
      if (one.status === "failed") throw new Error(one.error ?? "failed");
      return one.status === "ready" ? one : null;
    });
    expect(ready).toMatchObject({ name, platform: "linux/amd64", entrypoint: ["/bin/busybox"], error: null });
    expect(ready.digest).toMatch(/^sha256:[0-9a-f]{64}$/);
    expect((await client.images.list({ tags: { kind: "web" } })).map((one) => one.name)).toEqual([name]);
    expect(await client.images.list({ tags: { kind: "db" } })).toEqual([]);
    expect((await client.images.get(ready.digest)).digest).toBe(ready.digest);
  });
});

describe("instances", () => {
  test("create, wait for Running, talk to it", async () => {
    const created = await client.instances.create({ name: "web", image: name, size: "128MB", vcpus: 1, tags: { team: "a" }, env: { GREETING: "hello" } });
    id = created.id;
    expect(created).toMatchObject({ name: "web", size: "128MB", vcpus: 1, hypervisor: "dormouse", expires_at: null });
    expect(await client.instances.wait(id, { state: "Running", timeout: "5m" })).toMatchObject({ state: "Running", timed_out: false });
    const running = await client.instances.get("web");
    expect(running).toMatchObject({ id, state: "Running", current_phase: "running" });
    expect(await served(`http://${running.network?.ip}/`)).toContain("busybox");
    expect((await client.instances.list({ state: "Running", tags: { team: "a" } })).map((one) => one.id)).toEqual([id]);
    expect(await failure(client.instances.create({ name: "web", image: name }))).toMatchObject({ status: 409, code: "already_exists" });
    expect(await failure(client.images.delete(name))).toMatchObject({ status: 409, code: "in_use" });
  });
  test("stats", async () => {
    const stats = await client.instances.stats(id);
    expect(stats).toMatchObject({ instance_id: id, allocated_memory_bytes: 128 * 2 ** 20, allocated_vcpus: 1 });
    expect([stats.cpu_seconds > 0, stats.memory_rss_bytes > 2 ** 20, stats.network_tx_bytes > 0]).toEqual([true, true, true]);
  });
  test("a create that is repeated finds its instance", async () => {
    const again = await client.instances.create({ name: "web", image: name, size: "128MB", vcpus: 1, tags: { team: "a" }, env: { GREETING: "hello" } }, { headers: { "X-Stainless-Retry-Count": "1" } });
    expect(again.id).toBe(id);
  });
  test("logs, from their end and as they come", async () => {
    const { network } = await client.instances.get(id);
    const lines: string[] = [];
    const stream = await client.instances.logs(id, { follow: true });
    // All that httpd's -v says of a request.
    await fetch(`http://${network?.ip}/not-there`);
    for await (const line of stream) {
      lines.push(line);
      if (line.includes("response:404")) break;
    }
    const own: string[] = [];
    for await (const line of await client.instances.logs(id, { source: "hypeman", tail: 5 })) own.push(line);
    expect(own.length).toBeGreaterThan(0);
    const vmm: string[] = [];
    for await (const line of await client.instances.logs(id, { source: "vmm", tail: 1000 })) vmm.push(line);
    expect(vmm.join("\n")).toContain("init: started");
  });
});

/** Runs a command over the WebSocket; what it wrote, and the last text frame. */
async function exec(start: unknown, protocol: string | null, drive: (ws: WebSocket, text: () => string) => void = () => {}) {
  const ws = new WebSocket(`${daemon.url.replace("http", "ws")}/instances/web/exec`, protocol === null ? [] : [protocol]);
  ws.binaryType = "arraybuffer";
  const output: Record<number, string> = { 0: "", [Channel.STDOUT]: "", [Channel.STDERR]: "" };
  let last: unknown;
  const decoder = new TextDecoder();
  const closed = new Promise<number>((done, failed) => {
    ws.onclose = ({ code }) => done(code);
    ws.onerror = () => failed(new Error("the WebSocket failed"));
  });
  ws.onopen = () => {
    ws.send(JSON.stringify(start));
    drive(ws, () => Object.values(output).join(""));
  };
  ws.onmessage = ({ data }) => {
    if (typeof data === "string") return void (last = JSON.parse(data));
    const bytes = new Uint8Array(data as ArrayBuffer);
    const channel = protocol === null ? 0 : (bytes[0] as number);
    output[channel] += decoder.decode(protocol === null ? bytes : bytes.subarray(1));
  };
  return { code: await closed, last, mixed: output[0] ?? "", out: output[Channel.STDOUT] ?? "", err: output[Channel.STDERR] ?? "" };
}
const sh = (script: string) => ["/bin/busybox", "sh", "-c", script];

describe("exec", () => {
  test("the contract's protocol: output, environment, directory, exit code", async () => {
    const { mixed, last, code } = await exec({ command: sh("echo $A; pwd; exit 3"), env: { A: "b c" }, cwd: "/www" }, null);
    expect({ mixed, last, code }).toEqual({ mixed: "b c\n/www\n", last: { exitCode: 3 }, code: 1000 });
  });
  test("a command that is not there is 127", async () => {
    const { mixed, last } = await exec({ command: ["/nope"] }, null);
    expect(last).toEqual({ exitCode: 127 });
    expect(mixed).toMatch(/^Error: .*\r\n$/);
  });
  test("a timeout is 124", async () => {
    expect((await exec({ command: sh("sleep 1000"), timeout: 1 }, null)).last).toEqual({ exitCode: 124 });
  });
  test("a terminal has its size", async () => {
    const { mixed, last } = await exec({ command: sh("read x; stty size"), tty: true, rows: 10, cols: 20 }, null, (ws) => {
      ws.send(JSON.stringify({ resize: { rows: 33, cols: 44 } }));
      ws.send(new TextEncoder().encode("go\n"));
    });
    expect(last).toEqual({ exitCode: 0 });
    expect(mixed).toContain("33 44");
  });
  test(`${EXEC_V1}: end of input, and streams apart`, async () => {
    const text = "x".repeat(300_000);
    const { out, err, last } = await exec({ command: sh("cat; echo oops >&2") }, EXEC_V1, (ws) => {
      for (let at = 0; at < text.length; at += 50_000) ws.send(new Uint8Array([Channel.STDIN, ...new TextEncoder().encode(text.slice(at, at + 50_000))]));
      ws.send(new Uint8Array([Channel.STDIN]));
    });
    expect(out === text).toBe(true);
    expect({ err, last }).toMatchObject({ err: "oops\n", last: { exitCode: 0 } });
  });
  test("a signal arrives", async () => {
    const { last } = await exec({ command: sh("echo up; exec sleep 1000") }, EXEC_V1, (ws, text) => {
      void until("its first words", () => text().includes("up")).then(() => ws.send('{"signal":15}'));
    });
    expect(last).toMatchObject({ exitCode: 143 });
  });
  test("a hang-up kills the command", async () => {
    const processes = async () => (await exec({ command: sh("ps") }, null)).mixed;
    await exec({ command: sh("echo up; exec sleep 54321") }, null, (ws, text) => void until("its first words", () => text().includes("up")).then(() => ws.close()));
    await until("the command's end", async () => !(await processes()).includes("sleep 54321"));
  });
});

describe("the end", () => {
  test("stop, and what goes only while it runs", async () => {
    const followed = (async () => {
      for await (const _ of await client.instances.logs(id, { follow: true, tail: 0 }));
      return "ended";
    })();
    expect(await client.instances.stop(id)).toMatchObject({ state: "Stopped" });
    expect(await followed).toBe("ended");
    expect(await client.instances.get(id)).toMatchObject({ state: "Stopped", current_phase: "stopped" });
    expect((await fetch(`${daemon.url}/instances/web/exec`, { headers: { connection: "upgrade", upgrade: "websocket" } })).status).toBe(409);
    expect(await failure(client.instances.stop(id))).toMatchObject({ status: 409, code: "invalid_state" });
    expect(await client.instances.wait(id, { state: "Running", timeout: "5m" })).toMatchObject({ state: "Stopped", timed_out: false });
  });
  test("start with another command, whose end is on record", async () => {
    await client.instances.start(id, { entrypoint: sh("echo from the second run; exit 7"), cmd: [] });
    await client.instances.wait(id, { state: "Stopped", timeout: "5m" });
    expect(await client.instances.get(id)).toMatchObject({ state: "Stopped", exit_code: 7 });
    const lines: string[] = [];
    for await (const line of await client.instances.logs(id)) lines.push(line);
    expect(lines).toContain("from the second run");
  });
  test("delete leaves nothing", async () => {
    await client.instances.delete(id);
    expect(await failure(client.instances.get(id))).toMatchObject({ status: 404, code: "not_found" });
    await client.instances.delete(id, {}, { headers: { "X-Stainless-Retry-Count": "1" } });
    await client.images.delete(name);
    expect(await client.images.list()).toEqual([]);
    expect(await daemon.api("GET", "/usage")).toMatchObject({ images: { count: 0 }, instances: { count: 0 } });
  });
});
