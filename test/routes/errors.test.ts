import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import Hypeman from "@onkernel/hypeman";
import { DormouseError } from "../../src/errors.ts";
import { MAX_BODY } from "../../src/routes/body.ts";
import { errorResponse, WIRE_ERRORS } from "../../src/routes/errors.ts";
import { UNIMPLEMENTED } from "../../src/routes/unimplemented.ts";
import { type Api, json, startApi } from "./harness.ts";

let api: Api;
beforeAll(() => void (api = startApi()));
afterAll(() => api.stop());

const answer = async (path: string, init?: RequestInit) => {
  const response = await fetch(api.url + path, init);
  const { code, message, details } = (await response.json()) as { code: string; message: string; details?: { field?: string } };
  return { status: response.status, code, message, field: details?.field, retry: response.headers.get("x-should-retry") };
};

describe("errorResponse()", () => {
  test("says that repeating helps only where the error says so, and when", async () => {
    const never = errorResponse(new DormouseError("conflict", "Cannot."));
    expect([never.status, never.headers.get("x-should-retry"), never.headers.get("retry-after-ms")]).toEqual([409, "false", null]);
    const soon = errorResponse(new DormouseError("instance.agent_unreachable", "Cannot.", { retryAfterMs: 250 }));
    expect([soon.status, soon.headers.get("x-should-retry"), soon.headers.get("retry-after-ms")]).toEqual([503, "true", "250"]);
    const usual = errorResponse(new DormouseError("instance.agent_unreachable", "Cannot."));
    expect([usual.headers.get("x-should-retry"), usual.headers.get("retry-after-ms")]).toEqual(["true", "500"]);
  });
  test("has a snake_case code and an error status for every error there is", () => {
    for (const { status, code } of Object.values(WIRE_ERRORS)) {
      expect(code).toMatch(/^[a-z]+(_[a-z]+)*$/);
      expect(status).toBeGreaterThanOrEqual(400);
    }
  });
});

