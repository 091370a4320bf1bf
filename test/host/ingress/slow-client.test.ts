// A client that takes its time to read: what was answered is not cut by the limits of silent connections. Over a socket of the test's own,
// which takes as much as it is told to.
import { expect, test } from "bun:test";
import { Client, type Proxy } from "../../../src/host/ingress/proxy/client.ts";
import type { Pool } from "../../../src/host/ingress/proxy/upstream.ts";
import type { Reach } from "../../../src/host/ingress/proxy/reach.ts";
import { Ledger, type RawSocket, Wire } from "../../../src/host/ingress/proxy/wire.ts";

const HEAD_S = 30;

class SlowSocket {
  data: Wire | undefined;
  readonly remoteAddress = "192.0.2.1";
  taken = "";
  room = 0;
  seconds = 0;
  how: "open" | "shut down" | "ended" | "reset" = "open";
  paused = false;
  write(bytes: Uint8Array): number {
    const sent = Math.min(bytes.length, this.room);
    this.room -= sent;
    this.taken += Buffer.from(bytes.subarray(0, sent)).toString("latin1");
    return sent;
  }
  timeout(seconds: number): void { this.seconds = seconds; }
  shutdown(): void { this.how = "shut down"; }
  end(): void { this.how = "ended"; }
  terminate(): void { this.how = "reset"; }
  pause(): void { this.paused = true; }
  resume(): void { this.paused = false; }
  setNoDelay(): void {}
  setKeepAlive(): void {}
}

/** A proxy without a site: each request is answered 404 at once. */
function connect(): { client: Client; socket: SlowSocket; says(text: string): void; reads(): void; times(): void } {
  const socket = new SlowSocket(), raw = socket as unknown as RawSocket;
  const proxy: Proxy = { reach: {} as Reach, pool: {} as Pool, ledger: new Ledger(2 ** 20), headS: HEAD_S, find: () => null, instanceOf: () => null, begin: () => () => {} };
  const client = new Client(raw, 80, proxy, () => {}), handlers = Wire.handlers(() => {}, (error) => { throw error; });
  return {
    client, socket,
    says: (text) => void handlers.data!(raw, Buffer.from(text)),
    reads: () => { socket.room = Infinity; void handlers.drain!(raw); },
    times: () => void handlers.timeout!(raw),
  };
}

const request = (more = "") => `GET / HTTP/1.1\r\nHost: a.test\r\n${more}\r\n`;

test("an answer that is a connection's last: it is over some time after all was taken, and is not reset", () => {
  const { socket, says, reads, times } = connect();
  says(request("Connection: close\r\n"));
  expect(socket).toMatchObject({ seconds: 0, how: "open" });
  reads();
  expect(socket.taken).toEndWith("}\n");
  expect(socket).toMatchObject({ seconds: 4, how: "shut down" });
  times();
  expect(socket.how).toBe("ended");
});

test("between requests: neither the next one nor silence is timed before all was taken", () => {
  const { socket, says, reads, times } = connect();
  says(request() + request());
  expect(socket).toMatchObject({ seconds: 0, paused: true });
  reads();
  expect(socket.taken.match(/ 404 /g)).toHaveLength(2);
  expect(socket).toMatchObject({ seconds: 75, how: "open", paused: false });
  times();
  expect(socket.how).toBe("ended");
});

test("a rule that goes ends its idle connections once they have what was answered", () => {
  const idle = connect(), slow = connect();
  for (const { says } of [idle, slow]) says(request());
  idle.reads();
  for (const { client } of [idle, slow]) client.retire();
  expect([idle.socket.how, slow.socket.how]).toEqual(["ended", "open"]);
  slow.reads();
  expect(slow.socket).toMatchObject({ how: "shut down", seconds: 4 });
  expect(slow.socket.taken).toEndWith("}\n");
});
