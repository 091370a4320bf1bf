// virtio-net against a real TAP in a network namespace of its own, and against a socket pair where the TAP doesn't matter.
import { afterEach, expect, test } from "bun:test";
import { E } from "../../../src/ffi/abi/errno.ts";
import { SYS } from "../../../src/ffi/abi/syscalls.ts";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { closeFd, O_RDONLY, openFd, tryRead, tryWrite } from "../../../src/ffi/fd.ts";
import { packetPair } from "../../../src/ffi/socket.ts";
import { must, syscall } from "../../../src/ffi/syscall.ts";
import { attachFilter, openTapDevice } from "../../../src/ffi/tun.ts";
import { NetDevice } from "../../../src/vmm/devices/net/device.ts";
import { TokenBucket } from "../../../src/vmm/devices/token-bucket.ts";
import { Driver } from "../driver.ts";

const HEADER = 12, RX = 0, TX = 1;
const MAC = new Uint8Array([2, 0, 0, 0, 0, 9]);
const V1 = 1n << 32n;

const cleanup: (() => void)[] = [];
afterEach(() => {
  for (const step of cleanup.splice(0).reverse()) step();
});
const owned = (fd: number): number => {
  cleanup.push(() => closeFd(fd));
  return fd;
};

const SOCK_NONBLOCK = 0o4000;
const pair = () => packetPair().map(owned) as [number, number];

function rig(fd: number, options: { mtu?: number; features?: bigint } = {}): { d: Driver; device: NetDevice } {
  const epoll = new Epoll();
  cleanup.push(() => epoll.close());
  const device = new NetDevice({ fd, mac: MAC, mtu: options.mtu }, epoll, () => {});
  const d = new Driver(device, epoll);
  d.start(options.features ?? d.offered);
  return { d, device };
}

/** Posts `count` receive buffers of `size` bytes; the function returned takes frames, with their buffers put together. */
function receiver(d: Driver, count: number, size: number): () => Uint8Array[] {
  const queue = d.queues[RX]!, at = new Map<number, number>();
  for (let i = 0; i < count; i++) {
    const gpa = d.alloc(size);
    at.set(queue.add([{ gpa, length: size, write: true }]), gpa);
  }
  queue.kick();
  return () => {
    const used = queue.takeUsed(), frames: Uint8Array[] = [];
    while (used.length > 0) {
      const number = d.view.getUint16(at.get(used[0]!.id)! + 10, true);
      frames.push(new Uint8Array(Buffer.concat(used.splice(0, number).map((u) => d.bytes.slice(at.get(u.id)!, at.get(u.id)! + u.length)))));
    }
    return frames;
  };
}

const framed = (payload: Uint8Array): Uint8Array => new Uint8Array(Buffer.concat([new Uint8Array(HEADER), payload]));

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

// --- a real TAP

const CLONE_NEWNET = 0x4000_0000;
const SIOCSIFFLAGS = 0x8914, SIOCSIFADDR = 0x8916, SIOCSIFNETMASK = 0x891c, SIOCSARP = 0x8955, IFF_UP_RUNNING = 0x41, ATF_PERM_COM = 0x06;
const AF_INET = 2, SOCK_DGRAM = 2;

function sockaddr(address: readonly number[], port = 0): Uint8Array {
  return new Uint8Array([AF_INET, 0, port >> 8, port & 0xff, ...address, 0, 0, 0, 0, 0, 0, 0, 0]);
}

const ifreq = (name: string, rest: Uint8Array): Uint8Array => Buffer.concat([Buffer.from(name.padEnd(16, "\0")), rest], 40);

