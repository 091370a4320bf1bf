// Drives a whole daemon in a network namespace of its own (daemon.test.ts starts this under unshare -n) with the contract's
// client, and prints what it saw as JSON. Guests need a KVM that runs kernels; all else here is real.
import Hypeman from "@onkernel/hypeman";
import { RouteSocket } from "../../src/ffi/netlink/route.ts";
import { createLogger } from "../../src/log.ts";
import { type Daemon, startDaemon } from "../../src/serve.ts";
import { SERVE_DEFAULTS } from "../../src/serve-options.ts";
import { image } from "../support/images.ts";
import { TempDir } from "../support/paths.ts";
import { Registry } from "../support/registry.ts";
import { until } from "../support/until.ts";

const route = new RouteSocket();
const lo = route.link("lo");
if (lo === null) throw new Error("there is no loopback interface");
route.bringUp(lo);
route.close();

const data = new TempDir("daemon"), registry = await Registry.start();
const name = `${registry.host}/busybox:1`;
await (await image("busybox")).push(registry.host, "busybox", "1");

const log: string[] = [];
const options = { ...SERVE_DEFAULTS, listen: "127.0.0.1:0", dataDir: data.path };
const start = async (): Promise<{ daemon: Daemon; client: Hypeman }> => {
  const daemon = (await startDaemon(options, createLogger("debug", (line) => void log.push(line))))._unsafeUnwrap();
  return { daemon, client: new Hypeman({ apiKey: "any", baseURL: daemon.url, maxRetries: 0 }) };
};
const codeOf = (call: Promise<unknown>) => call.then(() => "no error", (error: { error?: { code?: string } }) => error.error?.code ?? String(error));
const seen: Record<string, unknown> = {};

const first = await start();
seen["second daemon"] = (await startDaemon(options, createLogger("error", () => {}))).match(() => "started", (error) => error.code);
seen["unknown image"] = await codeOf(first.client.instances.create({ name: "web", image: name }));
await first.client.images.create({ name, tags: { kind: "web" } });
const ready = await until("the image", async () => {
  const one = await first.client.images.get(name);
  if (one.status === "failed") throw new Error(one.error ?? "failed");
  return one.status === "ready" ? one : null;
});
seen["image"] = { name: ready.name === name, entrypoint: ready.entrypoint, digest: /^sha256:[0-9a-f]{64}$/.test(ready.digest) };
seen["more than the host has"] = await codeOf(first.client.instances.create({ name: "web", image: name, size: "900TB" }));
// Stopped before it has run: whether KVM can run it is no matter of this test.
const created = await first.client.instances.create({ name: "web", image: name, size: "128MB", tags: { team: "a" } });
seen["created"] = { state: created.state, image: created.image === name };
seen["taken"] = await codeOf(first.client.instances.create({ name: "web", image: name }));
seen["image in use"] = await codeOf(first.client.images.delete(name));
await first.client.instances.stop(created.id, { query: { grace: "0s" } }).catch((error: { error?: { code?: string } }) => {
  if (error.error?.code !== "invalid_state") throw error; // it has ended by itself
});
seen["stopped"] = (await first.client.instances.wait(created.id, { state: "Stopped", timeout: "2m" })).state;
// What of sleep and snapshots needs no guest that runs.
const { instances, snapshots } = first.client;
const policies = { auto_standby: { enabled: true, idle_timeout: "90m", ignore_destination_ports: [22] }, snapshot_policy: { compression: { enabled: true } } };
await instances.update("web", policies as Hypeman.InstanceUpdateParams);
const snapshot = await instances.snapshots.create("web", { kind: "Stopped", name: "cold", tags: { a: "b" } });
seen["snapshot"] = { kind: snapshot.kind, name: snapshot.name, source: snapshot.source_instance_id === created.id, taken: await codeOf(instances.snapshots.create("web", { kind: "Stopped", name: "cold" })) };
seen["wrong state"] = await Promise.all([codeOf(instances.standby("web")), codeOf(instances.restore("web")), codeOf(instances.snapshots.create("web", { kind: "Standby" })), codeOf(instances.fork("web", { name: "x", target_state: "Standby" }))]);
const forks = [await instances.fork("web", { name: "fork" }), await snapshots.fork("cold", { name: "child" })];
seen["forks"] = forks.map(({ name, state, auto_standby, tags }) => ({ name, state, idle: auto_standby?.idle_timeout, tags }));
seen["fork again"] = [await codeOf(instances.fork("web", { name: "fork" })), (await instances.fork("web", { name: "fork" }, { headers: { "X-Stainless-Retry-Count": "1" } })).id === forks[0]?.id];
seen["in place"] = (await instances.snapshots.restore("cold", { id: "web" })).state;
await first.client.ingresses.create({ name: "site", rules: [{ match: { hostname: "{name}.test" }, target: { instance: "{name}", port: 80 } }] });
const site = (host: string) => fetch("http://127.0.0.1/", { headers: { host } }).then(({ status }) => status, () => "nobody listens");
const { status, reason, idle_timeout } = await instances.autoStandby.status("web");
seen["auto-standby"] = { status, reason, idle_timeout, held: (await instances.autoStandby.hold("web")).status };
const schedule = await instances.snapshotSchedule.update("web", { interval: "24h", retention: { max_count: 3 }, name_prefix: "nightly" });
seen["no schedule"] = await codeOf(instances.snapshotSchedule.get("fork"));
await first.daemon.stop();
seen["site while no daemon runs"] = await site("web.test");
seen["after stop"] = await fetch(`${first.daemon.url}/health`).then(() => "answers", () => "nobody listens");

const second = await start();
const found = await second.client.instances.get("web");
seen["found again"] = { id: found.id === created.id, state: found.state, tags: found.tags, images: (await second.client.images.list({ tags: { kind: "web" } })).length };
seen["schedule"] = Bun.deepEquals(await second.client.instances.snapshotSchedule.get("web"), schedule);
seen["policies"] = { auto_standby: found.auto_standby, snapshot_policy: found.snapshot_policy };
seen["sites"] = [await site("web.test"), await site("nobody.test"), await site("elsewhere")];
await second.client.ingresses.delete("site");
seen["site deleted"] = await site("web.test");
for (const one of ["web", "fork", "child"]) await second.client.instances.delete(one);
seen["snapshot outlives"] = [(await second.client.snapshots.list({ source_instance_id: created.id, tags: { a: "b" } })).map((one) => one.name), await codeOf(second.client.images.delete(name))];
await second.client.snapshots.delete("cold");
await second.client.images.delete(name);
seen["left"] = { snapshots: await second.client.snapshots.list(),  instances: await second.client.instances.list(), images: await second.client.images.list() };
await second.daemon.stop();
seen["log"] = log.every((line) => line.endsWith("\n") && typeof (JSON.parse(line) as { event: unknown }).event === "string");
console.log(JSON.stringify(seen));
// What is declared by `using` is not disposed of by exit().
await registry.stop();
data[Symbol.dispose]();
process.exit(0);
