// virtio-vsock with the guest's side played by the test, and real socket pairs on the host's side.
import { afterEach, expect, test } from "bun:test";
import { E } from "../../../src/ffi/abi/errno.ts";
import { SYS } from "../../../src/ffi/abi/syscalls.ts";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { closeFd, O_RDONLY, O_RDWR, openFd, tryRead, tryWrite } from "../../../src/ffi/fd.ts";
import { streamPair } from "../../../src/ffi/socket.ts";
import { must } from "../../../src/ffi/syscall.ts";
import { BUFFER_BYTES } from "../../../src/vmm/devices/vsock/connection.ts";
import { VsockDevice } from "../../../src/vmm/devices/vsock/device.ts";
import { CID, cleanUp, CREDIT_REQUEST, CREDIT_UPDATE, Guest, PORT, REQUEST, RESPONSE, RST, RW, SHUTDOWN, type Packet } from "./vsock-guest.ts";

const SHUT_WR = 1, SHUT_RDWR = 2;
afterEach(cleanUp);

test("bytes go both ways over a connection that the host opened", () => {
  const guest = new Guest();
  const { host, port } = guest.connected();
  tryWrite(host, Buffer.from("to the guest"), 12);
  expect(guest.next()).toMatchObject({ op: RW, from: port, to: PORT, data: "to the guest" });
  guest.send(RW, port, { data: Buffer.from("to the host") });
  expect(guest.read(host, 11)).toBe("to the host");
});

test("a refused connection says so, and its socket is closed", () => {
  const guest = new Guest();
  const [ours, theirs] = streamPair();
  let outcome: string | null | undefined;
  guest.device.connect(PORT, theirs, (error) => (outcome = error));
  guest.send(RST, guest.next().from);
  expect(outcome).toBe("the guest refused the connection");
  expect(tryRead(ours, new Uint8Array(1), 1)).toBe(0);
  expect(guest.device.size).toBe(0);
  closeFd(ours);
});

test("without a driver nothing is connected", () => {
  const epoll = new Epoll();
  const device = new VsockDevice(CID, epoll);
  const [ours, theirs] = streamPair();
  const outcomes: (string | null)[] = [];
  device.connect(PORT, theirs, (error) => void outcomes.push(error));
  expect(outcomes).toEqual(["the guest's vsock driver is not running"]);
  expect(tryRead(ours, new Uint8Array(1), 1)).toBe(0);
  closeFd(ours);
  epoll.close();
});

test("the guest's connections go to the listener, or are refused", () => {
  const guest = new Guest();
  guest.send(REQUEST, 5000);
  expect(guest.next()).toMatchObject({ op: RST, from: 5000, to: PORT });
  const [ours, theirs] = streamPair();
  guest.device.listener = (port) => (port === 5000 ? theirs : -1);
  guest.send(REQUEST, 5000);
  expect(guest.next()).toMatchObject({ op: RESPONSE, from: 5000, to: PORT });
  guest.send(RW, 5000, { data: Buffer.from("hi") });
  expect(guest.read(ours, 2)).toBe("hi");
  closeFd(ours);
});

test("the host sends no more than the guest has room for", () => {
  const guest = new Guest();
  const { host, port } = guest.connected(10);
  tryWrite(host, Buffer.from("0123456789abcdef"), 16);
  expect(guest.next()).toMatchObject({ op: RW, data: "0123456789" });
  expect(guest.next()).toMatchObject({ op: CREDIT_REQUEST });
  expect(guest.rest()).toEqual([]);
  guest.send(CREDIT_UPDATE, port, { alloc: 10, forwarded: 4 });
  expect(guest.next()).toMatchObject({ op: RW, data: "abcd" });
  expect(guest.next()).toMatchObject({ op: CREDIT_REQUEST });
  guest.send(CREDIT_UPDATE, port, { alloc: 10, forwarded: 14 });
  expect(guest.next()).toMatchObject({ op: RW, data: "ef" });
});

