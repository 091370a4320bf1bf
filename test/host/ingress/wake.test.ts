// Requests for instances that are not up: held, woken once, served; or refused with a reason.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { errAsync, ResultAsync } from "neverthrow";
import { DormouseError, type ErrorCode } from "../../../src/errors.ts";
import type { Instance } from "../../../src/host/instances/service.ts";
import { answering, OK, Raw, RawServer } from "./raw.ts";
import { freePort, until, World } from "./world.ts";

let world: World;
let target: RawServer;
beforeEach(() => {
  world = new World();
  target = answering(OK);
});
afterEach(async () => {
  await world.close();
  target.stop();
});

const GET = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const setUp = (change: Partial<Instance>, port = target.port) => ({ ...world.add("web", change), port: world.route("a.test", "web", port) });
const ask = async (port: number) => (await Raw.connect(port)).send(GET);
const fails = (code: ErrorCode, options?: ConstructorParameters<typeof DormouseError>[2]) => () => errAsync(new DormouseError(code, "Cannot wake it: /var/lib/secret", options));

describe("a sleeping instance", () => {
  test("is woken once by ten requests at once, and all are served", async () => {
    const woken = Promise.withResolvers<void>();
    const { id, port } = setUp({ state: "Standby" });
    world.onWake = (ref) => ResultAsync.fromSafePromise(woken.promise.then(() => world.change(ref, { state: "Running", phaseSince: Date.now() })));
    const clients = await Promise.all(Array.from({ length: 10 }, () => ask(port)));
    await until(() => world.ingress.inFlight(id) === 10);
    expect(target.connections).toHaveLength(0);
    woken.resolve();
    for (const client of clients) expect((await client.until("ok")).got).toBe(OK);
    expect(world.wakes).toEqual([id]);
    await until(() => world.ingress.inFlight(id) === 0);
  });
  test("whose record can't be read is refused with a reason, and served once it can be", async () => {
    const { id, port } = setUp({ state: "Standby" });
    let reads = 0, good = 0;
    world.onRead = () => { if (reads++ >= good) throw new Error("disk I/O error"); };
    // Before it is found, and while it is held.
    for (good of [0, 1]) {
      reads = 0;
      const { got } = await (await ask(port)).until("says why.");
      expect([got.split("\r\n")[0], got.includes("can't be looked up"), got.includes("disk I/O")]).toEqual(["HTTP/1.1 503 Service Unavailable", true, false]);
    }
    expect(world.logged.filter((line) => line.includes("disk I/O error")).map((line) => (JSON.parse(line) as { event: string }).event)).toEqual(["ingress.bug", "ingress.blind"]);
    world.onRead = () => {};
    expect([(await (await ask(port)).until("ok")).got, world.ingress.inFlight(id)]).toEqual([OK, 0]);
  });
  test("that falls asleep again is woken again", async () => {
    const { id, port } = setUp({ state: "Standby" });
    for (let round = 1; round <= 3; round++) {
      expect((await (await ask(port)).until("ok")).got).toBe(OK);
      expect(world.wakes).toHaveLength(round);
      world.change(id, { state: "Standby" });
      await until(() => world.ingress.idleUpstreamPorts(id).size === 0);
    }
  });
  test("that opens its port later is waited for while it has just come up", async () => {
    const port = freePort();
    const { id, port: at } = setUp({ state: "Standby" }, port);
    world.onWake = (ref) => ResultAsync.fromSafePromise(Promise.resolve(world.change(ref, { state: "Running", phaseSince: Date.now() })));
    const client = await ask(at);
    await until(() => world.wakes.length === 1 && world.instances.get(id)!.state === "Running");
    const server = Bun.serve({ port, hostname: "127.0.0.1", fetch: () => new Response("here") });
    expect((await client.until("here")).got).toStartWith("HTTP/1.1 200 ");
    server.stop(true);
  });
  test("gets no request of a client that has gone, and wakes for the others", async () => {
    const woken = Promise.withResolvers<void>();
    const { id, port } = setUp({ state: "Standby" });
    world.onWake = (ref) => ResultAsync.fromSafePromise(woken.promise.then(() => world.change(ref, { state: "Running" })));
    const [first, second] = [await ask(port), await ask(port)];
    await until(() => world.ingress.inFlight(id) === 2);
    first.reset();
    await until(() => world.ingress.inFlight(id) === 1);
    woken.resolve();
    await second.until("ok");
    expect(target.connections).toHaveLength(1);
  });
  test.each<[string, ErrorCode, object, RegExp, string | null]>([
    ["its policy forbids it", "instance.invalid_state", {}, /^HTTP\/1\.1 503 /, null],
    ["the host has no memory left", "resources.insufficient", {}, /^HTTP\/1\.1 503 /, "5"],
    ["it failed, and says when to come again", "instance.start_failed", { retryAfterMs: 2500 }, /^HTTP\/1\.1 503 /, "3"],
    ["its snapshot is damaged", "snapshot.damaged", {}, /^HTTP\/1\.1 503 /, null],
    ["it was deleted meanwhile", "instance.not_found", {}, /^HTTP\/1\.1 502 /, null],
  ])("can't be woken: %s", async (_, code, options, status, retryAfter) => {
    const { port } = setUp({ state: "Standby" });
    world.onWake = fails(code, options);
    const client = await (await ask(port)).until("}\n");
    expect(client.got).toMatch(status);
    expect(/Retry-After: (\d+)/.exec(client.got)?.[1] ?? null).toBe(retryAfter);
    // Strangers read it: the log has the reason in full.
    expect(client.got).not.toContain("secret");
    expect(world.logged.join("")).toContain("secret");
    // The connection is good for another try.
    client.take();
    world.onWake = (id) => ResultAsync.fromSafePromise(Promise.resolve(world.change(id, { state: "Running" })));
    expect((await client.send(GET).until("ok")).got).toBe(OK);
  });
  test("that says it woke and sleeps on is given up", async () => {
    const { port } = setUp({ state: "Standby" });
    world.onWake = () => ResultAsync.fromSafePromise(Promise.resolve());
    expect((await (await ask(port)).until("}\n")).got).toMatch(/^HTTP\/1\.1 503 /);
    expect(world.wakes).toHaveLength(3);
  });
  test("that takes too long is 504, and the wake goes on for those who come later", async () => {
    await world.close();
    world = new World({ holdMs: 1 });
    const woken = Promise.withResolvers<void>();
    const { port } = setUp({ state: "Standby" });
    world.onWake = (ref) => ResultAsync.fromSafePromise(woken.promise.then(() => world.change(ref, { state: "Running" })));
    const client = await (await ask(port)).until("}\n");
    expect(client.got).toMatch(/^HTTP\/1\.1 504 /);
    expect(client.got).toContain("Retry-After: ");
    woken.resolve();
    client.take();
    await until(() => [...world.instances.values()][0]!.state === "Running");
    expect((await client.send(GET).until("ok")).got).toBe(OK);
    expect(world.wakes).toHaveLength(1);
  });
});

