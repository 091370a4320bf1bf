import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import Hypeman from "@onkernel/hypeman";
import { ResultAsync } from "neverthrow";
import { DormouseError } from "../../src/errors.ts";
import type { InstanceState } from "../../src/host/instances/service.ts";
import { type Api, failure, json, retried, startApi, until } from "./harness.ts";

let api: Api;
beforeEach(() => void (api = startApi()));
afterEach(() => api.stop());

/** An instance in `state`. */
async function instance(name: string, state: InstanceState, body: Partial<Hypeman.InstanceCreateParams> = {}): Promise<string> {
  const { id } = await api.client.instances.create({ name, image: "nginx", ...body });
  api.instances.change(id, { state });
  return id;
}
const stateOf = async (ref: string) => (await api.client.instances.get(ref)).state;

describe("standby and restore", () => {
  test("there and back, with the snapshot shown in between", async () => {
    await instance("web", "Running");
    expect(await api.client.instances.standby("web")).toMatchObject({ name: "web", state: "Standby", has_snapshot: true });
    expect(await api.client.instances.restore("web")).toMatchObject({ name: "web", state: "Running", has_snapshot: false });
    expect(api.instances.calls).toEqual(["standby {}", "restore"]);
  });
  test("options reach the domain, with the contract's defaults", async () => {
    const id = await instance("web", "Running");
    const asked: [object, object][] = [
      [{ compression: { enabled: true } }, { compression: { enabled: true, algorithm: "zstd", level: 1 } }],
      [{ compression: { enabled: true, algorithm: "lz4" } }, { compression: { enabled: true, algorithm: "lz4", level: 0 } }],
      [{ compression: { enabled: true, level: 19 }, compression_delay: "1m30s" }, { compression: { enabled: true, algorithm: "zstd", level: 19 }, compressionDelayMs: 90_000 }],
      [{ compression: { enabled: false, level: 99 } }, { compression: { enabled: false } }],
      [{ compression_delay: "0s", force: true }, { compressionDelayMs: 0, force: true }],
    ];
    for (const [body, options] of asked) {
      api.instances.change(id, { state: "Running" });
      await api.client.instances.standby("web", body);
      expect(api.instances.calls.at(-1)).toBe(`standby ${JSON.stringify(options)}`);
    }
  });
  test("an absent, empty or null body is none", async () => {
    const id = await instance("web", "Running");
    for (const body of [undefined, "", "null", "{}"]) {
      api.instances.change(id, { state: "Running" });
      const response = await fetch(`${api.url}/instances/web/standby`, { method: "POST", ...(body === undefined ? {} : { body, headers: { "content-type": "application/json" } }) });
      expect(response.status).toBe(200);
    }
  });
  test.each<[string, object]>([
    ["compression.level", { compression: { enabled: true, level: 0 } }], ["compression.level", { compression: { enabled: true, level: 20 } }], ["compression.algorithm", { compression: { enabled: true, algorithm: "gzip" } }],
    ["compression.enabled", { compression: { level: 1 } }], ["compression_delay", { compression_delay: "later" }], ["compression_delay", { compression_delay: "-1s" }], ["colour", { colour: "red" }],
  ])("a bad %s is named", async (field, body) => {
    await instance("web", "Running");
    expect(await failure(api.client.instances.standby("web", body as Hypeman.InstanceStandbyParams))).toMatchObject({ status: 400, code: "bad_request", details: { field } });
    expect(await stateOf("web")).toBe("Running");
  });
  test("the wrong state is 409 at first, and success for a repeat that is there", async () => {
    await instance("web", "Stopped");
    const { instances } = api.client;
    for (const call of [() => instances.standby("web"), () => instances.restore("web"), () => instances.standby("web", {}, retried), () => instances.restore("web", retried)])
      expect(await failure(call())).toMatchObject({ status: 409, code: "invalid_state" });
    await instance("awake", "Running");
    expect(await failure(api.client.instances.restore("awake"))).toMatchObject({ status: 409, code: "invalid_state" });
    expect((await api.client.instances.restore("awake", retried)).state).toBe("Running");
    await instance("asleep", "Standby");
    expect(await failure(api.client.instances.standby("asleep"))).toMatchObject({ status: 409, code: "invalid_state" });
    expect((await api.client.instances.standby("asleep", {}, retried)).state).toBe("Standby");
  });
  test.each([["conflict", 409, "conflict"], ["snapshot.damaged", 409, "snapshot_damaged"], ["snapshot.incompatible", 409, "snapshot_incompatible"], ["host.storage", 500, "host_storage"]] as const)(
    "%s of the domain is %d %s",
    async (code, status, wire) => {
      await instance("web", "Standby");
      api.instances.failNext = new DormouseError(code, "Cannot restore it.");
      expect(await failure(api.client.instances.restore("web"))).toMatchObject({ status, code: wire });
    },
  );
  test("a hang-up cancels nothing", async () => {
    const id = await instance("web", "Running");
    const begun = Promise.withResolvers<void>(), goes = Promise.withResolvers<void>();
    api.instances.standby = (ref) => {
      begun.resolve();
      return ResultAsync.fromSafePromise(goes.promise).map(() => api.instances.change(api.instances.get(ref)._unsafeUnwrap().id, { state: "Standby" }));
    };
    const abort = new AbortController();
    const asked = fetch(`${api.url}/instances/web/standby`, { method: "POST", signal: abort.signal }).catch(() => "hung up");
    await begun.promise;
    abort.abort();
    expect(await asked).toBe("hung up");
    goes.resolve();
    await until(() => api.instances.records.get(id)?.state === "Standby");
  });
  test("who is not there is 404", async () => {
    const { instances } = api.client;
    const calls = [
      () => instances.standby("x"), () => instances.restore("x"), () => instances.fork("x", { name: "y" }), () => instances.update("x", {}), () => instances.autoStandby.status("x"), () => instances.autoStandby.hold("x"),
    ];
    for (const call of calls) expect(await failure(call())).toMatchObject({ status: 404, code: "not_found" });
  });
});

