// What goes through, and what it looks like on the other side.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { answering, OK, Raw, RawServer } from "./raw.ts";
import { WebWorld } from "./web-world.ts";
import { until } from "./world.ts";

let world: WebWorld, target: RawServer, port: number;
beforeEach(() => void ({ target, port } = world = new WebWorld()));
afterEach(() => world.close());

const HEAD = "GET / HTTP/1.1\r\nHost: a.test\r\n";
const id = () => [...world.instances.keys()][0]!;
/** Sends `request`, has the target answer `answer`; what each side got. */
async function exchange(request: string, answer: string, end: string) {
  const client = (await Raw.connect(port)).send(request);
  const server = await (await target.at(0)).until("\r\n\r\n");
  server.send(answer);
  await client.until(end);
  return { client, server };
}

describe("requests", () => {
  test("hop-by-hop fields end, others keep their names and order, forwarded ones tell of the caller", async () => {
    const request = `POST /p?q=%20 HTTP/1.1\r\nHost: A.test:${port}\r\nX-B: 1\r\nx-b: 2\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nContent-Length: 2\r\n\r\nhi`;
    const { server } = await exchange(request, OK, "ok");
    expect(server.got).toBe(`POST /p?q=%20 HTTP/1.1\r\nHost: A.test:${port}\r\nX-B: 1\r\nx-b: 2\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: A.test:${port}\r\nContent-Length: 2\r\nConnection: TE\r\nTE: trailers\r\n\r\nhi`);
  });
  test("a proxy on this machine may say for whom it asks", async () => {
    const { server } = await exchange(`${HEAD}X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\r\n`, OK, "ok");
    expect(server.got).toContain("X-Forwarded-For: 192.0.2.1, 127.0.0.1\r\n");
    expect(server.got).toContain("X-Forwarded-Proto: https\r\n");
    expect(server.got.match(/X-Forwarded-Proto/g)).toHaveLength(1);
  });
  test("an absolute target names the host", async () => {
    const { server } = await exchange("GET http://a.test/x?y HTTP/1.1\r\nHost: other.test\r\n\r\n", OK, "ok");
    expect(server.got).toStartWith("GET /x?y HTTP/1.1\r\nHost: a.test\r\n");
    expect(server.got).not.toContain("other.test");
  });
  test("OPTIONS * goes on as it is", async () => {
    expect((await exchange("OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n", OK, "ok")).server.got).toStartWith("OPTIONS * HTTP/1.1\r\n");
  });
  test("a chunked body is chunked anew: extensions go, trailers stay but those that come too late", async () => {
    const request = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-Sum: 1\r\nAuthorization: x\r\nTransfer-Encoding: x\r\n\r\n";
    const { server } = await exchange(request, OK, "ok");
    expect(server.got).toContain("Transfer-Encoding: chunked\r\n");
    expect(server.got.split("\r\n\r\n").slice(1).join("\r\n\r\n")).toBe("5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n");
  });
  test("what its ingress asks for ends here", async () => {
    const value = "0123456789abcdef0123456789abcdef";
    const guarded = world.route("b.test", "web", target.port, { auth: { header: "X-Key", value } });
    const ask = async (fields: string) => (await (await Raw.connect(guarded)).send(`GET / HTTP/1.1\r\nHost: b.test\r\n${fields}Connection: close\r\n\r\n`)).until("HTTP/1.1");
    for (const fields of ["", "X-Key: nope\r\n", `X-Key: ${value}x\r\n`, `X-Key: ${value}\r\nX-Key: ${value}\r\n`]) expect((await ask(fields)).got).toStartWith("HTTP/1.1 403 ");
    expect(target.connections).toHaveLength(0);
    const client = (await Raw.connect(guarded)).send(`GET / HTTP/1.1\r\nHost: b.test\r\nx-key: ${value}\r\n\r\n`);
    const server = await (await target.at(0)).until("\r\n\r\n");
    expect(server.got.toLowerCase()).not.toContain("x-key");
    server.send(OK);
    await client.until("ok");
    expect(world.logged.join("")).not.toContain(value);
  });
});