test("a request that went to an instance on a kept connection as it fell asleep is asked again, which wakes it", async () => {
  const quiet = new RawServer();
  const { id, port } = setUp({ state: "Running" }, quiet.port);
  const client = await ask(port);
  (await (await quiet.at(0)).until("\r\n\r\n")).send(OK);
  await client.until("ok");
  client.take();
  quiet.connections[0]!.take();
  client.send(GET);
  await quiet.connections[0]!.until("\r\n\r\n");
  world.change(id, { state: "Standby" });
  (await (await quiet.at(1)).until("\r\n\r\n")).send(OK);
  expect((await client.until("ok")).got).toBe(OK);
  expect(world.wakes).toEqual([id]);
  quiet.stop();
});

test("one whose answer has begun waits with its instance, and goes on with it", async () => {
  const quiet = new RawServer();
  const { id, port } = setUp({ state: "Running" }, quiet.port);
  const client = await ask(port);
  const server = await (await quiet.at(0)).until("\r\n\r\n");
  server.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc");
  await client.until("abc");
  world.change(id, { state: "Standby" });
  world.change(id, { state: "Running" });
  server.send("def");
  await client.until("abcdef");
  expect(world.wakes).toEqual([]);
  quiet.stop();
});

describe("an instance that starts", () => {
  test("holds requests until it runs", async () => {
    const { id, port } = setUp({ state: "Created" });
    const client = await ask(port);
    await until(() => world.ingress.inFlight(id) === 1);
    world.change(id, { state: "Initializing" });
    world.change(id, { state: "Running", phaseSince: Date.now() });
    expect((await client.until("ok")).got).toBe(OK);
    expect(world.wakes).toEqual([]);
  });
  test("and ends instead is 503", async () => {
    const { id, port } = setUp({ state: "Initializing" });
    const client = await ask(port);
    await until(() => world.ingress.inFlight(id) === 1);
    world.change(id, { state: "Stopped" });
    expect((await client.until("}\n")).got).toMatch(/^HTTP\/1\.1 503 /);
  });
});