describe("fork", () => {
  test("from each state, to the source's or to another", async () => {
    const cases: [InstanceState, Hypeman.InstanceForkParams["target_state"], string][] = [
      ["Stopped", undefined, "Stopped"], ["Standby", undefined, "Standby"], ["Running", undefined, "Running"], ["Standby", "Running", "Running"], ["Running", "Standby", "Standby"], ["Running", "Stopped", "Stopped"],
    ];
    for (const [i, [from, target_state, to]] of cases.entries()) {
      await instance(`src-${i}`, from, { env: { A: "1" } });
      const body = { name: `fork-${i}`, from_running: true, ...(target_state === undefined ? {} : { target_state }) };
      expect(await api.client.instances.fork(`src-${i}`, body)).toMatchObject({ name: `fork-${i}`, state: to, env: { A: "1" }, port_mappings: [] } as object);
      expect(await stateOf(`src-${i}`)).toBe(from);
    }
  });
  test("answers 201", async () => {
    await instance("web", "Stopped");
    expect((await fetch(`${api.url}/instances/web/fork`, json({ name: "two" }))).status).toBe(201);
  });
  test("a running source must be meant, and a stopped one has no memory", async () => {
    await instance("web", "Running");
    expect(await failure(api.client.instances.fork("web", { name: "two" }))).toMatchObject({ status: 409, code: "invalid_state" });
    await instance("old", "Stopped");
    expect(await failure(api.client.instances.fork("old", { name: "two", target_state: "Standby" }))).toMatchObject({ status: 409, code: "invalid_state" });
    expect(await failure(api.client.instances.get("two"))).toMatchObject({ status: 404 });
  });
  test("bad names, states and fields are named", async () => {
    await instance("web", "Stopped");
    const fork = (body: object) => failure(api.client.instances.fork("web", body as Hypeman.InstanceForkParams));
    expect(await fork({ name: "A_b" })).toMatchObject({ status: 400, code: "invalid_name" });
    expect(await fork({})).toMatchObject({ status: 400, code: "bad_request", details: { field: "name" } });
    expect(await fork({ name: "two", target_state: "Paused" })).toMatchObject({ status: 400, code: "bad_request", details: { field: "target_state" } });
    expect(await fork({ name: "two", from_running: "yes" })).toMatchObject({ status: 400, code: "bad_request", details: { field: "from_running" } });
  });
  test("a taken name is 409, and a repeat finds the fork that is there, and no other instance", async () => {
    await instance("web", "Running");
    const first = await api.client.instances.fork("web", { name: "two", from_running: true });
    const again = (options?: object, body: object = {}) => api.client.instances.fork("web", { name: "two", from_running: true, ...body }, options);
    expect(await failure(again())).toMatchObject({ status: 409, code: "already_exists" });
    expect((await again(retried)).id).toBe(first.id);
    expect(await failure(again(retried, { target_state: "Standby" }))).toMatchObject({ status: 409, code: "already_exists" });
    await instance("other", "Running", { size: "2GB" });
    expect(await failure(again(retried, { name: "other" }))).toMatchObject({ status: 409, code: "already_exists" });
    expect(await failure(again(retried, { name: "web" }))).toMatchObject({ status: 409, code: "already_exists" });
  });
});

