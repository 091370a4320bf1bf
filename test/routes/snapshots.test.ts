import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import Hypeman from "@onkernel/hypeman";
import { DormouseError } from "../../src/errors.ts";
import type { InstanceState } from "../../src/host/instances/service.ts";
import { type Api, failure, json, retried, startApi } from "./harness.ts";

let api: Api;
beforeEach(() => void (api = startApi()));
afterEach(() => api.stop());

async function instance(name: string, state: InstanceState): Promise<string> {
  const { id } = await api.client.instances.create({ name, image: "nginx" });
  api.instances.change(id, { state });
  return id;
}
const take = (of: string, body: Partial<Hypeman.Instances.SnapshotCreateParams> = {}, options?: object) => api.client.instances.snapshots.create(of, { kind: "Standby", ...body }, options);

describe("create", () => {
  test("answers 201 with all of it", async () => {
    const source = await instance("web", "Running");
    const response = await fetch(`${api.url}/instances/web/snapshots`, json({ kind: "Standby", name: "one", tags: { a: "b" }, compression: { enabled: true, level: 3 } }));
    expect(response.status).toBe(201);
    const { id, created_at, ...rest } = (await response.json()) as Hypeman.Snapshot;
    expect(id).toMatch(/^[a-z0-9]{24}$/);
    expect(Date.parse(created_at)).toBeGreaterThan(0);
    expect(rest as unknown).toEqual({
      name: "one", kind: "Standby", source_instance_id: source, source_instance_name: "web", source_hypervisor: "dormouse", tags: { a: "b" }, size_bytes: 4096,
      compression: { enabled: true, algorithm: "zstd", level: 3 }, compression_state: "compressing", compression_error: null, compressed_size_bytes: null, uncompressed_size_bytes: null,
    });
  });
  test("each kind needs its state", async () => {
    for (const [state, kind, works] of [["Running", "Standby", true], ["Standby", "Standby", true], ["Stopped", "Stopped", true], ["Stopped", "Standby", false], ["Running", "Stopped", false], ["Created", "Standby", false]] as const) {
      const id = await instance(`${state}-${kind}`.toLowerCase(), state);
      if (works) expect((await take(id, { kind })).kind).toBe(kind);
      else expect(await failure(take(id, { kind }))).toMatchObject({ status: 409, code: "invalid_state" });
    }
  });
  test("names are unique for each source; a repeat finds the very one, an unnamed one is never taken", async () => {
    await instance("web", "Running");
    await instance("db", "Running");
    const first = await take("web", { name: "one", tags: { a: "b" } });
    expect(await failure(take("web", { name: "one", tags: { a: "b" } }))).toMatchObject({ status: 409, code: "name_conflict" });
    expect((await take("web", { name: "one", tags: { a: "b" } }, retried)).id).toBe(first.id);
    expect(await failure(take("web", { name: "one", tags: { a: "c" } }, retried))).toMatchObject({ status: 409, code: "name_conflict" });
    expect((await take("db", { name: "one" })).name).toBe("one");
    expect((await take("web")).name).toBeNull();
    expect((await take("web")).name).toBeNull();
  });
  test.each<[string, string, object]>([
    ["name", "invalid_name", { kind: "Standby", name: "A_b" }], ["kind", "bad_request", { kind: "Paused" }], ["kind", "bad_request", {}], ["tags.a", "bad_request", { kind: "Standby", tags: { a: 1 } }],
    ["compression.level", "bad_request", { kind: "Standby", compression: { enabled: true, algorithm: "lz4", level: 10 } }], ["size", "bad_request", { kind: "Standby", size: 1 }],
  ])("a bad %s is %s", async (field, code, body) => {
    await instance("web", "Running");
    expect(await failure(take("web", { kind: undefined, ...body } as object))).toMatchObject({ status: 400, code, details: { field } });
  });
  test("a full disk is told", async () => {
    await instance("web", "Running");
    api.instances.failNext = new DormouseError("host.storage", "Cannot take it: the disk is full.");
    expect(await failure(take("web"))).toMatchObject({ status: 500, code: "host_storage" });
  });
});

