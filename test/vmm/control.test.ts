// The monitor's end of the control socket, without a monitor: who gets an answer that comes late.
import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Epoll } from "../../src/ffi/epoll.ts";
import { closeFd } from "../../src/ffi/fd.ts";
import { connectSeqpacket, listenSeqpacket, receivePacket, sendPacket } from "../../src/ffi/socket.ts";
import { Control, type Handlers, type Reply } from "../../src/vmm/control.ts";

const cleanup: (() => void)[] = [];
afterEach(() => cleanup.splice(0).reverse().forEach((step) => step()));

test("an answer that comes after its daemon has gone does not reach the next one, though that asks under the same id", () => {
  const dir = mkdtempSync(join(tmpdir(), "dormouse-control-")), path = join(dir, "socket");
  const epoll = new Epoll(), listener = listenSeqpacket(path), asked: Reply<"status">[] = [];
  cleanup.push(() => rmSync(dir, { recursive: true }), () => epoll.close(), () => closeFd(listener));
  let hangUps = 0;
  const control = new Control(epoll, listener, { status: (_params, _fds, reply) => void asked.push(reply) } as Partial<Handlers> as Handlers, () => void hangUps++);
  const turn = () => { while (epoll.poll(0) > 0); };
  const ask = () => {
    const fd = connectSeqpacket(path);
    turn();
    sendPacket(fd, Buffer.from(JSON.stringify({ id: 1, method: "status", params: null })));
    turn();
    return fd;
  };
  closeFd(ask());
  turn();
  expect({ hangUps, connected: control.connected }).toEqual({ hangUps: 1, connected: false });
  const next = ask();
  cleanup.push(() => closeFd(next));
  asked[0]!({ error: "the first one's" });
  expect(receivePacket(next, new Uint8Array(1024))).toBe("again");
  asked[1]!({ error: "its own" });
  const answer = receivePacket(next, new Uint8Array(1024));
  expect(answer === null || answer === "again" ? answer : JSON.parse(Buffer.from(answer.bytes).toString())).toEqual({ id: 1, ok: false, error: "its own" });
});