describe("update", () => {
  const policy = { enabled: true, idle_timeout: "5m", ignore_destination_ports: [22], ignore_source_cidrs: ["10.0.0.0/8"] };

  test("replaces a policy as a whole, removes it with null, and leaves what is absent", async () => {
    await instance("web", "Running");
    expect(await api.client.instances.get("web")).not.toHaveProperty("auto_standby");
    expect((await api.client.instances.update("web", { auto_standby: policy })).auto_standby as unknown).toEqual({ ...policy, wake_on_packet: true });
    const compressed = await api.client.instances.update("web", { snapshot_policy: { compression: { enabled: true, algorithm: "lz4" }, standby_compression_delay: "90s" } } as object);
    expect(compressed).toMatchObject({ auto_standby: policy, snapshot_policy: { compression: { enabled: true, algorithm: "lz4", level: 0 }, standby_compression_delay: "1m30s" } });
    expect(await api.client.instances.update("web", {})).toMatchObject({ auto_standby: policy, snapshot_policy: { standby_compression_delay: "1m30s" } });
    const replaced = await api.client.instances.update("web", { auto_standby: { enabled: false } });
    expect(replaced.auto_standby as unknown).toEqual({ enabled: false, ignore_destination_ports: [], ignore_source_cidrs: [], wake_on_packet: false });
    const bare = await api.client.instances.update("web", { auto_standby: null, snapshot_policy: null } as object);
    expect(Object.keys(bare)).not.toContain("auto_standby");
    expect(Object.keys(bare)).not.toContain("snapshot_policy");
  });
  test("what goes out goes in again, and means the same", async () => {
    const id = await instance("web", "Running", { auto_standby: { ...policy, idle_timeout: "1h0m1.5s" }, snapshot_policy: { compression: { enabled: true } } });
    const { auto_standby, snapshot_policy } = await api.client.instances.get("web");
    const { autoStandby, snapshotPolicy } = api.instances.records.get(id)!;
    expect(auto_standby?.idle_timeout).toBe("1h1.5s");
    await api.client.instances.update("web", { auto_standby, snapshot_policy } as object);
    expect(api.instances.records.get(id)).toMatchObject({ autoStandby, snapshotPolicy });
  });
  test("waking is a policy of its own", async () => {
    const id = await instance("web", "Running");
    const wakes = async (auto_standby: object) => {
      await api.client.instances.update("web", { auto_standby });
      return api.instances.records.get(id)?.autoStandby?.wakeOnPacket;
    };
    expect(await wakes({ enabled: true, idle_timeout: "5m", wake_on_packet: false })).toBe(false);
    expect(await wakes({ enabled: false, wake_on_packet: true })).toBe(true);
  });
  test.each<[string, object]>([
    ["auto_standby.idle_timeout", { auto_standby: { enabled: true } }], ["auto_standby.idle_timeout", { auto_standby: { ...policy, idle_timeout: "0s" } }],
    ["auto_standby.idle_timeout", { auto_standby: { ...policy, idle_timeout: "-5m" } }], ["auto_standby.idle_timeout", { auto_standby: { ...policy, idle_timeout: "876000h" } }],
    ["auto_standby.ignore_destination_ports", { auto_standby: { ...policy, ignore_destination_ports: [0] } }], ["auto_standby.ignore_destination_ports", { auto_standby: { ...policy, ignore_destination_ports: [65536] } }],
    ["auto_standby.ignore_destination_ports", { auto_standby: { ...policy, ignore_destination_ports: [1.5] } }], ["auto_standby.ignore_source_cidrs", { auto_standby: { ...policy, ignore_source_cidrs: ["10.0.0.0/33"] } }],
    ["auto_standby.ignore_source_cidrs", { auto_standby: { ...policy, ignore_source_cidrs: Array.from({ length: 257 }, (_, i) => `10.0.${i % 256}.0/24`) } }],
    ["snapshot_policy.compression.level", { snapshot_policy: { compression: { enabled: true, algorithm: "zstd", level: 20 } } }], ["snapshot_policy.compression.level", { snapshot_policy: { compression: { enabled: true, algorithm: "lz4", level: -1 } } }],
    ["snapshot_policy.standby_compression_delay", { snapshot_policy: { standby_compression_delay: "-1s" } }], ["snapshot_policy.standby_compression_delay", { snapshot_policy: { standby_compression_delay: "9999999h" } }],
  ])("a %s out of range is named, and nothing changes", async (field, body) => {
    await instance("web", "Running", { auto_standby: policy });
    const before = await api.client.instances.get("web"), error = await failure(api.client.instances.update("web", body));
    expect({ status: error.status, code: error.code, field: String((error.details as { field?: string }).field).replace(/\[\d+\]$/, "") }).toEqual({ status: 400, code: "bad_request", field });
    const { auto_standby, snapshot_policy } = await api.client.instances.get("web");
    expect({ auto_standby, snapshot_policy }).toEqual({ auto_standby: before.auto_standby, snapshot_policy: before.snapshot_policy });
  });
  test("an empty or absent body changes nothing", async () => {
    await instance("web", "Running", { auto_standby: policy });
    for (const body of [undefined, "", "null"]) {
      const response = await fetch(`${api.url}/instances/web`, { method: "PATCH", ...(body === undefined ? {} : { body, headers: { "content-type": "application/json" } }) });
      expect([response.status, ((await response.json()) as { auto_standby: object }).auto_standby]).toEqual([200, { ...policy, wake_on_packet: true }]);
    }
  });
  test("takes the neutral value of the contract's other fields, and refuses more by name", async () => {
    await instance("web", "Running");
    await api.client.instances.update("web", { env: {}, health_check: { type: "none" }, restart_policy: { policy: "never" }, ttl: "0s", expires_at: "" });
    for (const [field, value] of Object.entries({ env: { A: "1" }, health_check: { type: "tcp" }, restart_policy: { policy: "always" }, ttl: "1h", expires_at: "2030-01-01T00:00:00Z" }))
      expect(await failure(api.client.instances.update("web", { [field]: value, auto_standby: policy }))).toMatchObject({ status: 400, code: "not_supported", details: { field } });
    expect(await api.client.instances.get("web")).not.toHaveProperty("auto_standby");
    expect(await failure(api.client.instances.update("web", { name: "new" } as object))).toMatchObject({ status: 400, code: "bad_request", details: { field: "name" } });
  });
});

