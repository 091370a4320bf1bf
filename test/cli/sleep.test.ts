// Sleep, forks and snapshots on the command line: a process against the real HTTP layer, over services in memory.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { ok } from "neverthrow";
import { DormouseError } from "../../src/errors.ts";
import type { InstanceState } from "../../src/host/instances/service.ts";
import { autoStandbyOf, compression, duration, tag } from "../../src/cli/policies.ts";
import { schedule, status } from "../../src/cli/sleep-output.ts";
import { describeState } from "../../src/cli/states.ts";
import { type Api, startApi, until } from "../routes/harness.ts";
import { runCli } from "./support.ts";

let api: Api;
beforeEach(() => void (api = startApi()));
afterEach(() => api.stop());

const cli = (...args: string[]) => runCli(args, { env: { DORMOUSE_HOST: api.url } });
async function instance(name: string, state: InstanceState): Promise<string> {
  const { id } = await api.client.instances.create({ name, image: "nginx" });
  api.instances.change(id, { state, startedAt: Date.now() });
  return id;
}
const record = (id: string) => api.instances.records.get(id)!;

describe("standby and restore", () => {
  test("of several, each is tried; ps shows who sleeps, and for how long", async () => {
    const web = await instance("web", "Running");
    await instance("db", "Running");
    expect(await cli("standby", "web", "nobody", "db")).toMatchObject({ status: 1, out: "web\ndb\n", err: expect.stringContaining("nobody") });
    expect((await cli("ps")).out).toMatch(/web .*Standby (less than a second|\d+ seconds?) /);
    expect(await cli("restore", web.slice(0, 12), "db")).toEqual({ status: 0, out: `${web.slice(0, 12)}\ndb\n`, err: "" });
    expect(JSON.parse((await cli("standby", "--json", "db")).out)).toMatchObject([{ name: "db", state: "Standby" }]);
    expect(await cli("restore", "web")).toEqual({ status: 1, out: "", err: "dormouse: Cannot restore instance web: it is Running.\n" });
  });
  test("options reach the daemon", async () => {
    await instance("web", "Running");
    await cli("standby", "-f", "--compression", "zstd:3", "--compression-delay", "30s", "web");
    expect(api.instances.calls).toEqual(['standby {"compression":{"enabled":true,"algorithm":"zstd","level":3},"compressionDelayMs":30000,"force":true}']);
  });
  test("one that was called off says why", async () => {
    await instance("web", "Running");
    api.instances.failNext = new DormouseError("conflict", "Cannot put instance web to sleep: a packet came for it.");
    expect(await cli("standby", "web")).toEqual({ status: 1, out: "", err: "dormouse: Cannot put instance web to sleep: a packet came for it.\n" });
  });
});

describe("fork", () => {
  test("of an instance and of a snapshot, to a state; prints the id", async () => {
    await instance("web", "Running");
    expect(await cli("fork", "web", "two")).toMatchObject({ status: 1, err: "dormouse: Cannot fork instance web: it is Running.\n" });
    const { status: ended, out } = await cli("fork", "--from-running", "--target-state", "standby", "web", "two");
    expect([ended, record(out.trim())]).toMatchObject([0, { name: "two", state: "Standby" }]);
    await cli("snapshot", "create", "--name", "one", "web");
    expect(record((await cli("fork", "--snapshot", "one", "three")).out.trim())).toMatchObject({ name: "three", state: "Running" });
    expect(record((await cli("snapshot", "fork", "--target-state", "Stopped", "one", "four")).out.trim())).toMatchObject({ name: "four", state: "Stopped" });
    expect(JSON.parse((await cli("fork", "--snapshot", "one", "five", "--json")).out)).toMatchObject({ name: "five" });
    expect(await cli("fork", "--from-running", "web", "two")).toMatchObject({ status: 1, err: expect.stringContaining("the name is taken") });
  });
});

