// virtio-net against a socket pair in a TAP's place.
import { afterEach, expect, test } from "bun:test";
import { E } from "../../../src/ffi/abi/errno.ts";
import { SYS } from "../../../src/ffi/abi/syscalls.ts";
import { tryRead, tryWrite } from "../../../src/ffi/fd.ts";
import { must } from "../../../src/ffi/syscall.ts";
import { TokenBucket } from "../../../src/vmm/devices/token-bucket.ts";
import { cleanUp, framed, HEADER, pair, receiver, rig, RX, TX, V1 } from "./net-rig.ts";

afterEach(cleanUp);

test("a frame for the guest lands in one buffer when it fits", () => {
  const [tap, wire] = pair();
  const { d, device } = rig(tap);
  const take = receiver(d, 8, 1536);
  tryWrite(wire, framed(Buffer.from("hello")), HEADER + 5);
  let frames: Uint8Array[] = [];
  d.run(() => (frames = take()).length > 0);
  expect(Buffer.from(frames[0]!.slice(HEADER)).toString()).toBe("hello");
  expect(device.stats).toMatchObject({ rxPackets: 1, rxBytes: 5 });
  expect(d.platform.took(100)).toBe(true);
});

test("a long frame spreads over mergeable buffers, again and again", () => {
  const [tap, wire] = pair();
  const { d } = rig(tap, { mtu: 65_000 });
  const take = receiver(d, 256, 1536);
  const long = framed(Uint8Array.from({ length: 60_000 }, (_, i) => i & 0xff));
  for (let i = 0, next = 0; i < 30; i++) {
    expect(tryWrite(wire, long, long.length)).toBe(long.length);
    tryWrite(wire, framed(new Uint8Array([i])), HEADER + 1);
    const got: Uint8Array[] = [];
    d.run(() => got.push(...take()) >= 2);
    expect(got[0]!.length).toBe(long.length);
    expect(got[0]!.slice(HEADER)).toEqual(long.slice(HEADER));
    expect(got[1]!.slice(HEADER)).toEqual(new Uint8Array([i]));
    // 41 buffers are back: 40 of 1,536 bytes for the long frame, one for the short; heads are in order here.
    for (let n = 0; n < 41; n++, next = (next + 1) % 256) d.queues[RX]!.publish(next);
    d.queues[RX]!.kick();
  }
});

test("many frames that wait are one interrupt to a guest that is at work on the first", () => {
  const [tap, wire] = pair();
  const { d } = rig(tap);
  d.settle();
  const take = receiver(d, 64, 1536);
  for (let i = 0; i < 40; i++) tryWrite(wire, framed(new Uint8Array([i])), HEADER + 1);
  let frames: Uint8Array[] = [];
  d.run(() => (frames = [...frames, ...take()]).length === 40);
  expect(d.platform.count(100)).toBe(1);
});

test("without mergeable buffers one chain is one frame", () => {
  const [tap, wire] = pair();
  const { d } = rig(tap, { features: V1 });
  const take = receiver(d, 4, 2048);
  for (const text of ["one", "two"]) tryWrite(wire, framed(Buffer.from(text)), HEADER + 3);
  const got: string[] = [];
  d.run(() => got.push(...take().map((f) => Buffer.from(f.slice(HEADER)).toString())) >= 2);
  expect(got).toEqual(["one", "two"]);
});

test("behind a shut gate frames wait on both sides, and go on in order once it opens", () => {
  const [tap, wire] = pair();
  const { d, device } = rig(tap);
  const take = receiver(d, 8, 1536);
  d.settle();
  device.gate(true, true);
  for (const text of ["one", "two"]) tryWrite(wire, framed(Buffer.from(text)), HEADER + 3);
  d.queues[TX]!.add([{ gpa: d.put(framed(Buffer.from("out"))), length: HEADER + 3 }]);
  d.queues[TX]!.kick();
  d.settle();
  expect(take()).toEqual([]);
  expect(tryRead(wire, new Uint8Array(2048), 2048)).toBe(-E.EAGAIN);
  device.gate(false, false);
  const got: string[] = [];
  d.run(() => got.push(...take().map((f) => Buffer.from(f.slice(HEADER)).toString())) >= 2);
  expect(got).toEqual(["one", "two"]);
  const out = new Uint8Array(2048);
  expect(tryRead(wire, out, out.length)).toBe(HEADER + 3);
  expect(Buffer.from(out.subarray(HEADER, HEADER + 3)).toString()).toBe("out");
});

