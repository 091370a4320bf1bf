// Bodies without end: back-pressure both ways, what breaks off on one side breaks off on the other, and tunnels.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { createServer } from "node:http";
import { Raw, RawServer } from "./raw.ts";
import { WebWorld } from "./web-world.ts";
import { until } from "./world.ts";

let world: WebWorld, target: RawServer, port: number;
beforeEach(() => void ({ target, port } = world = new WebWorld()));
afterEach(() => world.close());

const GET = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const id = () => [...world.instances.keys()][0]!;
const MB = 1024 * 1024;
/** What kernel buffers of four sockets and one read may hold. */
const HELD_MAX = 32 * MB;

async function begin(request: string, answer = "") {
  const client = (await Raw.connect(port)).send(request);
  const server = await (await target.at(0)).until("\r\n\r\n");
  if (answer !== "") {
    server.send(answer);
    await client.until("\r\n\r\n");
  }
  return { client, server };
}

describe("back-pressure", () => {
  const SIZE = 200 * MB;
  async function stalls(sender: Raw): Promise<void> {
    // It stands still once every buffer on the way is full; were there no back-pressure, all of it would be gone.
    let before = -1, still = 0;
    await until(() => {
      still = sender.unsent === before ? still + 1 : 0;
      before = sender.unsent;
      return still > 50;
    });
    expect(SIZE - sender.unsent).toBeLessThan(HELD_MAX);
  }

  test("an answer that its client does not read stands still, and goes on", async () => {
    const { client, server } = await begin(GET);
    client.keep = false;
    client.pause();
    server.send(`HTTP/1.1 200 OK\r\nContent-Length: ${SIZE}\r\n\r\n`).send(new Uint8Array(SIZE));
    await stalls(server);
    client.resume();
    await until(() => client.count > SIZE);
    expect(server.unsent).toBe(0);
  });
  test("a body that its target does not read stands still, and goes on", async () => {
    const { client, server } = await begin(`POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${SIZE}\r\n\r\n`);
    server.keep = false;
    server.pause();
    client.send(new Uint8Array(SIZE));
    await stalls(client);
    server.resume();
    await until(() => server.count > SIZE);
    server.send("HTTP/1.1 204 No Content\r\n\r\n");
    await client.until("204");
  });
  test("a tunnel stands still both ways", async () => {
    const { client, server } = await begin("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n");
    for (const [from, to] of [[client, server], [server, client]] as const) {
      to.keep = false;
      to.pause();
      from.send(new Uint8Array(SIZE));
      await stalls(from);
      const { count } = to;
      to.resume();
      await until(() => to.count === count + SIZE || to.count >= SIZE);
    }
  });
  test("informational answers without end stand still too", async () => {
    const { client, server } = await begin(GET);
    client.keep = false;
    client.pause();
    const early = Buffer.from("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(2000));
    for (let left = SIZE; left > 0; left -= early.length) server.send(early);
    await stalls(server);
    client.reset();
    expect(await server.over()).toBe("reset");
  });
  test("those who read nothing are cut once all of them together keep too much, and the others go on", async () => {
    await world.close();
    ({ target, port } = world = new WebWorld({}, "127.0.0.1", 8 * MB));
    const stuck = await Promise.all(Array.from({ length: 200 }, () => Raw.connect(port)));
    for (const one of stuck) { one.pause(); one.send(GET); }
    await target.at(199);
    const block = new Uint8Array(16 * MB);
    for (const server of target.connections) { await server.until("\r\n\r\n"); server.send(`HTTP/1.1 200 OK\r\nContent-Length: ${SIZE}\r\n\r\n`).send(block); }
    await until(() => target.connections.some(({ closed }) => closed === "reset"));
    for (const one of stuck) one.reset();
    await until(() => world.ingress.inFlight(id()) === 0);
    // What they kept is free again.
    const client = (await Raw.connect(port)).send(GET);
    const server = await (await target.at(200)).until("\r\n\r\n");
    client.keep = false;
    server.send(`HTTP/1.1 200 OK\r\nContent-Length: ${20 * MB}\r\n\r\n`).send(new Uint8Array(20 * MB));
    await until(() => client.count > 20 * MB);
  });
  test("a body is not read before its instance can be reached", async () => {
    const held = Promise.withResolvers<void>();
    world.change(id(), { state: "Initializing" });
    const client = (await Raw.connect(port)).send(`POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: ${SIZE}\r\n\r\n`).send(new Uint8Array(SIZE));
    await stalls(client);
    held.resolve();
    world.change(id(), { state: "Running" });
    const server = await target.at(0);
    server.keep = false;
    await until(() => server.count > SIZE);
  });
});

describe("what is sent comes as it is", () => {
  test("100 MB up and down at once, chunked and hashed, over a real server", async () => {
    const server = createServer((request, response) => { response.writeHead(200); request.pipe(response); });
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    const to = world.route("echo.test", "web", (server.address() as { port: number }).port);
    const sent = new Bun.CryptoHasher("sha256"), got = new Bun.CryptoHasher("sha256");
    let left = 100 * MB, count = 0;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (left <= 0) return controller.close();
        const part = crypto.getRandomValues(new Uint8Array(Math.min(left, 65_536 - (left % 1000))));
        left -= part.length;
        sent.update(part);
        controller.enqueue(part);
      },
    });
    const answer = await fetch(`http://127.0.0.1:${to}/`, { method: "POST", body, headers: { host: "echo.test" } });
    for await (const part of answer.body!) { got.update(part); count += part.length; }
    expect(count).toBe(100 * MB);
    expect(got.digest("hex")).toBe(sent.digest("hex"));
    server.close();
  });
  test("encodings and redirects are the client's own", async () => {
    const packed = Bun.gzipSync(Buffer.from("hello"));
    using server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: (request) => (new URL(request.url).pathname === "/r" ? Response.redirect("/elsewhere", 302) : new Response(packed, { headers: { "content-encoding": "gzip" } })) });
    const to = world.route("b.test", "web", server.port!);
    const ask = (path: string) => fetch(`http://127.0.0.1:${to}${path}`, { headers: { host: "b.test" }, decompress: false, redirect: "manual" } as RequestInit);
    expect(Buffer.from(await (await ask("/")).bytes())).toEqual(Buffer.from(packed));
    expect((await ask("/r")).headers.get("location")).toBe("/elsewhere");
  });
  test("events come when they are sent", async () => {
    const { client, server } = await begin(GET, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (let i = 0; i < 20; i++) {
      server.send(`b\r\ndata: ${String(i).padStart(3)}\n\n\r\n`);
      await client.until(`data: ${String(i).padStart(3)}\n\n`);
    }
  });
});