describe("list, get and delete", () => {
  test("filters", async () => {
    const web = await instance("web", "Running");
    const db = await instance("db", "Stopped");
    await take("web", { name: "one", tags: { team: "x", env: "prod" } });
    await take("web", { name: "two", tags: { team: "x" } });
    await take("db", { name: "one", kind: "Stopped" });
    const names = async (query: Hypeman.SnapshotListParams) => (await api.client.snapshots.list(query)).map(({ source_instance_name, name }) => `${source_instance_name}/${name}`);
    expect(await names({})).toEqual(["db/one", "web/two", "web/one"]);
    expect(await names({ kind: "Stopped" })).toEqual(["db/one"]);
    expect(await names({ name: "one" })).toEqual(["db/one", "web/one"]);
    for (const ref of [web, "web", web.slice(0, 12)]) expect(await names({ source_instance_id: ref })).toEqual(["web/two", "web/one"]);
    expect(await names({ tags: { team: "x", env: "prod" } })).toEqual(["web/one"]);
    expect(await names({ source_instance_id: db, name: "two" })).toEqual([]);
    await api.client.instances.delete(web);
    expect(await names({ source_instance_id: web })).toEqual(["web/two", "web/one"]);
    expect(await names({ source_instance_id: "web" })).toEqual([]);
  });
  test.each([["kind=Paused", "kind"], ["colour=red", "colour"], ["tags=x", "tags"], ["name=a&name=b", "name"]])("%s names its parameter", async (query, field) => {
    expect(await (await fetch(`${api.url}/snapshots?${query}`)).json()).toMatchObject({ code: "bad_request", details: { field } });
  });
  test("by id, prefix and unique name", async () => {
    await instance("web", "Running");
    await instance("db", "Running");
    const { id } = await take("web", { name: "one" });
    for (const ref of [id, "one", id.slice(0, 12)]) expect((await api.client.snapshots.get(ref)).id).toBe(id);
    await take("db", { name: "one" });
    expect(await failure(api.client.snapshots.get("one"))).toMatchObject({ status: 409, code: "ambiguous" });
    expect(await failure(api.client.snapshots.get("none"))).toMatchObject({ status: 404, code: "not_found" });
  });
  test("delete is 204, then 404, and success for a repeat", async () => {
    await instance("web", "Running");
    const { id } = await take("web");
    await api.client.snapshots.delete(id);
    expect(await failure(api.client.snapshots.delete(id))).toMatchObject({ status: 404, code: "not_found" });
    await api.client.snapshots.delete(id, retried);
  });
});

describe("restore in place", () => {
  test("to the state of its kind, or another; the name means this instance's snapshot", async () => {
    const id = await instance("web", "Running");
    await instance("db", "Running");
    await take("web", { name: "one" });
    await take("db", { name: "one" });
    api.instances.change(id, { state: "Stopped" });
    await take("web", { name: "cold", kind: "Stopped" });
    const restore = (snapshot: string, body: object = {}) => api.client.instances.snapshots.restore(snapshot, { id: "web", ...body });
    expect((await restore("one")).state).toBe("Running");
    expect((await restore("one", { target_state: "Standby", target_hypervisor: "dormouse" })).state).toBe("Standby");
    expect((await restore("cold")).state).toBe("Stopped");
    expect(await failure(restore("cold", { target_state: "Standby" }))).toMatchObject({ status: 400, code: "bad_request" });
    expect(await failure(restore("one", { target_hypervisor: "qemu" }))).toMatchObject({ status: 400, code: "not_supported", details: { field: "target_hypervisor", available: ["dormouse"] } });
    expect(await failure(restore("none"))).toMatchObject({ status: 404, code: "not_found" });
    const [other] = await api.client.snapshots.list({ source_instance_id: "db" });
    expect(await failure(restore(other?.id ?? ""))).toMatchObject({ status: 404, code: "not_found" });
  });
  test("a body may be absent", async () => {
    await instance("web", "Running");
    const { id } = await take("web");
    const response = await fetch(`${api.url}/instances/web/snapshots/${id}/restore`, { method: "POST" });
    expect(response.status).toBe(200);
  });
  test("a failure is never forgiven, repeat or not: an earlier attempt can't be told from a state of before", async () => {
    await instance("web", "Running");
    const { id } = await take("web");
    api.instances.failNext = new DormouseError("snapshot.damaged", "Cannot restore it: a file was changed.");
    expect(await failure(api.client.instances.snapshots.restore(id, { id: "web" }, retried))).toMatchObject({ status: 409, code: "snapshot_damaged" });
  });
});