describe("automatic standby", () => {
  test("status tells all that is known, in the contract's formats", async () => {
    await instance("web", "Running", { auto_standby: { enabled: true, idle_timeout: "5m" } });
    const at = Date.UTC(2026, 0, 2);
    api.instances.status = { activeInboundConnections: 2, idleSince: at, nextStandbyAt: at + 300_000, countdownRemainingMs: 61_250.4, lastInboundActivityAt: at };
    expect((await api.client.instances.autoStandby.status("web")) as unknown).toEqual({
      supported: true, configured: true, enabled: true, eligible: true, status: "idle_countdown", reason: "idle_timeout_not_elapsed", active_inbound_connections: 2, tracking_mode: "memory",
      idle_timeout: "5m", idle_since: "2026-01-02T00:00:00.000Z", last_inbound_activity_at: "2026-01-02T00:00:00.000Z", next_standby_at: "2026-01-02T00:05:00.000Z", countdown_remaining: "1m1.25s", hold_until: null,
    });
  });
  test("hold keeps it awake, tells that it does, and is too late for one that sleeps", async () => {
    await instance("web", "Running", { auto_standby: { enabled: true, idle_timeout: "5m" } });
    expect(Date.parse((await api.client.instances.autoStandby.hold("web")).hold_until ?? "")).toBeGreaterThan(Date.now() + 200_000);
    await instance("plain", "Running");
    expect(await api.client.instances.autoStandby.hold("plain")).toMatchObject({ configured: false, status: "disabled", reason: "policy_missing" });
    await instance("asleep", "Standby", { auto_standby: { enabled: true, idle_timeout: "5m" } });
    expect(await failure(api.client.instances.autoStandby.hold("asleep"))).toMatchObject({ status: 409, code: "instance_in_standby" });
  });
});
