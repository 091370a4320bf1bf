// Requests that two readers could take differently never reach a target; answers of that kind never reach a client.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { OK, Raw, RawServer } from "./raw.ts";
import { WebWorld } from "./web-world.ts";

let world: WebWorld, target: RawServer, port: number;
beforeEach(() => void ({ target, port } = world = new WebWorld()));
afterEach(() => world.close());

const GET = "GET / HTTP/1.1\r\n", POST = "POST / HTTP/1.1\r\n", HOST = "Host: a.test\r\n";
/** What would be taken for a request of its own. */
const INNER = "GET /admin HTTP/1.1\r\nHost: a.test\r\n\r\n";

describe("heads that are refused before anything is sent on", () => {
  test.each<[string, string, number]>([
    ["both lengths", `${POST}${HOST}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${INNER}`, 400],
    ["both lengths, the other way round", `${POST}${HOST}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n`, 400],
    ["two Content-Length that differ", `${POST}${HOST}Content-Length: 0\r\nContent-Length: ${INNER.length}\r\n\r\n${INNER}`, 400],
    ["two Content-Length that are equal", `${POST}${HOST}Content-Length: 0\r\nContent-Length: 0\r\n\r\n`, 400],
    ["a list as Content-Length", `${POST}${HOST}Content-Length: 0, 0\r\n\r\n`, 400],
    ["a signed Content-Length", `${POST}${HOST}Content-Length: +4\r\n\r\n`, 400],
    ["a negative Content-Length", `${POST}${HOST}Content-Length: -4\r\n\r\n`, 400],
    ["a hexadecimal Content-Length", `${POST}${HOST}Content-Length: 0x4\r\n\r\n`, 400],
    ["an empty Content-Length", `${POST}${HOST}Content-Length:\r\n\r\n`, 400],
    ["a Content-Length beyond all numbers", `${POST}${HOST}Content-Length: 99999999999999999999\r\n\r\n`, 400],
    ["chunked twice", `${POST}${HOST}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n`, 501],
    ["chunked not last", `${POST}${HOST}Transfer-Encoding: chunked, identity\r\n\r\n`, 400],
    ["another coding", `${POST}${HOST}Transfer-Encoding: gzip, chunked\r\n\r\n`, 501],
    ["something like chunked", `${POST}${HOST}Transfer-Encoding: xchunked\r\n\r\n`, 400],
    ["an empty Transfer-Encoding", `${POST}${HOST}Transfer-Encoding:\r\n\r\n`, 400],
    ["a vertical tab before chunked", `${POST}${HOST}Transfer-Encoding: \x0bchunked\r\n\r\n`, 400],
    ["chunked in HTTP/1.0", `POST / HTTP/1.0\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n`, 400],
    ["a space before the colon", `${POST}${HOST}Content-Length : 4\r\n\r\n`, 400],
    ["a space before the name", `${POST}${HOST} Content-Length: 4\r\n\r\n`, 400],
    ["a folded field", `${GET}${HOST}X-A: 1\r\n folded\r\n\r\n`, 400],
    ["a field folded by a tab", `${GET}${HOST}X-A: 1\r\n\tTransfer-Encoding: chunked\r\n\r\n`, 400],
    ["a folded first field", `${GET} Host: a.test\r\n\r\n`, 400],
    ["a name with a separator in it", `${GET}${HOST}X(A): 1\r\n\r\n`, 400],
    ["no name", `${GET}${HOST}: 1\r\n\r\n`, 400],
    ["no colon", `${GET}${HOST}X-A\r\n\r\n`, 400],
    ["a NUL in a value", `${GET}${HOST}X-A: a\x00b\r\n\r\n`, 400],
    ["a bare CR in a value", `${GET}${HOST}X-A: a\rTransfer-Encoding: chunked\r\n\r\n`, 400],
    ["a bare LF as a line's end", `${GET}${HOST}X-A: a\nX-B: b\r\n\r\n`, 400],
    ["two hosts", `${GET}${HOST}${HOST}\r\n`, 400],
    ["no host", `${GET}X-A: 1\r\n\r\n`, 400],
    ["a host that is a list", `${GET}Host: a.test, b.test\r\n\r\n`, 400],
    ["a host with a user", `${GET}Host: x@a.test\r\n\r\n`, 400],
    ["a host with a path", `${GET}Host: a.test/x\r\n\r\n`, 400],
    ["a target with a space", `GET / x HTTP/1.1\r\n${HOST}\r\n`, 400],
    ["a target with a control character", `GET /\x01 HTTP/1.1\r\n${HOST}\r\n`, 400],
    ["a target that is neither path nor address", `GET a.test HTTP/1.1\r\n${HOST}\r\n`, 400],
    ["a target of another scheme", `GET ftp://a.test/ HTTP/1.1\r\n${HOST}\r\n`, 400],
    ["an authority with a user", `GET http://x@a.test/ HTTP/1.1\r\n${HOST}\r\n`, 400],
    ["CONNECT", `CONNECT a.test:80 HTTP/1.1\r\n${HOST}\r\n`, 501],
    ["two spaces in the first line", `GET  / HTTP/1.1\r\n${HOST}\r\n`, 400],
    ["a version in small letters", `GET / http/1.1\r\n${HOST}\r\n`, 400],
    ["HTTP/0.9", "GET /\r\n\r\n", 400],
    ["HTTP/2.0", `GET / HTTP/2.0\r\n${HOST}\r\n`, 505],
    ["HTTP/1.2", `GET / HTTP/1.2\r\n${HOST}\r\n`, 505],
    ["the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505],
    ["an expectation that we don't know", `${POST}${HOST}Expect: 200-ok\r\nContent-Length: 0\r\n\r\n`, 417],
    ["a head without end", `${GET}${HOST}X-A: ${"a".repeat(70_000)}`, 431],
    ["a head of very many fields", `${GET}${HOST}${"X: 1\r\n".repeat(300)}\r\n`, 431],
  ])("%s", async (_, request, status) => {
    const client = (await Raw.connect(port)).send(request);
    await client.until("\r\n\r\n");
    expect(client.got).toStartWith(`HTTP/1.1 ${status} `);
    expect(client.got).toContain("Connection: close\r\n");
    expect(await client.over()).toBe("end");
    expect(client.got.match(/^HTTP\/1\.1 \d/gm)).toHaveLength(1);
    expect(target.connections).toHaveLength(0);
  });

  test("something that is no HTTP at all", async () => {
    const client = (await Raw.connect(port)).send("\x16\x03\x01\x02\x00\x01\x00\r\n\r\n");
    expect((await client.until("\r\n\r\n")).got).toStartWith("HTTP/1.1 400 ");
    expect(await client.over()).toBe("end");
  });
});

test("a head that comes too slowly is 408, however steadily it comes; its connection ends", async () => {
  const slow = new WebWorld({ headS: 1 }), client = (await Raw.connect(slow.port)).send(`${GET}${HOST}X-Slow: `);
  const dripping = setInterval(() => client.send("a"), 50);
  await client.until("\r\n\r\n");
  clearInterval(dripping);
  expect(client.got).toStartWith("HTTP/1.1 408 ");
  expect(client.got).toContain("Connection: close\r\n");
  expect(slow.target.connections).toHaveLength(0);
  client.reset();
  await slow.close();
});

describe("chunked bodies that are not", () => {
  test.each<[string, string]>([
    ["a size that is no number", "zz\r\n"],
    ["an empty size", "\r\n"],
    ["a signed size", "+5\r\nhello\r\n"],
    ["a negative size", "-5\r\nhello\r\n"],
    ["0x before the size", "0x5\r\nhello\r\n"],
    ["a size beyond all numbers", "fffffffffffffffff\r\n"],
    ["a space before the size", " 5\r\nhello\r\n"],
    ["a space after the size", "5 \r\nhello\r\n"],
    ["LF alone after the size", "5\nhello\r\n"],
    ["CR in an extension", "5;a\rb\r\nhello\r\n"],
    ["more than the size says", "5\r\nhelloX\r\n0\r\n\r\n"],
    ["LF alone after a chunk", "5\r\nhello\n0\r\n\r\n"],
    ["LF alone at the end", "0\r\n\n"],
    ["a folded trailer", "0\r\nX-A: 1\r\n b\r\n\r\n"],
    ["a trailer that is none", "0\r\nnothing\r\n\r\n"],
    ["an endless extension", `5;${"a".repeat(2000)}`],
    ["endless trailers", `0\r\n${"X-A: 1\r\n".repeat(4000)}`],
  ])("%s", async (_, body) => {
    const client = (await Raw.connect(port)).send(`${POST}${HOST}Transfer-Encoding: chunked\r\n\r\n`);
    const server = await (await target.at(0)).until("\r\n\r\n");
    client.send(body);
    expect((await client.until("\r\n\r\n")).got).toMatch(/^HTTP\/1\.1 4\d\d /);
    expect(await client.over()).toBe("end");
    expect(await server.over()).toBe("reset");
    expect(server.got).not.toContain("0\r\n\r\n");
  });
});

describe("what a field names in Connection", () => {
  test("changes neither host nor framing nor what the target is told of the caller", async () => {
    const client = (await Raw.connect(port)).send(`${POST}${HOST}Connection: Host, Content-Length, X-Forwarded-For, Transfer-Encoding\r\nContent-Length: ${INNER.length}\r\n\r\n${INNER}`);
    const server = await (await target.at(0)).until("/admin");
    expect(server.got).toStartWith("POST / HTTP/1.1\r\nHost: a.test\r\n");
    expect(server.got).toContain("X-Forwarded-For: 127.0.0.1\r\n");
    expect(server.got).toContain(`Content-Length: ${INNER.length}\r\n`);
    server.send(OK);
    await client.until("ok");
  });
});

describe("answers that can't be trusted are 502", () => {
  test.each<[string, string]>([
    ["no HTTP", "SSH-2.0-x\r\n\r\n"],
    ["both lengths", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"],
    ["two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n"],
    ["a length that is none", "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"],
    ["a coding that we don't know", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"],
    ["chunks in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"],
    ["a folded field", "HTTP/1.1 200 OK\r\nX-A: 1\r\n b\r\n\r\n"],
    ["a control character", "HTTP/1.1 200 OK\r\nX-A: a\x00\r\n\r\n"],
    ["a status of 99", "HTTP/1.1 099 Odd\r\n\r\n"],
    ["a switch that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"],
    ["an endless head", `HTTP/1.1 200 OK\r\nX-A: ${"a".repeat(70_000)}`],
  ])("%s", async (_, answer) => {
    const client = (await Raw.connect(port)).send(`${GET}${HOST}\r\n`);
    const server = await (await target.at(0)).until("\r\n\r\n");
    server.send(answer);
    expect((await client.until("\n")).got).toStartWith("HTTP/1.1 502 ");
    expect(await server.over()).toBe("reset");
  });
});
