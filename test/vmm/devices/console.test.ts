import { afterEach, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { ConsoleDevice } from "../../../src/vmm/devices/console/device.ts";
import { FramedPort } from "../../../src/vmm/devices/console/framed-port.ts";
import { LogSink } from "../../../src/vmm/devices/console/log-sink.ts";
import { SinkPort } from "../../../src/vmm/devices/console/port.ts";
import { Driver } from "../driver.ts";

const cleanup: (() => void)[] = [];
afterEach(() => {
  for (const step of cleanup.splice(0).reverse()) step();
});

interface Rig { readonly driver: Driver; readonly files: readonly string[]; readonly frames: { type: number; payload: string }[]; readonly port: FramedPort; readonly log: string[] }

function files(): { paths: [string, string]; fds: [number, number] } {
  const dir = mkdtempSync(join(tmpdir(), "dormouse-console-"));
  const paths: [string, string] = [join(dir, "app.0.log"), join(dir, "app.1.log")];
  const fds: [number, number] = [openSync(paths[0], "a+"), openSync(paths[1], "a+")];
  cleanup.push(() => rmSync(dir, { recursive: true }), () => fds.forEach((fd) => closeSync(fd)));
  return { paths, fds };
}

function rig(limit?: number): Rig {
  const { paths, fds } = files();
  const frames: { type: number; payload: string }[] = [], log: string[] = [];
  const port = new FramedPort("dormouse", (type, payload) => void frames.push({ type, payload: Buffer.from(payload).toString() }), (m) => void log.push(m));
  const epoll = new Epoll();
  cleanup.push(() => epoll.close());
  const driver = new Driver(new ConsoleDevice([new SinkPort("console", new LogSink(fds, limit)), port]), epoll).start();
  return { driver, files: paths, frames, port, log };
}

/** Sends to the device on an output queue. */
function say(d: Driver, queue: number, ...parts: Uint8Array[]): void {
  d.queues[queue]!.add(parts.map((p) => ({ gpa: d.put(p), length: p.length })));
  d.queues[queue]!.kick();
  d.run(() => d.queues[queue]!.takeUsed().length > 0);
}

const control = (id: number, event: number, value: number): Uint8Array => {
  const v = new DataView(new ArrayBuffer(8));
  v.setUint32(0, id, true);
  v.setUint16(4, event, true);
  v.setUint16(6, value, true);
  return new Uint8Array(v.buffer);
};

/** Gives `count` buffers on an input queue and returns a function that takes what has come. */
function listen(d: Driver, queue: number, count: number, size: number): () => Uint8Array[] {
  const at = new Map<number, number>();
  for (let i = 0; i < count; i++) {
    const gpa = d.alloc(size);
    at.set(d.queues[queue]!.add([{ gpa, length: size, write: true }]), gpa);
  }
  d.queues[queue]!.kick();
  return () => {
    d.settle();
    return d.queues[queue]!.takeUsed().map(({ id, length }) => d.bytes.slice(at.get(id)!, at.get(id)! + length));
  };
}

const frame = (type: number, payload: string): Uint8Array => {
  const bytes = Buffer.alloc(5 + payload.length);
  bytes.writeUInt32LE(payload.length);
  bytes[4] = type;
  bytes.write(payload, 5);
  return new Uint8Array(bytes);
};

test("introduces its ports as a Linux driver expects", () => {
  const { driver } = rig();
  const messages = listen(driver, 2, 16, 64);
  say(driver, 3, control(0xffff_ffff, 0, 1));
  expect(messages()).toEqual([control(0, 1, 1), control(1, 1, 1)]);
  say(driver, 3, control(0, 3, 1));
  say(driver, 3, control(1, 3, 1));
  const named = (id: number, name: string) => new Uint8Array(Buffer.concat([control(id, 7, 1), Buffer.from(name)]));
  expect(messages()).toEqual([control(0, 4, 1), named(0, "console"), control(0, 6, 1), named(1, "dormouse"), control(1, 6, 1)]);
});

test("the guest's output lands in the log, gathered from many buffers", () => {
  const { driver, files } = rig();
  say(driver, 1, Buffer.from("hello "), Buffer.from("world\n"));
  say(driver, 1, Buffer.from("again\n"));
  expect(readFileSync(files[0]!, "utf8")).toBe("hello world\nagain\n");
});

test("two files take turns", () => {
  const { driver, files } = rig(20);
  for (const line of ["0123456789\n", "abcdefghi\n", "second\n", "third file, first again\n"]) say(driver, 1, Buffer.from(line));
  expect(readFileSync(files[0]!, "utf8")).toBe("third file, first again\n");
  expect(readFileSync(files[1]!, "utf8")).toBe("abcdefghi\nsecond\n");
});

test("LogSink goes on in the file written last", () => {
  const { paths, fds } = files();
  writeFileSync(paths[0], "newer ");
  writeFileSync(paths[1], "older");
  utimesSync(paths[1], 1000, 1000);
  new LogSink(fds).write(Buffer.from("end"));
  expect(readFileSync(paths[0], "utf8")).toBe("newer end");
  utimesSync(paths[0], 500, 500);
  new LogSink(fds).write(Buffer.from("!"));
  expect(readFileSync(paths[1], "utf8")).toBe("older!");
});

test("LogSink counts what the host would not take", () => {
  const full = openSync("/dev/full", "r+");
  const sink = new LogSink([full, full]);
  sink.write(Buffer.from("lost"));
  closeSync(full);
  expect(sink.dropped).toBe(4);
});

test("frames arrive whole however they are cut", () => {
  const { driver, frames } = rig();
  const bytes = Buffer.concat([frame(1, "state"), frame(6, ""), frame(6, "x".repeat(65536))]);
  for (const cut of [3, 5, 9, 40_000, bytes.length]) {
    const from = [0, 3, 5, 9, 40_000][[3, 5, 9, 40_000, bytes.length].indexOf(cut)]!;
    say(driver, 5, new Uint8Array(bytes.subarray(from, cut)));
  }
  expect(frames).toEqual([{ type: 1, payload: "state" }, { type: 6, payload: "" }, { type: 6, payload: "x".repeat(65536) }]);
});

test("what the guest has put into a queue before it resets the device is taken, also where its notification comes too late", () => {
  const { driver, frames } = rig();
  const last = frame(1, "exited");
  driver.queues[5]!.add([{ gpa: driver.put(last), length: last.length }]);
  driver.status = 0;
  expect(frames).toEqual([{ type: 1, payload: "exited" }]);
});

test("frames to the guest wait until it opens the port and has room", () => {
  const { driver, port } = rig();
  expect(port.send(2, Buffer.from("signal\x000"))).toBe(true);
  const take = listen(driver, 4, 1, 8);
  expect(take()).toEqual([]);
  say(driver, 3, control(1, 6, 1));
  const first = take();
  const second = listen(driver, 4, 2, 8)();
  expect(Buffer.concat([...first, ...second])).toEqual(Buffer.from(frame(2, "signal\x000")));
  expect(port.waiting).toBe(false);
});

test("a guest that doesn't read fills a bounded queue", () => {
  const { port } = rig();
  let sent = 0;
  while (port.send(2, new Uint8Array(60_000))) sent++;
  expect(sent).toBe(17);
  expect(port.send(2, new Uint8Array(65_537))).toBe(false);
});

test("a frame that is too long silences the port until it is opened anew", () => {
  const { driver, frames, log } = rig();
  say(driver, 5, new Uint8Array([255, 255, 255, 255, 1, 2, 3]));
  say(driver, 5, frame(1, "unheard"));
  say(driver, 3, control(1, 6, 1));
  say(driver, 5, frame(1, "heard"));
  expect(frames).toEqual([{ type: 1, payload: "heard" }]);
  expect(log).toHaveLength(1);
});

test("a frame that is cut in the middle goes on after a restore, either way", () => {
  const before = rig(), after = rig();
  const transfer = () => after.driver.device.restore(JSON.parse(JSON.stringify(before.driver.device.save())));
  say(before.driver, 3, control(1, 6, 1));
  const take = listen(before.driver, 4, 1, 8);
  before.port.send(3, Buffer.from("for the guest"));
  const first = take();
  say(before.driver, 5, frame(6, "from the guest").subarray(0, 9));
  transfer();
  expect(after.port.everOpened).toBe(true);
  say(after.driver, 5, frame(6, "from the guest").subarray(9));
  expect(after.frames).toEqual([{ type: 6, payload: "from the guest" }]);
  const rest = listen(after.driver, 4, 1, 64);
  after.driver.settle();
  expect(Buffer.concat([...first, ...rest()])).toEqual(Buffer.from(frame(3, "for the guest")));
});