test("frames wait in the TAP while the guest has no buffers, without a busy loop", () => {
  const [tap, wire] = pair();
  const { d } = rig(tap);
  d.settle();
  tryWrite(wire, framed(Buffer.from("early")), HEADER + 5);
  expect(d.epoll.poll(0)).toBe(0);
  const take = receiver(d, 4, 1536);
  let frames: Uint8Array[] = [];
  d.run(() => (frames = take()).length > 0);
  expect(Buffer.from(frames[0]!.slice(HEADER)).toString()).toBe("early");
});

test("frames of the guest go out gathered, many in one go", () => {
  const [tap, wire] = pair();
  const { d, device } = rig(tap);
  const queue = d.queues[TX]!;
  for (let i = 0; i < 50; i++) queue.add([{ gpa: d.alloc(HEADER), length: HEADER }, { gpa: d.put(Buffer.from("ab")), length: 2 }, { gpa: d.put(new Uint8Array([i])), length: 1 }]);
  queue.kick();
  let done = 0;
  d.run(() => (done += queue.takeUsed().length) === 50);
  const frame = new Uint8Array(64);
  for (let i = 0; i < 50; i++) {
    expect(tryRead(wire, frame, 64)).toBe(HEADER + 3);
    expect([...frame.slice(HEADER, HEADER + 3)]).toEqual([97, 98, i]);
  }
  expect(device.stats).toMatchObject({ txPackets: 50, txBytes: 150, txDropped: 0 });
});

test("what the TAP does not take is dropped and counted", () => {
  const [tap] = pair();
  const { d, device } = rig(tap);
  const queue = d.queues[TX]!, gpa = d.alloc(60_000);
  let sent = 0, done = 0;
  while (device.stats.txDropped === 0) {
    for (let i = 0; i < 20; i++, sent++) queue.add([{ gpa, length: 60_000 }]);
    queue.kick();
    d.run(() => (done += queue.takeUsed().length) === sent);
  }
  expect(device.stats.txPackets + device.stats.txDropped).toBe(sent);
  queue.add([{ gpa, length: 100, write: true }]);
  queue.kick();
  d.run(() => queue.takeUsed().length === 1);
  expect(device.stats.txDropped).toBeGreaterThan(1);
});

test("a TAP that is gone pulls the guest's cable", () => {
  const [tap, wire] = pair();
  const { d, device } = rig(tap);
  receiver(d, 4, 1536);
  d.settle();
  d.platform.took(102);
  must("Cannot shut the wire", SYS.shutdown, wire, 2);
  d.run(() => device.config.getUint16(6, true) === 0);
  expect(d.platform.took(102)).toBe(true);
  expect(d.epoll.poll(0)).toBe(0);
});

test("a bucket holds the guest's frames back", () => {
  const [tap, wire] = pair();
  const { d, device } = rig(tap);
  device.txBucket = new TokenBucket(200_000, 1000, d.epoll, () => device.wakeTx());
  const queue = d.queues[TX]!, gpa = d.alloc(1000);
  for (let i = 0; i < 4; i++) queue.add([{ gpa, length: 1000 }]);
  queue.kick();
  d.epoll.poll(1000);
  expect(device.stats.txPackets).toBeLessThan(4);
  d.run(() => device.stats.txPackets === 4);
  expect(tryRead(wire, new Uint8Array(2000), 2000)).toBe(1000);
});

test("state is taken with all buffers given back", () => {
  const [tap, wire] = pair();
  const { d } = rig(tap);
  const take = receiver(d, 8, 1536);
  d.settle();
  const before = d.pci.save().queues[RX]!.ring;
  expect(before).toMatchObject({ lastAvail: 0, usedIndex: 0 });
  tryWrite(wire, framed(Buffer.from("after")), HEADER + 5);
  let frames: Uint8Array[] = [];
  d.run(() => (frames = take()).length > 0);
  expect(frames).toHaveLength(1);
  expect(d.pci.save().queues[RX]!.ring).toMatchObject({ lastAvail: 1, usedIndex: 1 });
});
