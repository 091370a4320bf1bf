import { afterEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { E } from "../../src/ffi/abi/errno.ts";
import { closeFd, O_RDONLY, openFd, tryRead } from "../../src/ffi/fd.ts";
import { acceptConnection, connectSeqpacket, listenSeqpacket, packetPair, receivePacket, sendPacket, streamPair, type Packet } from "../../src/ffi/socket.ts";
import { SysError } from "../../src/ffi/syscall.ts";

const dir = mkdtempSync(join(tmpdir(), "dormouse-socket-"));
const open: number[] = [];
const own = <T extends number | readonly number[]>(fds: T): T => (open.push(...[fds].flat() as number[]), fds);
afterEach(() => open.splice(0).forEach(closeFd));
process.on("exit", () => rmSync(dir, { recursive: true, force: true }));

const received = (fd: number, size = 65536): Packet => {
  const packet = receivePacket(fd, new Uint8Array(size));
  if (packet === null || packet === "again") throw new Error(`no packet: ${packet}`);
  own(packet.fds);
  return packet;
};

test("sendPacket() keeps packets apart and passes descriptors in order", () => {
  const [a, b] = own(packetPair());
  const files = ["one", "two"].map((text) => (writeFileSync(join(dir, text), text), own(openFd(join(dir, text), O_RDONLY))));
  expect(sendPacket(a, Buffer.from("first"), files)).toBe(5);
  expect(sendPacket(a, Buffer.from("second"))).toBe(6);
  const first = received(b);
  expect(Buffer.from(first.bytes).toString()).toBe("first");
  expect(first.fds.map((fd) => readFileSync(`/proc/self/fd/${fd}`, "utf8"))).toEqual(["one", "two"]);
  expect(first.fds.some((fd) => files.includes(fd))).toBe(false);
  expect(received(b)).toEqual({ bytes: new Uint8Array(Buffer.from("second")), fds: [] });
});

test("receivePacket() says again, end, and drops what does not fit with its descriptors", () => {
  const [a, b] = own(packetPair());
  expect(receivePacket(b, new Uint8Array(8))).toBe("again");
  const before = openDescriptors();
  sendPacket(a, new Uint8Array(64), [a, a, a]);
  expect(receivePacket(b, new Uint8Array(8))).toBeNull();
  expect(openDescriptors()).toBe(before);
  closeFd(open.splice(open.indexOf(a), 1)[0]!);
  expect(receivePacket(b, new Uint8Array(8))).toBeNull();
  expect(sendPacket(b, new Uint8Array(1))).toBe(-E.EPIPE);
});

test("receivePacket() hears the last words of a peer that ended without reading what it was sent", () => {
  const [a, b] = own(packetPair());
  sendPacket(a, Buffer.from("a question"));
  sendPacket(b, Buffer.from("no"));
  sendPacket(b, Buffer.from("farewell"));
  closeFd(open.splice(open.indexOf(b), 1)[0]!);
  expect(Buffer.from(received(a).bytes).toString()).toBe("no");
  expect(Buffer.from(received(a).bytes).toString()).toBe("farewell");
  expect(receivePacket(a, new Uint8Array(8))).toBeNull();
});

test("sendPacket() answers EAGAIN when the peer does not read, and EINVAL for too many descriptors", () => {
  const [a] = own(packetPair());
  let result = 0;
  for (let i = 0; i < 10_000 && result >= 0; i++) result = sendPacket(a, new Uint8Array(1024));
  expect(result).toBe(-E.EAGAIN);
  expect(sendPacket(a, new Uint8Array(1), Array.from({ length: 100 }, () => a))).toBe(-E.EINVAL);
});

test("listenSeqpacket() and connectSeqpacket() work on paths longer than sun_path", () => {
  const deep = join(dir, "d".repeat(100), "e".repeat(100));
  mkdirSync(deep, { recursive: true });
  const path = join(deep, "vmm.sock");
  const listener = own(listenSeqpacket(path));
  expect(acceptConnection(listener)).toBe(-E.EAGAIN);
  const client = own(connectSeqpacket(path));
  const server = own(acceptConnection(listener));
  expect(server).toBeGreaterThan(0);
  sendPacket(client, Buffer.from("hello"));
  expect(Buffer.from(received(server).bytes).toString()).toBe("hello");
});

test("connectSeqpacket() tells a dead listener from a missing one", () => {
  const path = join(dir, "dead.sock");
  closeFd(listenSeqpacket(path));
  const errno = (p: string) => {
    try {
      return own(connectSeqpacket(p));
    } catch (error) {
      return error instanceof SysError ? error.errno : error;
    }
  };
  expect(errno(path)).toBe(E.ECONNREFUSED);
  expect(errno(join(dir, "missing.sock"))).toBe(E.ENOENT);
});

test("streamPair() is a stream", () => {
  const [a, b] = own(streamPair());
  sendPacket(a, Buffer.from("ab"));
  sendPacket(a, Buffer.from("cd"));
  const buffer = new Uint8Array(8);
  expect(tryRead(b, buffer, 8)).toBe(4);
  expect(tryRead(b, buffer, 8)).toBe(-E.EAGAIN);
});

const openDescriptors = () => readdirSync("/proc/self/fd").length;