describe("update and auto-standby", () => {
  test("flags change what they name, and keep the rest", async () => {
    const id = await instance("web", "Running");
    expect(await cli("update", "web", "--auto-standby", "5m", "--ignore-port", "22", "--ignore-port", "9100", "--ignore-source", "10.0.0.0/8")).toEqual({ status: 0, out: "web\n", err: "" });
    const policy = { enabled: true, idleTimeoutMs: 300_000, ignoreDestinationPorts: [22, 9100], ignoreSourceCidrs: ["10.0.0.0/8"], wakeOnPacket: true };
    expect(record(id).autoStandby).toEqual(policy);
    await cli("update", "web", "--no-wake");
    expect(record(id).autoStandby).toEqual({ ...policy, wakeOnPacket: false });
    await cli("update", "web", "--ignore-port", "1");
    expect(record(id).autoStandby).toEqual({ ...policy, ignoreDestinationPorts: [1], wakeOnPacket: false });
    await cli("update", "web", "--no-auto-standby", "--compression", "lz4");
    expect(record(id)).toMatchObject({ autoStandby: { enabled: false, idleTimeoutMs: 300_000, wakeOnPacket: false }, snapshotPolicy: { compression: { enabled: true, algorithm: "lz4", level: 0 } } });
    await cli("update", "web", "--compression-delay", "1m", "--wake");
    expect(record(id)).toMatchObject({ autoStandby: { enabled: false, wakeOnPacket: true }, snapshotPolicy: { compression: { algorithm: "lz4" }, standbyCompressionDelayMs: 60_000 } });
  });
  test("the status in words, and as JSON", async () => {
    await instance("web", "Running");
    expect((await cli("auto-standby", "web")).out).toMatch(/status +disabled\nbecause +it has no policy/);
    await cli("update", "web", "--auto-standby", "5m");
    expect((await cli("auto-standby", "--hold", "web")).out).toMatch(/status +idle countdown\n[^]*held for +(?:4m\d+s|5m)\n$/);
    expect(JSON.parse((await cli("auto-standby", "web", "--json")).out)).toMatchObject({ enabled: true, status: "idle_countdown" });
    await cli("standby", "web");
    expect(await cli("auto-standby", "--hold", "web")).toMatchObject({ status: 1, err: expect.stringContaining("it sleeps") });
  });
  test("run takes a policy from the start", async () => {
    api.images.add("nginx");
    api.instances.subscribe((one) => {
      if (one.state === "Created") queueMicrotask(() => void api.instances.change(one.id, { state: "Running", startedAt: Date.now() }));
    });
    const { out } = await cli("run", "-d", "--auto-standby", "30s", "--no-wake", "nginx");
    expect(record(out.trim()).autoStandby).toEqual({ enabled: true, idleTimeoutMs: 30_000, ignoreDestinationPorts: [], ignoreSourceCidrs: [], wakeOnPacket: false });
  });
});

test("an attached run says that its instance was put to sleep, and goes on with its log", async () => {
  api.images.add("nginx");
  api.instances.lines = ["one"];
  api.instances.logs = (ref) => ok(untilStopped(ref));
  api.instances.subscribe((one) => {
    if (one.state === "Created") queueMicrotask(() => void api.instances.change(one.id, { state: "Running", startedAt: Date.now() }));
  });
  api.instances.onExec = (exec) => {
    const [{ id } = { id: "" }] = api.instances.list();
    api.instances.change(id, { state: "Standby" });
    exec.listener.onLost("the guest went away");
  };
  const get = api.instances.get;
  // It stops once the command line has seen that it sleeps.
  api.instances.get = (ref) => get(ref).map((one) => {
    if (one.state === "Standby") queueMicrotask(() => void api.instances.change(one.id, { state: "Stopped", exitCode: 0 }));
    return one;
  });
  const ended = await runCli(["run", "-i", "--name", "web", "nginx"], { env: { DORMOUSE_HOST: api.url }, input: "" });
  expect(ended).toEqual({ status: 0, out: "one\n", err: "web was put to sleep; `dormouse restore web` wakes it\n" });

  async function* untilStopped(ref: string): AsyncGenerator<string> {
    yield* api.instances.lines;
    await until(() => api.instances.records.get(ref)?.state === "Stopped");
  }
});

describe("snapshot", () => {
  test("create, ls, inspect, restore and rm", async () => {
    const web = await instance("web", "Running");
    const db = await instance("db", "Stopped");
    const taken = (await cli("snapshot", "create", "--name", "one", "-t", "team=x", "-t", "env=prod", "--compression", "zstd", "web")).out.trim();
    expect(api.instances.snapshots.get(taken)).toMatchObject({ name: "one", kind: "Standby", tags: { team: "x", env: "prod" }, compression: { algorithm: "zstd" } });
    const cold = (await cli("snapshot", "create", "db")).out.trim();
    expect(api.instances.snapshots.get(cold)).toMatchObject({ name: null, kind: "Stopped" });
    const { out } = await cli("snapshot", "ls");
    expect(out.split("\n")[0]).toMatch(/^ID +NAME +KIND +OF +CREATED +SIZE +COMPRESSION$/);
    expect(out).toMatch(/one +Standby +web .* 4\.10KB +zstd compressing/);
    expect((await cli("snapshot", "ls", "-q", "db")).out).toBe(`${cold}\n`);
    expect((await cli("snapshot", "ls", "-q", "--kind", "standby", "-t", "env=prod")).out).toBe(`${taken}\n`);
    expect((await cli("snapshot", "ls", "-q", "--name", "two")).out).toBe("");
    expect(JSON.parse((await cli("snapshot", "inspect", "one", cold)).out)).toMatchObject([{ id: taken, source_instance_id: web }, { id: cold, source_instance_id: db }]);
    expect(await cli("snapshot", "restore", "--target-state", "standby", "web", "one")).toEqual({ status: 0, out: "web\n", err: "" });
    expect(record(web).state).toBe("Standby");
    expect(await cli("snapshot", "rm", "one", "none")).toMatchObject({ status: 1, out: "one\n", err: "dormouse: Cannot find snapshot none.\n" });
    expect(await cli("snapshot", "create", "--kind", "stopped", "web")).toMatchObject({ status: 1, err: expect.stringContaining("it is Standby") });
  });
  test("a schedule is set, shown and removed", async () => {
    const id = await instance("web", "Running");
    expect(await cli("snapshot", "schedule", "web")).toMatchObject({ status: 1, err: expect.stringContaining("Cannot find a snapshot schedule") });
    const { out } = await cli("snapshot", "schedule", "web", "--every", "24h", "--keep", "7", "--max-age", "168h", "--prefix", "nightly", "-t", "team=x");
    expect(out).toMatch(/every +24h\nkeeps +the newest 7, none older than 168h\nnames +nightly-…\nnext +in (?:23h59m\d+s|24h)\nlast +never\n/);
    expect(api.instances.schedules.get(id)).toMatchObject({ intervalMs: 86_400_000, maxCount: 7, maxAgeMs: 604_800_000, namePrefix: "nightly", metadata: { team: "x" } });
    expect(JSON.parse((await cli("snapshot", "schedule", "--json", "web")).out)).toMatchObject({ interval: "24h" });
    expect(await cli("snapshot", "schedule", "--rm", "web")).toEqual({ status: 0, out: "", err: "" });
    expect(api.instances.schedules.size).toBe(0);
  });
});