describe("fork", () => {
  test("to the state of its kind, or another", async () => {
    await instance("web", "Running");
    await instance("cold", "Stopped");
    await take("web", { name: "one" });
    await take("cold", { name: "two", kind: "Stopped" });
    expect(await api.client.snapshots.fork("one", { name: "a" })).toMatchObject({ name: "a", state: "Running" });
    expect(await api.client.snapshots.fork("one", { name: "b", target_state: "Standby" })).toMatchObject({ name: "b", state: "Standby" });
    expect(await api.client.snapshots.fork("two", { name: "c" })).toMatchObject({ name: "c", state: "Stopped" });
    expect(await failure(api.client.snapshots.fork("one", { name: "d", target_hypervisor: "firecracker" }))).toMatchObject({ status: 400, code: "not_supported" });
    expect(await failure(api.client.snapshots.fork("one", { name: "-" }))).toMatchObject({ status: 400, code: "invalid_name" });
    expect(await failure(api.client.snapshots.fork("none", { name: "d" }))).toMatchObject({ status: 404, code: "not_found" });
  });
  test("a taken name is 409, and a repeat finds the fork that is there", async () => {
    await instance("web", "Running");
    await take("web", { name: "one" });
    const first = await api.client.snapshots.fork("one", { name: "two" });
    expect(await failure(api.client.snapshots.fork("one", { name: "two" }))).toMatchObject({ status: 409, code: "already_exists" });
    expect((await api.client.snapshots.fork("one", { name: "two" }, retried)).id).toBe(first.id);
    expect(await failure(api.client.snapshots.fork("one", { name: "web" }, retried))).toMatchObject({ status: 409, code: "already_exists" });
  });
});

describe("schedule", () => {
  test("set, get, keep the cadence, delete", async () => {
    const id = await instance("web", "Running");
    const schedule = () => api.client.instances.snapshotSchedule;
    const set = await schedule().update("web", { interval: "24h", retention: { max_count: 7, max_age: "168h" }, name_prefix: "nightly", metadata: { team: "x" } });
    const { created_at, updated_at, next_run_at, ...rest } = set;
    expect(rest).toEqual({ instance_id: id, interval: "24h", retention: { max_count: 7, max_age: "168h" }, name_prefix: "nightly", metadata: { team: "x" }, last_run_at: null, last_snapshot_id: null, last_error: null });
    expect(Date.parse(next_run_at) - Date.parse(created_at)).toBe(86_400_000);
    expect(await schedule().get("web")).toEqual(set);
    const kept = await schedule().update("web", { interval: "1440m", retention: { max_age: "1h" } });
    expect(kept).toMatchObject({ next_run_at, created_at, retention: { max_age: "1h" }, name_prefix: null, metadata: {} });
    await schedule().delete("web");
    expect(await failure(schedule().get("web"))).toMatchObject({ status: 404, code: "not_found" });
    expect(await failure(schedule().delete("web"))).toMatchObject({ status: 404, code: "not_found" });
    await schedule().delete("web", retried);
  });
  test.each<[string, object]>([
    ["interval", { interval: "59s", retention: { max_count: 1 } }], ["interval", { interval: "daily", retention: { max_count: 1 } }], ["interval", { retention: { max_count: 1 } }],
    ["retention", { interval: "1h", retention: {} }], ["retention", { interval: "1h", retention: { max_count: 0 } }], ["retention", { interval: "1h" }],
    ["retention.max_count", { interval: "1h", retention: { max_count: -1 } }], ["retention.max_age", { interval: "1h", retention: { max_age: "a week" } }],
    ["name_prefix", { interval: "1h", retention: { max_count: 1 }, name_prefix: "x".repeat(48) }], ["name_prefix", { interval: "1h", retention: { max_count: 1 }, name_prefix: "A" }],
  ])("a bad %s is named", async (field, body) => {
    await instance("web", "Running");
    expect(await failure(api.client.instances.snapshotSchedule.update("web", body as Hypeman.Instances.SnapshotScheduleUpdateParams))).toMatchObject({ status: 400, code: "bad_request", details: { field } });
  });
  test("the least that is allowed", async () => {
    await instance("web", "Running");
    expect(await api.client.instances.snapshotSchedule.update("web", { interval: "1m", retention: { max_count: 1 }, name_prefix: "x".repeat(47) })).toMatchObject({ interval: "1m" });
    expect(await api.client.instances.snapshotSchedule.update("web", { interval: "1m", retention: { max_age: "1s", max_count: 0 }, name_prefix: null })).toMatchObject({ retention: { max_age: "1s" }, name_prefix: null });
  });
});
