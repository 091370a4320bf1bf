// Clients of WebSockets that read slowly: what was said last comes to them too. Their frames are written and read here byte by byte, as
// the runtime's own client can't be told to wait.
import { afterEach, beforeEach, expect, test } from "bun:test";
import type { ServerWebSocket } from "bun";
import { okAsync } from "neverthrow";
import { CP_V1 } from "../../src/routes/cp-protocol.ts";
import { EXEC_V1 } from "../../src/routes/exec-protocol.ts";
import { ExecSocket } from "../../src/routes/instances/exec.ts";
import type { Socket } from "../../src/routes/live.ts";
import { Raw } from "../host/ingress/raw.ts";
import { type Api, startApiWithSh, until } from "./harness.ts";

const MIB = 2 ** 20;
let api: Api;
beforeEach(async () => { api = await startApiWithSh(); });
afterEach(() => api.stop());

/** RFC 6455 5.2: a short text frame, masked with nothing. */
const text = (what: string) => Buffer.concat([Buffer.from([0x81, 0x80 | what.length, 0, 0, 0, 0]), Buffer.from(what)]);

async function connect(path: string, protocol: string, first: string): Promise<Raw> {
  const raw = await Raw.connect(Number(new URL(api.url).port));
  const fields = ["Host: 127.0.0.1", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", `Sec-WebSocket-Protocol: ${protocol}`];
  await raw.send(`GET ${path} HTTP/1.1\r\n${fields.join("\r\n")}\r\n\r\n`).until("\r\n\r\n");
  raw.pause();
  raw.send(text(first));
  return raw;
}

/** Reads on, a piece in each turn of the loop. */
function reads(raw: Raw): void {
  raw.onData = () => {
    raw.pause();
    setImmediate(() => raw.resume());
  };
  raw.resume();
}

test("a command's output and exit come whole, however the client lags", async () => {
  let sent = 0;
  api.instances.exec = (_ref, _request, listener) => {
    let paused = false;
    setImmediate(() => {
      for (; !paused && sent < 64 * MIB; sent += MIB) listener.onStdout(new Uint8Array(MIB).fill(0xaa));
      listener.onEnd({ code: 7, message: null });
    });
    return okAsync({ writeStdin: () => true, endStdin() {}, resize() {}, signal() {}, pause: () => void (paused = true), resume() {}, close() {} });
  };
  const client = await connect("/instances/sh/exec", EXEC_V1, "{}");
  await until(() => sent > 0);
  reads(client);
  await until(() => client.ended || client.closed !== "open");
  expect(client.got.split("\u00aa").length - 1).toBe(sent);
  expect(client.got).toContain('{"exitCode":7}');
});

test("a copy out comes whole, with its end", async () => {
  let sent = 0;
  api.instances.copy = (_ref, _request, listener) => {
    let paused = false;
    setImmediate(() => {
      listener.onEntry({ path: "", kind: "file", mode: 0o644, uid: 0, gid: 0, sizeBytes: MIB, mtime: 0, target: null });
      for (; !paused && sent < 64 * MIB; sent += MIB) listener.onData(new Uint8Array(MIB).fill(0xaa));
    });
    const resume = () => {
      listener.onFileEnd();
      listener.onEnd({ error: null, bytes: sent });
    };
    return okAsync({ sendEntry: () => true, sendData: () => true, endFile: () => true, finish() {}, pause: () => void (paused = true), resume, close() {} });
  };
  const client = await connect("/instances/sh/cp", CP_V1, '{"direction":"from","guest_path":"/x"}');
  await until(() => sent > 0);
  reads(client);
  await until(() => client.got.includes('"final":true') || client.closed !== "open");
  expect(client.got.split("\u00aa").length - 1).toBe(sent);
  client.reset();
});

test("a socket is closed once the kernel has all that was sent: the runtime drops the rest a few seconds after that", async () => {
  const said: string[] = [];
  let kept = 0;
  const ws = {
    resume() {}, pause() {}, ping() {}, terminate: () => void said.push("terminated"), getBufferedAmount: () => kept,
    sendText: (what: string) => (said.push(what), kept += what.length, -1), close: (code: number) => void said.push(`closed ${code}`),
  } as unknown as ServerWebSocket<Socket>;
  const socket = new ExecSocket({
    v1: true, firstFrame: false, closing: new AbortController().signal,
    open: (listener) => (listener.onEnd({ code: 7, message: null }), okAsync({ writeStdin: () => true, endStdin() {}, resize() {}, signal() {}, pause() {}, resume() {}, close() {} })),
  });
  socket.open(ws);
  expect(said).toEqual(['{"exitCode":7}']);
  for (const left of [5, 0]) {
    kept = left;
    socket.drain(ws);
  }
  socket.drain(ws);
  expect(said).toEqual(['{"exitCode":7}', "closed 1000"]);
  socket.close(ws);
});
