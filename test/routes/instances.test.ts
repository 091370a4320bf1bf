import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import Hypeman from "@onkernel/hypeman";
import { DormouseError } from "../../src/errors.ts";
import { type Api, failure, json, retried, startApi, until } from "./harness.ts";

let api: Api;
beforeEach(() => void (api = startApi()));
afterEach(() => api.stop());

const create = (name: string, tags: Record<string, string> = {}) => api.client.instances.create({ name, image: "docker.io/library/nginx:latest", tags });

describe("create", () => {
  test("fills in the defaults of the contract", async () => {
    const { id, created_at, current_phase_since, phase_durations_ms, ...rest } = (await create("web")) as Hypeman.Instances.Instance;
    expect(id).toMatch(/^[a-z0-9]{24}$/);
    expect(created_at).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    expect(current_phase_since).toBe(created_at);
    expect(phase_durations_ms).toEqual({ created: 0 });
    expect(rest as unknown).toEqual({
      name: "web", image: "docker.io/library/nginx:latest", image_digest: `sha256:${"a".repeat(64)}`, state: "Created", expires_at: null, started_at: null, stopped_at: null,
      state_error: null, exit_code: null, size: "1GB", vcpus: 2, overlay_size: "10GB", env: {}, tags: {}, entrypoint: null, cmd: null, hypervisor: "dormouse",
      platform: "linux/amd64", has_snapshot: false, network: { enabled: true, name: "default", ip: "172.30.0.2", mac: "02:00:ac:1e:00:02" }, volumes: [],
      port_mappings: [], tty: false, open_stdin: false, current_phase: "created",
    });
  });

  test("passes on every field, and takes the neutral value of those that are not implemented", async () => {
    const body = {
      name: "full", image: "nginx", size: "512MB", vcpus: 4, overlay_size: "3G", env: { A: "1", B: "" }, tags: { team: "x" }, entrypoint: ["/bin/sh"], cmd: ["-c", "true"],
      network: { enabled: true, bandwidth_download: "", egress: { enabled: false } }, hypervisor: "dormouse", platform: "linux/amd64", skip_kernel_headers: true,
      port_mappings: [{ guest_port: 80, host_port: 8080 }, { guest_port: 53, host_port: 8080, protocol: "udp" }], tty: true, open_stdin: true,
      auto_standby: { enabled: true, idle_timeout: "1h30m", ignore_destination_ports: [22, 22], ignore_source_cidrs: ["10.1.2.3/8"] },
      snapshot_policy: { compression: { enabled: true }, standby_compression_delay: "30s" }, credentials: {}, devices: [], disk_io_bps: "", gpu: {}, health_check: { type: "none" }, hotplug_size: "0", restart_policy: { policy: "never" },
      skip_guest_agent: false, ttl: "0s", volumes: [], expires_at: null,
    };
    const response = await fetch(`${api.url}/instances`, json(body));
    expect(response.status).toBe(201);
    expect(await response.json()).toMatchObject({
      name: "full", size: "512MB", vcpus: 4, overlay_size: "3GB", env: { A: "1", B: "" }, tags: { team: "x" }, entrypoint: ["/bin/sh"], cmd: ["-c", "true"], tty: true, open_stdin: true,
      port_mappings: [{ guest_port: 80, host_port: 8080, protocol: "tcp" }, { guest_port: 53, host_port: 8080, protocol: "udp" }],
      auto_standby: { enabled: true, idle_timeout: "1h30m", ignore_destination_ports: [22], ignore_source_cidrs: ["10.0.0.0/8"], wake_on_packet: true },
      snapshot_policy: { compression: { enabled: true, algorithm: "zstd", level: 1 }, standby_compression_delay: "30s" },
    });
  });

  test("without a network has no address", async () => {
    const instance = await api.client.instances.create({ name: "alone", image: "nginx", network: { enabled: false } });
    expect(instance.network).toEqual({ enabled: false, ip: null, mac: null });
  });

  test("a taken name is 409 at first, and a repeat of the same request is answered with what is there", async () => {
    api.images.add("docker.io/library/nginx:latest");
    const first = await create("web");
    expect(await failure(create("web"))).toMatchObject({ status: 409, code: "already_exists" });
    const again = await api.client.instances.create({ name: "web", image: "docker.io/library/nginx:latest" }, retried);
    expect(again.id).toBe(first.id);
    const other = api.client.instances.create({ name: "web", image: "docker.io/library/nginx:latest", vcpus: 7 }, retried);
    expect(await failure(other)).toMatchObject({ status: 409, code: "already_exists" });
  });

  test.each([["image.not_found", 404, "image_not_found"], ["image.not_ready", 400, "image_not_ready"], ["resources.insufficient", 409, "insufficient_resources"], ["port.taken", 409, "port_in_use"]] as const)(
    "%s of the domain is %d %s",
    async (code, status, wire) => {
      api.instances.failNext = new DormouseError(code, "Cannot create it.");
      expect(await failure(create("web"))).toMatchObject({ status, code: wire });
    },
  );
});