/** A TAP at 10.9.0.1/24 with 10.9.0.2 behind it, and a UDP socket at port 700, in a namespace that lives as long as they do. */
function tapRig(): { tap: number; socket: number } {
  const home = owned(openFd("/proc/thread-self/ns/net", O_RDONLY));
  must("Cannot make a network namespace", SYS.unshare, CLONE_NEWNET);
  try {
    const tap = owned(openTapDevice("t0")), socket = owned(must("Cannot make a socket", SYS.socket, AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    must("Cannot set the address", SYS.ioctl, socket, SIOCSIFADDR, ifreq("t0", sockaddr([10, 9, 0, 1])));
    must("Cannot set the mask", SYS.ioctl, socket, SIOCSIFNETMASK, ifreq("t0", sockaddr([255, 255, 255, 0])));
    must("Cannot set it up", SYS.ioctl, socket, SIOCSIFFLAGS, ifreq("t0", new Uint8Array([IFF_UP_RUNNING, 0])));
    const arp = new Uint8Array(68);
    arp.set(sockaddr([10, 9, 0, 2]));
    arp.set([1, 0, ...MAC], 16); // ARPHRD_ETHER
    arp[32] = ATF_PERM_COM;
    arp.set(Buffer.from("t0"), 52);
    must("Cannot set the neighbour", SYS.ioctl, socket, SIOCSARP, arp);
    must("Cannot bind", SYS.bind, socket, sockaddr([10, 9, 0, 1], 700), 16);
    return { tap, socket };
  } finally {
    must("Cannot go back to the network namespace", SYS.setns, home, CLONE_NEWNET);
  }
}

const isUdp = (frame: Uint8Array): boolean => frame[HEADER + 12] === 8 && frame[HEADER + 13] === 0 && frame[HEADER + 23] === 17;

test("UDP goes both ways through a real TAP, checksums left to the other side", () => {
  const { tap, socket } = tapRig();
  const { d } = rig(tap);
  expect(d.offered & 0x382n).toBe(0x382n); // GUEST_CSUM, TSO4, TSO6, ECN: the TAP can
  const take = receiver(d, 100, 1536);
  must("Cannot send", SYS.sendto, socket, Buffer.from("ping"), 4, 0, sockaddr([10, 9, 0, 2], 800), 16);
  const got: Uint8Array[] = [];
  d.run(() => got.push(...take().filter(isUdp)) > 0);
  const frame = got[0]!;
  expect(Buffer.from(frame.slice(-4)).toString()).toBe("ping");
  expect(frame[0]! & 1).toBe(1); // VIRTIO_NET_HDR_F_NEEDS_CSUM
  const reply = answer(frame, "pong");
  d.queues[TX]!.add([{ gpa: d.put(reply), length: reply.length }]);
  d.queues[TX]!.kick();
  const text = new Uint8Array(16);
  let n = -E.EAGAIN;
  d.run(() => (n = syscall(SYS.recvfrom, socket, text, 16, 0, 0, 0)) !== -E.EAGAIN);
  expect(Buffer.from(text.slice(0, n)).toString()).toBe("pong");
});

test("who hears again hears all: the filter that a daemon had put on the TAP is off", () => {
  const { tap, socket } = tapRig(), { d, device } = rig(tap), take = receiver(d, 100, 1536), got: Uint8Array[] = [];
  device.gate(true, false);
  attachFilter(tap, new Uint8Array([6, 0, 0, 0, 0, 0, 0, 0])); // BPF_RET 0: nothing passes
  device.gate(false, false);
  must("Cannot send", SYS.sendto, socket, Buffer.from("ping"), 4, 0, sockaddr([10, 9, 0, 2], 800), 16);
  d.run(() => got.push(...take().filter(isUdp)) > 0);
});

test("a frame whose header makes no sense is dropped", () => {
  const { tap } = tapRig();
  const { d, device } = rig(tap);
  const bad = new Uint8Array(HEADER + 60);
  bad.set([1, 1, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff]); // checksum beyond the end
  d.queues[TX]!.add([{ gpa: d.put(bad), length: bad.length }]);
  d.queues[TX]!.add([{ gpa: d.put(bad.slice(0, 5)), length: 5 }]);
  d.queues[TX]!.kick();
  let done = 0;
  d.run(() => (done += d.queues[TX]!.takeUsed().length) === 2);
  expect(device.stats).toMatchObject({ txPackets: 0, txDropped: 2 });
});

/** The frame with its addresses and ports turned around, UDP checksum off, and another text of the same length. */
function answer(frame: Uint8Array, text: string): Uint8Array {
  const out = frame.slice();
  out.fill(0, 0, HEADER);
  const swap = (a: number, b: number, n: number) => {
    out.set(frame.slice(HEADER + a, HEADER + a + n), HEADER + b);
    out.set(frame.slice(HEADER + b, HEADER + b + n), HEADER + a);
  };
  swap(0, 6, 6);
  swap(26, 30, 4);
  swap(34, 36, 2);
  out.fill(0, HEADER + 40, HEADER + 42);
  out.set(Buffer.from(text), HEADER + 42);
  return out;
}