describe("bad requests", () => {
  test.each<[unknown, string]>([
    [{ port_mappings: [{ guest_port: 1, host_port: 9, protocol: "sctp" }] }, "port_mappings[0].protocol: it must be one of tcp, udp."],
    [{ snapshot_policy: { compression: { enabled: true, algorithm: "gzip" } } }, "snapshot_policy.compression.algorithm: it must be one of zstd, lz4."],
    [{ auto_standby: "5m" }, "auto_standby: it must be an object."], [{ auto_standby: { enabled: 1 } }, "auto_standby.enabled: it must be true or false."],
    [{ vcpus: "2" }, "vcpus: it must be a whole number."],
  ])("%j: what is wanted is said", async (fields, said) => {
    expect((await answer("/instances", json({ name: "a", image: "i", ...(fields as object) }))).message).toBe(`Cannot accept field ${said}`);
  });
  test.each<[string, unknown, string, string]>([
    ["an unknown field", { name: "a", image: "i", colour: "red" }, "bad_request", "colour"],
    ["a missing field", { name: "a" }, "bad_request", "image"],
    ["a command that is no list", { name: "a", image: "i", cmd: "ls -l" }, "bad_request", "cmd"],
    ["an argument that is no text", { name: "a", image: "i", cmd: ["ls", 1] }, "bad_request", "cmd[1]"],
    ["a number in quotes", { name: "a", image: "i", vcpus: "2" }, "bad_request", "vcpus"],
    ["a nested field", { name: "a", image: "i", port_mappings: [{ guest_port: 0, host_port: 1 }] }, "bad_request", "port_mappings[0].guest_port"],
    ["an unknown nested field", { name: "a", image: "i", network: { colour: 1 } }, "bad_request", "network.colour"],
    ["a bad name", { name: "A_b", image: "i" }, "invalid_name", "name"],
    ["a bad size", { name: "a", image: "i", size: "lots" }, "invalid_size", "size"],
    ["a negative size", { name: "a", image: "i", overlay_size: "-1GB" }, "invalid_size", "overlay_size"],
    ["no size at all", { name: "a", image: "i", size: "0" }, "invalid_size", "size"],
    ["another hypervisor", { name: "a", image: "i", hypervisor: "qemu" }, "not_supported", "hypervisor"],
    ["another platform", { name: "a", image: "i", platform: "linux/arm64" }, "invalid_platform", "platform"],
    ["one host port twice", { name: "a", image: "i", port_mappings: [{ guest_port: 1, host_port: 9 }, { guest_port: 2, host_port: 9 }] }, "bad_request", "port_mappings"],
    ["ports without a network", { name: "a", image: "i", network: { enabled: false }, port_mappings: [{ guest_port: 1, host_port: 9 }] }, "bad_request", "port_mappings"],
    ["automatic standby without its timeout", { name: "a", image: "i", auto_standby: { enabled: true } }, "bad_request", "auto_standby.idle_timeout"],
    ["a timeout of nothing", { name: "a", image: "i", auto_standby: { enabled: true, idle_timeout: "0s" } }, "bad_request", "auto_standby.idle_timeout"],
    ["a timeout of a century", { name: "a", image: "i", auto_standby: { enabled: true, idle_timeout: "876000h" } }, "bad_request", "auto_standby.idle_timeout"],
    ["a port out of range", { name: "a", image: "i", auto_standby: { ignore_destination_ports: [22, 65_536] } }, "bad_request", "auto_standby.ignore_destination_ports[1]"],
    ["a network that is none", { name: "a", image: "i", auto_standby: { ignore_source_cidrs: ["10.0.0.0/33"] } }, "bad_request", "auto_standby.ignore_source_cidrs"],
    ["a network of IPv6", { name: "a", image: "i", auto_standby: { ignore_source_cidrs: ["fd00::/8"] } }, "bad_request", "auto_standby.ignore_source_cidrs"],
    ["a level out of range", { name: "a", image: "i", snapshot_policy: { compression: { enabled: true, algorithm: "lz4", level: 10 } } }, "bad_request", "snapshot_policy.compression.level"],
    ["an unknown algorithm", { name: "a", image: "i", snapshot_policy: { compression: { enabled: true, algorithm: "gzip" } } }, "bad_request", "snapshot_policy.compression.algorithm"],
    ["a delay that is no duration", { name: "a", image: "i", snapshot_policy: { standby_compression_delay: "soon" } }, "bad_request", "snapshot_policy.standby_compression_delay"],
    ["an overlay without a size", { name: "a", image: "i", volumes: [{ volume_id: "v", mount_path: "/v", readonly: true, overlay: true }] }, "bad_request", "volumes[0].overlay_size"],
    ["an overlay over what is written", { name: "a", image: "i", volumes: [{ volume_id: "v", mount_path: "/v", overlay: true, overlay_size: "1GB" }] }, "bad_request", "volumes[0].overlay"],
    ["a size of no overlay", { name: "a", image: "i", volumes: [{ volume_id: "v", mount_path: "/v", readonly: true, overlay_size: "1GB" }] }, "bad_request", "volumes[0].overlay_size"],
    ["a size of an overlay that is none", { name: "a", image: "i", volumes: [{ volume_id: "u", mount_path: "/u" }, { volume_id: "v", mount_path: "/v", readonly: true, overlay: true, overlay_size: "much" }] }, "invalid_size", "volumes[1].overlay_size"],
    ["a volume without a path", { name: "a", image: "i", volumes: [{ volume_id: "v" }] }, "bad_request", "volumes[0].mount_path"],
    ["a NUL in the environment", { name: "a", image: "i", env: { A: "x\0y" } }, "bad_request", "env"],
  ])("%s is named", async (_, body, code, field) => {
    expect(await answer("/instances", json(body))).toMatchObject({ status: 400, code, field, retry: "false" });
  });

  test.each<[string, unknown]>([
    ["credentials", { A: { inject: [], source: { env: "B" } } }],
    ["devices", ["gpu0"]], ["disk_io_bps", "100MB/s"], ["expires_at", "2030-01-01T00:00:00Z"], ["gpu", { profile: "L40S-1Q" }], ["health_check", { type: "tcp", tcp: { port: 80 } }],
    ["hotplug_size", "3GB"], ["restart_policy", { policy: "always" }], ["skip_guest_agent", true], ["ttl", "1h"],
  ])("%s is refused while it is not implemented", async (field, value) => {
    expect(await answer("/instances", json({ name: "a", image: "i", [field]: value }))).toMatchObject({ status: 400, code: "not_supported", field });
  });
  test.each<[string, unknown]>([["bandwidth_upload", "1Gbps"], ["bandwidth_download", "1Gbps"], ["egress", { enabled: true }]])("network.%s is refused while it is not implemented", async (field, value) => {
    expect(await answer("/instances", json({ name: "a", image: "i", network: { [field]: value } }))).toMatchObject({ status: 400, code: "not_supported", field: `network.${field}` });
  });

  test("values are never sent back", async () => {
    const { message, status } = await answer("/instances", json({ name: "a", image: "i", env: { TOKEN: { hunter2: 1 } } }));
    expect(status).toBe(400);
    expect(message).not.toContain("hunter2");
    const secret = await answer("/images", { method: "POST", headers: { "content-type": "application/json" }, body: '{"credentials":{"password":"hunter2"' });
    expect(secret).toMatchObject({ status: 400, code: "bad_request", message: "Cannot read the request body: it is not valid JSON." });
  });

  test.each<[string, RequestInit]>([
    ["no body", { method: "POST" }],
    ["a null body", json(null)],
    ["a form", { method: "POST", body: new URLSearchParams({ name: "a" }) }],
    ["a text", { method: "POST", headers: { "content-type": "text/plain" }, body: "{}" }],
    ["a list", json([])],
  ])("%s is refused where a body is needed", async (_, init) => {
    expect(await answer("/instances", init)).toMatchObject({ status: 400, code: "bad_request" });
  });

  test("a body over the limit is refused, with or without its length told", async () => {
    const large = json({ name: "a", image: "i", env: { A: "x".repeat(MAX_BODY) } });
    expect(await answer("/instances", large)).toMatchObject({ status: 413, code: "bad_request" });
    const chunked = new Response(large.body).body as ReadableStream<Uint8Array>;
    expect(await answer("/instances", { ...large, body: chunked })).toMatchObject({ status: 413, code: "bad_request" });
  });

  test.each([
    ["/instances?colour=red", "colour"], ["/instances?state=running", "state"], ["/instances?tags=a", "tags"], ["/instances?state=Running&state=Stopped", "state"],
    ["/instances/x?verbose=1", "verbose"], ["/images/x?force=true", "force"], ["/instances/x/exec?tty=1", "tty"], ["/instances/x/logs?tail=-1", "tail"], ["/instances/x/logs?tail=1.5", "tail"], ["/instances/x/logs?follow=yes", "follow"], ["/instances/x/logs?source=kernel", "source"],
    ["/instances/x/wait", "state"], ["/instances/x/wait?state=Running&timeout=soon", "timeout"],
  ])("%s names its parameter", async (path, field) => {
    expect(await answer(path)).toMatchObject({ status: 400, code: "bad_request", field });
  });
});