describe("list and get", () => {
  test("filter by state and by all of the tags", async () => {
    const a = await create("a", { team: "web", env: "prod" });
    await create("b", { team: "web", env: "dev" });
    const c = await create("c", { "odd [key]": "x&y=z" });
    api.instances.change(a.id, { state: "Running" });
    const names = async (query: Hypeman.InstanceListParams) => (await api.client.instances.list(query)).map(({ name }) => name);
    expect(await names({})).toEqual(["a", "b", "c"]);
    expect(await names({ tags: { team: "web" } })).toEqual(["a", "b"]);
    expect(await names({ tags: { team: "web", env: "dev" } })).toEqual(["b"]);
    expect(await names({ state: "Running" })).toEqual(["a"]);
    expect(await names({ state: "Running", tags: { env: "dev" } })).toEqual([]);
    expect(await names({ tags: { "odd [key]": "x&y=z" } })).toEqual([c.name]);
  });
  test("by id, name and prefix", async () => {
    const { id } = await create("web");
    for (const ref of [id, "web", id.slice(0, 8)]) expect((await api.client.instances.get(ref)).id).toBe(id);
    expect(await failure(api.client.instances.get("nobody"))).toMatchObject({ status: 404, code: "not_found" });
  });
  test("Unknown comes with its reason, an end with its own", async () => {
    const { id } = await create("web");
    api.instances.change(id, { state: "Unknown", stateError: "the monitor's record can't be read" });
    expect(await api.client.instances.get(id)).toMatchObject({ state: "Unknown", state_error: "the monitor's record can't be read" });
    api.instances.change(id, { state: "Stopped", stateError: null, exitCode: 137, exitMessage: "killed by signal 9 (SIGKILL) - OOM", stoppedAt: Date.UTC(2026, 0, 1) });
    expect(await api.client.instances.get(id)).toMatchObject({ exit_code: 137, exit_message: "killed by signal 9 (SIGKILL) - OOM", stopped_at: "2026-01-01T00:00:00.000Z" });
  });
});