describe("answers", () => {
  test("hop-by-hop fields end", async () => {
    const { client } = await exchange(`${HEAD}\r\n`, "HTTP/1.1 200 Fine\r\nX-A: 1\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok", "ok");
    expect(client.got).toBe("HTTP/1.1 200 Fine\r\nX-A: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok");
  });
  test("chunked with trailers", async () => {
    const { client } = await exchange(`${HEAD}\r\n`, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n", "X-Sum");
    expect(client.got).toEndWith("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n");
  });
  test("one that ends with its connection is chunked, and the client's connection stays", async () => {
    const client = (await Raw.connect(port)).send(`${HEAD}\r\n`);
    const server = await (await target.at(0)).until("\r\n\r\n");
    server.send("HTTP/1.0 200 OK\n\nabc");
    await client.until("abc");
    server.fin();
    await client.until("0\r\n\r\n");
    expect(client.got).toBe("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    client.take();
    client.send(`${HEAD}\r\n`);
    (await (await target.at(1)).until("\r\n\r\n")).send(OK);
    await client.until("ok");
  });
  test.each<[string, string, string]>([
    ["HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"],
    ["HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"],
    ["GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"],
    ["GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 5\r\n\r\n"],
    ["POST", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"],
  ])("%s: no body after %j", async (method, answer, expected) => {
    const { client, server } = await exchange(`${method} / HTTP/1.1\r\nHost: a.test\r\n\r\n`, answer, "\r\n\r\n");
    expect(client.take()).toBe(expected);
    client.send(`${HEAD}\r\n`);
    await server.until("GET / HTTP/1.1\r\nHost: a.test");
    await until(() => target.connections.some((one) => one.got.endsWith("\r\n\r\n")));
  });
  test("informational ones go on, and 100 lets a body come", async () => {
    const client = (await Raw.connect(port)).send("PUT / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    const server = await (await target.at(0)).until("\r\n\r\n");
    expect(server.got).toContain("Expect: 100-continue\r\n");
    server.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
    await client.until("100 Continue\r\n\r\n");
    expect(client.take()).toBe("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc");
    await server.until("abc");
    server.send(OK);
    expect((await client.until("ok")).got).toBe(OK);
  });
  test("an answer instead of 100 is the connection's last", async () => {
    const { client } = await exchange("PUT / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno", "no");
    expect(client.got).toContain("Connection: close\r\n");
    expect(await client.over()).toBe("end");
  });
  test("an answer before the body has come is whole, also to a client that still sends", async () => {
    const client = (await Raw.connect(port)).send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000000\r\n\r\n");
    const server = await (await target.at(0)).until("\r\n\r\n");
    client.send(new Uint8Array(2_000_000));
    server.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
    await client.until("no");
    expect(await client.over()).toBe("end");
  });
});

describe("HTTP/1.0 clients", () => {
  test("get no chunks, and an end that is the connection's", async () => {
    const { client } = await exchange("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "abc");
    expect(client.got).toBe("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc");
    expect(await client.over()).toBe("end");
  });
  test("keep their connection where they ask for it and a length is known", async () => {
    const { client } = await exchange("GET / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n", OK, "ok");
    expect(client.take()).toBe("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok");
    client.send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n");
    await (await target.at(0)).until("\r\n\r\nGET /");
    target.connections[0]!.send(OK);
    expect((await client.until("ok")).got).toContain("Connection: close");
    expect(await client.over()).toBe("end");
  });
  test("without a host there is no site", async () => {
    const client = (await Raw.connect(port)).send("GET / HTTP/1.0\r\n\r\n");
    expect((await client.until("\n")).got).toStartWith("HTTP/1.1 404 ");
  });
});

describe("connections", () => {
  test("are kept on both sides; those to targets are known while they are idle", async () => {
    const { client } = await exchange(`${HEAD}\r\n`, OK, "ok");
    await until(() => world.ingress.idleUpstreamPorts(id()).size === 1);
    expect([...world.ingress.idleUpstreamPorts(id())]).toEqual([target.connections[0]!.socket.remotePort]);
    for (let round = 0; round < 5; round++) {
      client.take();
      target.connections[0]!.take();
      client.send(`${HEAD}\r\n`);
      await target.connections[0]!.until("\r\n\r\n");
      expect(world.ingress.idleUpstreamPorts(id()).size).toBe(0);
      target.connections[0]!.send(OK);
      await client.until("ok");
    }
    expect(target.connections).toHaveLength(1);
  });
  test("one that its target has closed is not used again; one closed under a request is replaced", async () => {
    const { client, server } = await exchange(`${HEAD}\r\n`, OK, "ok");
    server.take();
    client.take();
    client.send(`${HEAD}\r\n`);
    await server.until("\r\n\r\n");
    server.reset();
    (await (await target.at(1)).until("\r\n\r\n")).send(OK);
    expect((await client.until("ok")).got).toBe(OK);
    target.connections[1]!.fin();
    await until(() => world.ingress.idleUpstreamPorts(id()).size === 0);
    client.take();
    client.send(`${HEAD}\r\n`);
    (await (await target.at(2)).until("\r\n\r\n")).send(OK);
    await client.until("ok");
  });
  test("what must not be repeated never goes on a kept one", async () => {
    const { client } = await exchange(`${HEAD}\r\n`, OK, "ok");
    client.take();
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
    const server = await (await target.at(1)).until("\r\n\r\n");
    server.reset();
    expect((await client.until("\n")).got).toStartWith("HTTP/1.1 502 ");
    expect(target.connections).toHaveLength(2);
  });
  test("bytes after an answer end the connection, and reach nobody", async () => {
    const { client } = await exchange(`${HEAD}\r\n`, `${OK}HTTP/1.1 200 Forged\r\n\r\n`, "ok");
    client.send(`${HEAD}\r\n`);
    (await (await target.at(1)).until("\r\n\r\n")).send(OK);
    await until(() => client.count === OK.length * 2);
    expect(client.got).not.toContain("Forged");
  });
  test("requests sent ahead are answered in turn", async () => {
    target.stop();
    target = answering(OK);
    port = world.route("p.test", "web", target.port);
    const ahead = "GET / HTTP/1.1\r\nHost: p.test\r\n\r\n", nowhere = "GET / HTTP/1.1\r\nHost: nowhere.test\r\n\r\n";
    const client = (await Raw.connect(port)).send((ahead + nowhere).repeat(200));
    await until(() => (client.got.match(/HTTP\/1\.1 /g) ?? []).length === 400);
    const statuses = [...client.got.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status);
    expect(statuses).toEqual(Array.from({ length: 400 }, (_, i) => (i % 2 === 0 ? "200" : "404")));
    expect(target.connections).toHaveLength(1);
  });
  test("one that sends ahead and does not read is not read on", async () => {
    const client = await Raw.connect(port);
    client.pause();
    client.send("GET / HTTP/1.1\r\nHost: nowhere.test\r\n\r\n".repeat(1_000_000));
    let before = -1;
    await until(() => { const same = client.unsent === before; before = client.unsent; return same; });
    expect(client.unsent).toBeGreaterThan(10_000_000);
  });
  test("Connection: close is heeded", async () => {
    const { client } = await exchange(`${HEAD}Connection: close\r\n\r\n`, OK, "ok");
    expect(client.got).toContain("Connection: close\r\n");
    expect(await client.over()).toBe("end");
  });
});
