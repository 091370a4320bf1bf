import { describe, expect, test } from "bun:test";
import { createLogger } from "../../src/log.ts";
import { parseListen } from "../../src/routes/guard.ts";
import { Live, type Socket } from "../../src/routes/live.ts";
import { checkPort, listen } from "../../src/routes/server.ts";
import { json, startApi, until } from "./harness.ts";

describe("parseListen()", () => {
  test.each([["127.0.0.1:4973", "127.0.0.1", 4973], ["localhost:80", "127.0.0.1", 80], ["[::1]:1", "::1", 1], ["127.9.9.9:0", "127.9.9.9", 0]] as const)("takes %s", (text, hostname, port) => {
    expect(parseListen(text)._unsafeUnwrap()).toEqual({ hostname, port });
  });
  test.each([["0.0.0.0:4973", "request.forbidden"], ["192.168.1.1:80", "request.forbidden"], ["[::]:80", "request.forbidden"], ["example.com:80", "request.forbidden"], ["127.0.0.1", "request.bad"], [":80", "request.bad"], ["127.0.0.1:99999", "request.bad"], ["::1:80", "request.bad"]] as const)(
    "refuses %s",
    (text, code) => {
      expect(parseListen(text)._unsafeUnwrapErr().code).toBe(code);
    },
  );
});

describe("listen()", () => {
  test("does not share a port that is in use", async () => {
    const api = startApi();
    expect(checkPort({ hostname: "127.0.0.1", port: Number(new URL(api.url).port) })._unsafeUnwrapErr().code).toBe("port.taken");
    const second = listen({ fetch: () => new Response("") }, { hostname: "127.0.0.1", port: Number(new URL(api.url).port) }, new Live(), createLogger("error"));
    expect(second._unsafeUnwrapErr().code).toBe("port.taken");
    await api.stop();
  });
  test("binds nothing but loopback", async () => {
    const api = startApi();
    const port = Number(new URL(api.url).port).toString(16).toUpperCase().padStart(4, "0");
    const sockets = (await Bun.file("/proc/net/tcp").text()).split("\n").filter((row) => row.includes(`:${port} `) && row.split(/\s+/)[4] === "0A");
    expect(sockets.map((row) => row.trim().split(/\s+/)[1])).toEqual([`0100007F:${port}`]);
    await api.stop();
  });
  test("a bug in what serves a WebSocket ends its connection, and is logged", async () => {
    const logged: string[] = [], live = new Live(), bug = (at: string) => () => { throw new Error(`bug in ${at}`); };
    const fine = { open() {}, message() {}, drain() {}, close() {} };
    const parts: Record<string, Socket> = { open: { ...fine, open: bug("open") }, message: { ...fine, message: bug("message"), close: bug("close") } };
    const app = { fetch: (request: Request) => live.upgrade(request, parts[new URL(request.url).pathname.slice(1)]!, null) };
    const { url, stop } = listen(app, { hostname: "127.0.0.1", port: 0 }, live, createLogger("error", (line) => void logged.push((JSON.parse(line) as { error: string }).error.split("\n")[0]!)))._unsafeUnwrap();
    for (const path of ["open", "message"]) {
      const ws = new WebSocket(`${url.replace("http", "ws")}/${path}`);
      ws.onopen = () => ws.send("x");
      const { promise, resolve } = Promise.withResolvers<number>();
      ws.onclose = ({ code }) => resolve(code);
      expect(await promise).toBe(1006);
    }
    expect(logged).toEqual(["Error: bug in open", "Error: bug in message", "Error: bug in close"]);
    await stop();
  });
  test("the idle limit is lifted from a slow verb or a stream, and back with its answer", async () => {
    const api = startApi(), limits: number[] = [], { id } = await api.client.instances.create({ name: "web", image: "nginx" });
    const server = api.live.server!, timeout = server.timeout.bind(server);
    server.timeout = (request, seconds) => (limits.push(seconds), timeout(request, seconds));
    api.instances.change(id, { state: "Running" });
    const asked = async (method: string, path: string, body?: unknown) => {
      limits.length = 0;
      await (await fetch(`${api.url}/${path}`, { method, ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } }) })).text();
      return [method, path, ...limits];
    };
    // Each of these may wait for what is done to the instance before it, or takes its own time.
    for (const [method, path, body] of [
      ["POST", "volumes", { name: "data", size_gb: 1 }], ["PATCH", "instances/web", { auto_standby: { enabled: false } }], ["POST", "instances/web/auto-standby/hold"], ["POST", "instances/web/stop"], ["GET", "instances/web/wait?state=Stopped"],
      ["POST", "instances/web/volumes/data", { mount_path: "/data" }], ["DELETE", "instances/web/volumes/data"], ["GET", "usage"], ["DELETE", "instances/web"],
    ] as const) expect(await asked(method, path, body)).toEqual([method, path, 0, 30]);
    await api.client.instances.create({ name: "web", image: "nginx" });
    // A reader may take the last of it as late as it likes.
    expect(await asked("GET", "instances/web/logs")).toEqual(["GET", "instances/web/logs", 0]);
    expect(await asked("GET", "instances/web")).toEqual(["GET", "instances/web"]);
    await api.stop();
  });
  test("a verb under way is answered before the server ends, and a hang-up does not cancel it", async () => {
    const api = startApi();
    const { id } = await api.client.instances.create({ name: "web", image: "nginx" });
    api.instances.change(id, { state: "Running" });
    const { promise, resolve } = Promise.withResolvers<void>();
    const stop = api.instances.stop;
    const { ResultAsync } = await import("neverthrow");
    api.instances.stop = (ref) => ResultAsync.fromSafePromise(promise).andThen(() => stop(ref));
    const abandoned = new AbortController();
    const hungUp = fetch(`${api.url}/instances/web/stop`, { ...json({}), signal: abandoned.signal }).catch(() => "aborted");
    const answered = fetch(`${api.url}/instances/web/stop`, json({}));
    await until(() => api.live.server?.pendingRequests === 2);
    abandoned.abort();
    expect(await hungUp).toBe("aborted");
    const stopped = api.stop();
    resolve();
    // One of the two finds the instance stopped already; both reached the domain.
    expect([200, 409]).toContain((await answered).status);
    await stopped;
    expect(api.instances.calls).toEqual(["stop", "stop"]);
    expect(api.instances.records.get(id)?.state).toBe("Stopped");
  });
});