describe("routes that are not there", () => {
  test("an unknown one is 404", async () => {
    expect(await answer("/nope")).toMatchObject({ status: 404, code: "not_found", retry: "false" });
  });
  test("those of the contract are 501, and the client does not repeat them", async () => {
    for (const [method, path] of Object.values(UNIMPLEMENTED).flat()) {
      const init = method === "GET" || method === "DELETE" ? { method } : { ...json({ any: "thing" }), method };
      expect({ path, ...(await answer(path.replaceAll(/:\w+/g, "x"), init)) }).toMatchObject({ path, status: 501, code: "not_implemented", retry: "false" });
    }
  });
  test("the contract's client reaches every one of them", async () => {
    const { client } = api;
    const calls = [
      () => client.devices.list(), () => client.devices.listAvailable(), () => client.builds.list(), () => client.builders.list(), () => client.pushes.list(), () => client.resources.get(),
      () => client.resources.reclaimMemory({ reclaim_bytes: 1 }),
    ];
    for (const call of calls) {
      const error = await call().then(() => null, (thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(Hypeman.APIError);
      expect((error as InstanceType<typeof Hypeman.APIError>).status).toBe(501);
    }
  });
});

describe("internal errors", () => {
  test("show nothing of the inside, and are logged in full", async () => {
    const broken = startApi();
    broken.instances.get = () => {
      throw new Error("secret path /root/key");
    };
    const response = await fetch(`${broken.url}/instances/x`);
    const text = await response.text();
    expect(response.status).toBe(500);
    expect(JSON.parse(text)).toMatchObject({ code: "internal_error" });
    expect(text).not.toContain("secret");
    expect(broken.log.join("")).toContain("secret path /root/key");
    await broken.stop();
  });
});

describe("who may speak", () => {
  test.each<[string, Record<string, string>, number]>([
    ["a loopback name", { host: "localhost:4973" }, 200],
    ["a loopback address", { host: "127.0.0.1:4973" }, 200],
    ["the IPv6 loopback", { host: "[::1]:4973" }, 200],
    ["another name, as after DNS rebinding", { host: "rebound.example:4973" }, 403],
    ["a name that only begins like one", { host: "127.0.0.1.example" }, 403],
    ["a name that only ends like one", { host: "x@localhost" }, 403],
    ["its own page", { host: "localhost:4973", origin: "http://localhost:4973" }, 200],
    ["another site's page", { host: "localhost:4973", origin: "https://evil.example" }, 403],
    ["another program's page on this machine", { host: "localhost:4973", origin: "http://localhost:3000" }, 403],
    ["a page without a site", { host: "localhost:4973", origin: "null" }, 403],
  ])("%s", async (_, headers, status) => {
    const response = await fetch(`${api.url}/health`, { headers });
    expect(response.status).toBe(status);
    expect(await response.json()).toMatchObject(status === 200 ? { status: "ok" } : { code: "forbidden" });
  });
  test("any bearer token, or none", async () => {
    expect((await fetch(`${api.url}/health`, { headers: { authorization: "Bearer whatever" } })).status).toBe(200);
    expect((await fetch(`${api.url}/health`)).status).toBe(200);
  });
});