describe("breaking off", () => {
  test.each<[string, string]>([
    ["by length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"],
    ["chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"],
    ["in the middle of a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc"],
  ])("an answer that its target cuts is cut, and not ended (%s)", async (_, answer) => {
    for (const how of ["fin", "reset"] as const) {
      const client = (await Raw.connect(port)).send(GET);
      const server = await (await target.at(target.connections.length)).until("\r\n\r\n");
      server.send(answer);
      await client.until("abc");
      server[how]();
      expect(await client.over()).toBe("reset");
      expect(client.got).not.toContain("\r\n0\r\n\r\n");
    }
  });
  test("one that ends with its connection is cut where that is reset, also for HTTP/1.0", async () => {
    for (const request of [GET, "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n"]) {
      const client = (await Raw.connect(port)).send(request);
      const server = await (await target.at(target.connections.length)).until("\r\n\r\n");
      server.send("HTTP/1.1 200 OK\r\n\r\nabc");
      await client.until("abc");
      server.reset();
      expect(await client.over()).toBe("reset");
    }
  });
  test("a chunked answer that is not chunked is cut", async () => {
    const { client, server } = await begin(GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    server.send("nonsense\r\n");
    expect(await client.over()).toBe("reset");
    expect(await server.over()).toBe("reset");
  });
  test("a target that closes before it answers is 502", async () => {
    for (const how of ["fin", "reset"] as const) {
      const client = (await Raw.connect(port)).send(GET);
      const server = await (await target.at(target.connections.length)).until("\r\n\r\n");
      server[how]();
      expect((await client.until("\n")).got).toStartWith("HTTP/1.1 502 ");
    }
  });
  test.each(["fin", "reset"] as const)("a client that leaves (%s) takes its request along", async (how) => {
    for (const at of ["before the answer", "in the answer", "in its own body"]) {
      const request = at === "in its own body" ? "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\nabc" : GET;
      const client = (await Raw.connect(port)).send(request);
      const server = await (await target.at(target.connections.length)).until("\r\n\r\n");
      if (at === "in the answer") await client.until(server.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc") && "abc");
      expect(world.ingress.inFlight(id())).toBe(1);
      client[how]();
      expect(await server.over()).toBe("reset");
      await until(() => world.ingress.inFlight(id()) === 0);
    }
  });
  test("an instance that stops takes its requests along, whatever its machine does not say", async () => {
    const one = await begin(GET, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc");
    const other = (await Raw.connect(port)).send(GET);
    await (await target.at(1)).until("\r\n\r\n");
    world.change(id(), { state: "Stopped" });
    expect(await one.client.over()).toBe("reset");
    expect((await other.until("\n")).got).toStartWith("HTTP/1.1 502 ");
    expect(world.ingress.inFlight(id())).toBe(0);
  });
  test("the end of the domain cuts what there is", async () => {
    const { client, server } = await begin(GET, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc");
    await world.ingress.close();
    expect([await client.over(), await server.over()]).toEqual(["reset", "reset"]);
  });
});

describe("tunnels", () => {
  const UPGRADE = "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
  const SWITCH = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: y\r\n\r\n";
  /** The ends of an open tunnel, `first` before the other one. */
  async function tunnel(first: "client" | "server"): Promise<[Raw, Raw]> {
    const client = (await Raw.connect(port)).send(UPGRADE);
    const server = await (await target.at(target.connections.length)).until("\r\n\r\n");
    server.send(SWITCH);
    await client.until("\r\n\r\n");
    return first === "client" ? [client, server] : [server, client];
  }

  test("the handshake goes through, and what is sent ahead of it", async () => {
    const client = (await Raw.connect(port)).send(`${UPGRADE}early`);
    const server = await (await target.at(0)).until("\r\n\r\n");
    expect(server.got).toContain("Connection: Upgrade\r\nUpgrade: websocket\r\n");
    expect(server.got).toContain("Sec-WebSocket-Key: x\r\n");
    server.send(`${SWITCH}hello`);
    await client.until("hello");
    expect(client.got).toBe("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: y\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello");
    await server.until("early");
    expect(world.ingress.inFlight(id())).toBe(1);
  });
  test("each direction ends by itself", async () => {
    for (const first of ["client", "server"] as const) {
      const [one, other] = await tunnel(first);
      one.fin();
      expect(await other.over()).toBe("end");
      other.send("still here");
      await one.until("still here");
      other.fin();
      expect(await one.over()).toBe("end");
      await until(() => world.ingress.inFlight(id()) === 0);
    }
  });
  test("a reset passes on", async () => {
    for (const first of ["client", "server"] as const) {
      const [one, other] = await tunnel(first);
      one.reset();
      expect(await other.over()).toBe("reset");
    }
  });
  test("a refusal is an answer like others", async () => {
    const { client, server } = await begin(UPGRADE, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    await client.until("no");
    client.take();
    client.send(GET);
    await server.until("GET / ");
    server.send("HTTP/1.1 204 No Content\r\n\r\n");
    await client.until("204");
  });
  test("a real WebSocket: text, large binary frames, close codes", async () => {
    using server = Bun.serve({
      port: 0, hostname: "127.0.0.1",
      fetch: (request, self) => (self.upgrade(request) ? undefined : new Response("no", { status: 400 })),
      websocket: { maxPayloadLength: 64 * MB, message: (ws, data) => void (data === "bye" ? ws.close(4001, "done") : ws.send(data)) },
    });
    const to = world.route("ws.test", "web", server.port!);
    const socket = new WebSocket(`ws://127.0.0.1:${to}/`, { headers: { host: "ws.test" } } as unknown as string[]);
    socket.binaryType = "arraybuffer";
    const next = () => new Promise<string | ArrayBuffer>((resolve) => { socket.onmessage = ({ data }) => resolve(data as string | ArrayBuffer); });
    await new Promise((resolve) => { socket.onopen = resolve; });
    const echo = async (data: string | Uint8Array) => { const answer = next(); socket.send(data as string); return answer; };
    expect(await echo("hello")).toBe("hello");
    const large = new Uint8Array(16 * MB).map((_, i) => i * 7);
    expect(Buffer.from(await echo(large) as ArrayBuffer).equals(large)).toBe(true);
    const closed = new Promise<CloseEvent>((resolve) => { socket.onclose = resolve; });
    socket.send("bye");
    expect(await closed).toMatchObject({ code: 4001, reason: "done" });
    await until(() => world.ingress.inFlight(id()) === 0);
  });
});
