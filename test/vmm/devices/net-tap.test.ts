// virtio-net against a real TAP in a network namespace of its own.
import { afterEach, expect, test } from "bun:test";
import { E } from "../../../src/ffi/abi/errno.ts";
import { SYS } from "../../../src/ffi/abi/syscalls.ts";
import { virtio_net_config } from "../../../src/ffi/abi/virtio_net.ts";
import { isReadable, O_RDONLY, openFd } from "../../../src/ffi/fd.ts";
import { RouteSocket } from "../../../src/ffi/netlink/route.ts";
import { must, syscall } from "../../../src/ffi/syscall.ts";
import { attachFilter, openTapDevice } from "../../../src/ffi/tun.ts";
import { cleanUp, cleanup, HEADER, MAC, owned, receiver, rig, TX } from "./net-rig.ts";

afterEach(cleanUp);

const SOCK_NONBLOCK = 0o4000;
const CLONE_NEWNET = 0x4000_0000;
const SIOCSIFFLAGS = 0x8914, SIOCSIFADDR = 0x8916, SIOCSIFNETMASK = 0x891c, SIOCSARP = 0x8955, IFF_UP_RUNNING = 0x41, ATF_PERM_COM = 0x06;
const AF_INET = 2, SOCK_DGRAM = 2;

function sockaddr(address: readonly number[], port = 0): Uint8Array {
  return new Uint8Array([AF_INET, 0, port >> 8, port & 0xff, ...address, 0, 0, 0, 0, 0, 0, 0, 0]);
}

const ifreq = (name: string, rest: Uint8Array): Uint8Array => Buffer.concat([Buffer.from(name.padEnd(16, "\0")), rest], 40);

/** A TAP at 10.9.0.1/24 with 10.9.0.2 behind it, and a UDP socket at port 700, in a namespace that lives as long as they do. */
function tapRig(): { tap: number; socket: number; remove: () => void } {
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
    const links = new RouteSocket();
    cleanup.push(() => links.close());
    return { tap, socket, remove: () => void links.deleteLink(links.link("t0")!.index) };
  } finally {
    must("Cannot go back to the network namespace", SYS.setns, home, CLONE_NEWNET);
  }
}

/** Classic BPF: UDP to port 800 passes, by the half word at byte 36 of a frame without IP options. */
const PORT_800 = new Uint8Array([0x28, 0, 0, 0, 36, 0, 0, 0, 0x15, 0, 0, 1, 0x20, 3, 0, 0, 6, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 6, 0, 0, 0, 0, 0, 0, 0]);

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

test("who goes deaf with a filter reads what came before it; what waits afterwards has passed", () => {
  const { tap, socket } = tapRig(), { d, device } = rig(tap), take = receiver(d, 100, 1536), got: string[] = [];
  const send = (text: string, port: number) => must("Cannot send", SYS.sendto, socket, Buffer.from(text), 4, 0, sockaddr([10, 9, 0, 2], port), 16);
  const heard = () => got.push(...take().filter(isUdp).map((frame) => Buffer.from(frame.slice(-4)).toString()));
  send("soon", 801);
  device.deafen(PORT_800);
  expect(heard() > 0 && got).toEqual(["soon"]);
  send("late", 801);
  expect(isReadable(tap)).toBe(false);
  send("ring", 800);
  expect(isReadable(tap)).toBe(true);
  device.gate(false, false);
  send("fine", 801);
  d.run(() => (heard(), got.length === 3));
  expect(got).toEqual(["soon", "ring", "fine"]);
});

test("one that goes deaf after its TAP was removed sees its cable pulled", () => {
  const { tap, remove } = tapRig(), { device } = rig(tap);
  remove();
  device.deafen(PORT_800);
  expect(device.config.getUint16(virtio_net_config.at.status, true)).toBe(0);
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