test("what the host does not read is kept, bounded by the guest's credit, and told when it is gone", () => {
  const guest = new Guest();
  const { host, port } = guest.connected();
  const data = Buffer.from("x".repeat(32_768));
  for (let i = 0; i < BUFFER_BYTES / data.length; i++) guest.send(RW, port, { data });
  guest.rest();
  expect(guest.read(host, BUFFER_BYTES)).toBe("x".repeat(BUFFER_BYTES));
  let told = 0;
  guest.driver.run(() => {
    for (const p of guest.rest()) told = p.op === CREDIT_UPDATE ? p.forwarded : told;
    return told >= BUFFER_BYTES * 0.75;
  });
  guest.send(CREDIT_REQUEST, port);
  expect(guest.next()).toMatchObject({ op: CREDIT_UPDATE, forwarded: BUFFER_BYTES });
});

test("a guest that sends without credit loses the connection", () => {
  const guest = new Guest();
  const { port } = guest.connected();
  const data = new Uint8Array(65_000);
  const got: Packet[] = [];
  for (let i = 0; i < 40 && got.length === 0; i++) {
    guest.send(RW, port, { data });
    got.push(...guest.rest().filter((p) => p.op === RST));
  }
  expect(got).toHaveLength(1);
  expect(guest.device.size).toBe(0);
});

test("the host's end of input is a shutdown, its close one of both directions", () => {
  const guest = new Guest();
  const half = guest.connected();
  tryWrite(half.host, Buffer.from("last"), 4);
  must("Cannot shut down", SYS.shutdown, half.host, SHUT_WR);
  expect(guest.next()).toMatchObject({ op: RW, data: "last" });
  expect(guest.next()).toMatchObject({ op: SHUTDOWN, flags: 2 });
  guest.send(RW, half.port, { data: Buffer.from("still heard") });
  expect(guest.read(half.host, 11)).toBe("still heard");
  const [ours, theirs] = streamPair();
  guest.device.connect(PORT, theirs, () => {});
  const port = guest.next().from;
  guest.send(RESPONSE, port);
  closeFd(ours);
  expect(guest.next()).toMatchObject({ op: SHUTDOWN, from: port, flags: 3 });
  guest.send(RST, port);
  expect(guest.device.size).toBe(1);
});

test("a hang-up is told to a guest that takes nothing more, and after an end of input", () => {
  const guest = new Guest();
  const stuck = guest.connected(10);
  tryWrite(stuck.host, Buffer.from("0123456789abcdef"), 16);
  expect(guest.next()).toMatchObject({ op: RW, data: "0123456789" });
  expect(guest.next()).toMatchObject({ op: CREDIT_REQUEST });
  must("Cannot shut down", SYS.shutdown, stuck.host, SHUT_RDWR);
  expect(guest.next()).toMatchObject({ op: SHUTDOWN, from: stuck.port, flags: 3 });
  const ended = guest.connected();
  must("Cannot shut down", SYS.shutdown, ended.host, SHUT_WR);
  expect(guest.next()).toMatchObject({ op: SHUTDOWN, from: ended.port, flags: 2 });
  must("Cannot shut down", SYS.shutdown, ended.host, SHUT_RDWR);
  expect(guest.next()).toMatchObject({ op: SHUTDOWN, from: ended.port, flags: 3 });
  expect(guest.rest()).toEqual([]);
});

test("the guest's close delivers all, then resets", () => {
  const guest = new Guest();
  const { host, port } = guest.connected();
  const data = Buffer.from("y".repeat(60_000));
  for (let i = 0; i < 4; i++) guest.send(RW, port, { data });
  guest.send(SHUTDOWN, port, { flags: 3 });
  expect(guest.read(host, 240_001)).toBe("y".repeat(240_000));
  const packets: Packet[] = [];
  guest.driver.run(() => packets.push(...guest.rest().filter((p) => p.op === RST)) > 0);
  expect(guest.device.size).toBe(0);
});

test("half a shutdown of the guest ends the host's input only", () => {
  const guest = new Guest();
  const { host, port } = guest.connected();
  guest.send(SHUTDOWN, port, { flags: 2 });
  expect(guest.read(host, 1)).toBe("");
  tryWrite(host, Buffer.from("answer"), 6);
  expect(guest.next()).toMatchObject({ op: RW, data: "answer" });
});