test("wrong usage ends with 2, for run with 125, and says what is right", async () => {
  await instance("web", "Running");
  const cases: [string[], string][] = [
    [["standby"], "missing"], [["fork", "web"], "missing"], [["fork", "--target-state", "paused", "web", "two"], "running, standby, stopped"], [["fork", "--snapshot", "--from-running", "a", "b"], "a snapshot does not run"],
    [["standby", "--compression", "gzip", "web"], "zstd, lz4 or none"], [["update", "web"], "no option"], [["update", "web", "--auto-standby", "soon"], "30s"], [["update", "web", "--ignore-port", "22"], "--auto-standby"],
    [["snapshot", "create", "-t", "team", "web"], "KEY=VALUE"], [["snapshot", "nothing"], "unknown command"], [["snapshot", "schedule", "web", "--keep", "3"], "--every"], [["snapshot", "schedule", "web", "--every", "1h"], "--keep or --max-age"],
  ];
  for (const [args, said] of cases) expect([args, await cli(...args)]).toMatchObject([args, { status: 2, out: "", err: expect.stringContaining(said) }]);
  expect(await cli("run", "-d", "--auto-standby", "5", "nginx")).toMatchObject({ status: 125 });
  expect((await cli("snapshot", "--help")).out).toMatch(/create .*\n[^]*schedule/);
});

describe("option values", () => {
  test("duration(), compression() and tag()", () => {
    for (const text of ["30s", "1h30m", "1.5h", "500ms"]) expect(duration(text)).toBe(text);
    for (const text of ["", "5", "1d", "-1s", "s"]) expect(() => duration(text)).toThrow("such as");
    expect([compression("zstd"), compression("lz4:9"), compression("none")]).toEqual([{ enabled: true, algorithm: "zstd" }, { enabled: true, algorithm: "lz4", level: 9 }, { enabled: false }]);
    for (const text of ["", "zstd:", "gzip", "zstd:x"]) expect(() => compression(text)).toThrow("zstd");
    expect(tag("b=x=y", tag("a="))).toEqual({ a: "", b: "x=y" });
    expect(() => tag("=x")).toThrow("KEY=VALUE");
  });
  test("autoStandbyOf() says nothing where the flags don't, and lets waking follow", () => {
    expect(autoStandbyOf({}, { enabled: true, idle_timeout: "5m" })).toBeUndefined();
    expect(autoStandbyOf({ autoStandby: "5m" }, { enabled: false, wake_on_packet: false, ignore_destination_ports: [1] })).toEqual({ enabled: true, idle_timeout: "5m", ignore_destination_ports: [1] });
    expect(autoStandbyOf({ wake: true }, undefined)).toEqual({ wake_on_packet: true });
  });
});

describe("what people read", () => {
  const base = { id: "i", name: "n", image: "x", created_at: "2026-01-01T00:00:00Z" };
  test("how long it sleeps", () => {
    const now = Date.parse("2026-01-01T01:00:00Z");
    expect(describeState({ ...base, state: "Standby", current_phase_since: "2026-01-01T00:57:00Z" }, now)).toBe("Standby 3 minutes");
  });
  test("status() and schedule() leave out what is not known", () => {
    expect(status({ status: "ineligible", reason: "network_disabled", active_inbound_connections: 0, idle_timeout: "5m" })).toBe("WHAT         NOW\nstatus       ineligible\nbecause      it has no network\nconnections  0\nidle time    5m");
    expect(schedule({ interval: "1h", retention: { max_age: "24h" }, next_run_at: "2026-01-01T01:00:00Z", last_run_at: "2026-01-01T00:00:00Z", last_error: "the disk\nis full" }, Date.parse("2026-01-01T00:20:00Z")))
      .toBe("WHAT    IS\nevery   1h\nkeeps   none older than 24h\nnext    in 40m\nlast    20 minutes ago\nfailed  the disk is full");
  });
});