describe("an instance that can't be reached", () => {
  test.each([["", 0], [", by a clock that was set back since", Date.now() + 24 * 3600_000]])("a closed port of one that runs is 502 at once%s", async (_, phaseSince) => {
    const { port } = setUp({ state: "Running", phaseSince }, freePort());
    const client = await (await ask(port)).until("}\n");
    expect(client.got).toMatch(/^HTTP\/1\.1 502 /);
    expect(client.got).toContain("nothing listens");
  });
  test("a closed port of one that has just come up is 502 when its grace is over", async () => {
    await world.close();
    world = new World({ graceMs: 60 });
    const { port } = setUp({ state: "Running", phaseSince: Date.now() }, freePort());
    expect((await (await ask(port)).until("}\n")).got).toMatch(/^HTTP\/1\.1 502 /);
  });
  test.each(["Stopped", "Shutdown", "Unknown"] as const)("%s is 503, and is not woken", async (state) => {
    const { port } = setUp({ state });
    const client = await (await ask(port)).until("}\n");
    expect(client.got).toMatch(/^HTTP\/1\.1 503 /);
    expect(client.got).toContain(state);
    expect(world.wakes).toEqual([]);
  });
  test("no network is 502", async () => {
    const { port } = setUp({ state: "Running", ip: null });
    expect((await (await ask(port)).until("}\n")).got).toMatch(/^HTTP\/1\.1 502 /);
  });
  test("one that takes no connection is 504", async () => {
    await world.close();
    world = new World({ connectMs: 1 });
    // A backlog that is full: the kernel answers no more.
    const full = Bun.spawn(["python3", "-c", "import socket,sys\ns=socket.socket();s.bind(('127.0.0.1',0));s.listen(0)\nc=[socket.socket() for _ in range(4)]\nfor x in c: x.setblocking(False); x.connect_ex(s.getsockname())\nprint(s.getsockname()[1],flush=True);sys.stdin.read()"], { stdin: "pipe", stdout: "pipe" });
    const line = await full.stdout.getReader().read();
    const { port } = setUp({ state: "Running" }, Number(Buffer.from(line.value!).toString()));
    expect((await (await ask(port)).until("}\n")).got).toMatch(/^HTTP\/1\.1 504 /);
    full.kill();
  });
  test("a literal target that was deleted is 502, a capture that finds none is 404, and no capture finds the start of an id", async () => {
    const { id, port } = setUp({ state: "Running" });
    world.route("{i}.b.test", "{i}", target.port, { port });
    const status = async (host: string) => /^HTTP\/1\.1 (\d+)/.exec((await (await Raw.connect(port)).send(`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`).until("\r\n\r\n")).got)?.[1];
    expect(await status(`${id}.b.test`)).toBe("200");
    expect(await status("web.b.test")).toBe("200");
    expect(await status(`${id.slice(0, 10)}.b.test`)).toBe("404");
    expect(await status("nobody.b.test")).toBe("404");
    world.change(id, { state: "Stopped" });
    world.instances.delete(id);
    expect(await status("a.test")).toBe("502");
  });
});

describe("accounts", () => {
  test("whoever subscribes hears of each request, from begin to end", async () => {
    const { id, port } = setUp({ state: "Running" });
    const heard: [string, number][] = [];
    const unsubscribe = world.ingress.subscribe((instanceId, inFlight) => void heard.push([instanceId, inFlight]));
    const client = await ask(port);
    await client.until("ok");
    unsubscribe();
    client.take();
    await client.send(GET).until("ok");
    expect(heard).toEqual([[id, 1], [id, 0]]);
  });
  test("a request is in flight before its instance is looked at", async () => {
    const { id, port } = setUp({ state: "Standby" });
    const seen: number[] = [];
    world.onWake = (ref) => { seen.push(world.ingress.inFlight(ref)); return ResultAsync.fromSafePromise(Promise.resolve(world.change(id, { state: "Running" }))); };
    await (await ask(port)).until("ok");
    expect(seen).toEqual([1]);
  });
});