test("connections take turns, and wait while the guest has no buffers", () => {
  const guest = new Guest(2);
  const a = guest.connected(), b = guest.connected();
  guest.rest();
  tryWrite(a.host, Buffer.from("a".repeat(20_000)), 20_000);
  tryWrite(b.host, Buffer.from("b"), 1);
  const packets: Packet[] = [];
  const bytes = () => packets.reduce((n, p) => n + p.data.length, 0);
  guest.driver.run(() => packets.push(...guest.rest()) > 0 && bytes() === 20_001);
  expect(packets.findIndex((p) => p.data === "b")).toBeLessThan(4);
});

test("bad packets get a reset or nothing", () => {
  const guest = new Guest();
  const { port } = guest.connected();
  guest.send(RW, 77, { data: Buffer.from("?") });
  expect(guest.next()).toMatchObject({ op: RST, from: 77 });
  guest.send(RST, 78);
  guest.send(RW, port, { data: Buffer.from("?"), cid: 9 });
  expect(guest.rest()).toEqual([]);
  guest.send(REQUEST, 79, { type: 2 });
  expect(guest.next()).toMatchObject({ op: RST, from: 79 });
  guest.send(RW, port, { data: Buffer.from("?"), length: 4_000_000_000 });
  expect(guest.next()).toMatchObject({ op: RST, from: port });
  expect(guest.device.size).toBe(0);
});

test("a flood of requests keeps memory bounded", () => {
  const guest = new Guest(1);
  for (let i = 0; i < 2000; i++) guest.send(RW, i, { guestPort: i });
  const resets: Packet[] = [];
  for (let before = -1; before !== resets.length; ) {
    before = resets.length;
    resets.push(...guest.rest());
  }
  expect(resets.length).toBeGreaterThan(0);
  expect(guest.device.size).toBe(0);
});

test("reset() ends all connections", () => {
  const guest = new Guest();
  const { host } = guest.connected();
  guest.driver.status = 0;
  expect(guest.device.size).toBe(0);
  expect(tryRead(host, new Uint8Array(1), 1)).toBe(0);
});

test("resetTransport() reaches the guest as soon as it gives a buffer", () => {
  const guest = new Guest();
  guest.device.resetTransport();
  const queue = guest.driver.queues[2]!, gpa = guest.driver.put(new Uint8Array([9, 9, 9, 9]));
  queue.add([{ gpa, length: 4, write: true }]);
  queue.add([{ gpa: guest.driver.alloc(4), length: 4, write: true }]);
  queue.kick();
  guest.driver.settle();
  expect(queue.takeUsed()).toEqual([{ id: 0, length: 4 }]);
  expect([...guest.driver.bytes.slice(gpa, gpa + 4)]).toEqual([0, 0, 0, 0]);
});

test("a descriptor that is no stream is refused, not the end of the machine", () => {
  const guest = new Guest();
  const outcomes: (string | null)[] = [];
  guest.device.connect(PORT, 9999, (error) => void outcomes.push(error));
  guest.device.connect(PORT, openFd("/dev/zero", O_RDWR), (error) => void outcomes.push(error));
  guest.device.connect(PORT, openFd("/proc/self/stat", O_RDONLY), (error) => void outcomes.push(error));
  for (const request of guest.rest()) guest.send(RESPONSE, request.from);
  expect(outcomes[0]).toContain("EBADF");
  expect(outcomes).toHaveLength(3);
  expect(outcomes.at(-1)).toContain("not a stream socket");
});

test("giving up a connection that nobody answers frees it", () => {
  const guest = new Guest();
  const [ours, theirs] = streamPair();
  const outcomes: (string | null)[] = [];
  const giveUp = guest.device.connect(PORT, theirs, (error) => void outcomes.push(error));
  expect(guest.next()).toMatchObject({ op: REQUEST });
  giveUp();
  expect(outcomes).toEqual(["given up"]);
  expect(guest.next()).toMatchObject({ op: RST });
  expect(tryRead(ours, new Uint8Array(1), 1)).not.toBe(-E.EAGAIN);
  closeFd(ours);
});