describe("start, stop and delete", () => {
  test("start takes an absent, empty or null body, and overrides", async () => {
    const { id } = await create("web");
    for (const body of [undefined, "", "null", "{}", '{"cmd":["a"],"entrypoint":["b"]}']) {
      api.instances.change(id, { state: "Stopped" });
      const response = await fetch(`${api.url}/instances/web/start`, { method: "POST", ...(body === undefined ? {} : { body, headers: { "content-type": "application/json" } }) });
      expect([response.status, ((await response.json()) as { state: string }).state]).toEqual([200, "Running"]);
    }
    expect(api.instances.calls.slice(-2)).toEqual(["start {}", 'start {"entrypoint":["b"],"cmd":["a"]}']);
  });
  test("a repeat whose outcome holds succeeds, a first attempt does not", async () => {
    const { id } = await create("web");
    api.instances.change(id, { state: "Running" });
    expect(await failure(api.client.instances.start(id, {}))).toMatchObject({ status: 409, code: "invalid_state" });
    expect((await api.client.instances.start(id, {}, retried)).state).toBe("Running");
    expect((await api.client.instances.stop(id)).state).toBe("Stopped");
    expect(await failure(api.client.instances.stop(id))).toMatchObject({ status: 409, code: "invalid_state" });
    expect((await api.client.instances.stop(id, retried)).state).toBe("Stopped");
    await api.client.instances.delete(id, { graceful_shutdown: false });
    expect(await failure(api.client.instances.delete(id))).toMatchObject({ status: 404, code: "not_found" });
    await api.client.instances.delete(id, {}, retried);
    expect(api.instances.calls.filter((call) => call.startsWith("remove"))).toEqual(["remove false", "remove true", "remove true"]);
  });
  test("the client does not repeat a conflict", async () => {
    const { id } = await create("web");
    const eager = new Hypeman({ apiKey: "any", baseURL: api.url, maxRetries: 2 });
    await failure(eager.instances.stop(id));
    expect(api.instances.calls.filter((call) => call === "stop")).toHaveLength(1);
  });
});

describe("stats", () => {
  test("counts in bytes and seconds", async () => {
    const { id } = await create("web");
    expect(await api.client.instances.stats("web")).toEqual({
      instance_id: id, instance_name: "web", allocated_vcpus: 2, allocated_memory_bytes: 2 ** 30, cpu_seconds: 1.5, memory_rss_bytes: 2 ** 28, memory_vms_bytes: 2 ** 31,
      memory_utilization_ratio: 0.25, network_rx_bytes: 10, network_tx_bytes: 20,
    });
  });
});

describe("wait", () => {
  test("answers at once on the target state", async () => {
    const { id } = await create("web");
    expect(await api.client.instances.wait(id, { state: "Created" })).toEqual({ state: "Created", timed_out: false, state_error: null });
    expect(await api.client.instances.wait(id, { state: "Running", timeout: "0s" })).toMatchObject({ state: "Created", timed_out: true });
    expect(api.instances.calls).toEqual(["wait Created 60000", "wait Running 0"]);
  });
  test("sends headers and white space at once, and the answer when the state comes", async () => {
    const { id } = await create("web");
    const response = await fetch(`${api.url}/instances/web/wait?state=Running&timeout=2h`);
    expect([response.status, response.headers.get("content-type")]).toEqual([200, "application/json"]);
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    expect(new TextDecoder().decode((await reader.read()).value)).toBe(" ");
    expect(api.instances.calls).toEqual(["wait Running 300000"]);
    api.instances.change(id, { state: "Running" });
    expect(JSON.parse(new TextDecoder().decode((await reader.read()).value))).toEqual({ state: "Running", timed_out: false, state_error: null });
    expect((await reader.read()).done).toBe(true);
  });
  test("ends in the domain when the client hangs up", async () => {
    await create("web");
    const abort = new AbortController();
    await fetch(`${api.url}/instances/web/wait?state=Running`, { signal: abort.signal });
    abort.abort();
    await until(() => api.instances.calls.includes("wait aborted"));
  });
  test("resets the connection when the daemon stops, rather than answer", async () => {
    await create("web");
    const response = await fetch(`${api.url}/instances/web/wait?state=Running`);
    const text = response.text().then(() => "ended", () => "reset");
    await api.stop();
    expect(await text).toBe("reset");
  });
  test("an unknown instance is 404 and a bad timeout 400, before any header", async () => {
    expect(await failure(api.client.instances.wait("nobody", { state: "Running" }))).toMatchObject({ status: 404 });
    await create("web");
    expect(await failure(api.client.instances.wait("web", { state: "Running", timeout: "soon" }))).toMatchObject({ status: 400, code: "bad_request" });
  });
});
