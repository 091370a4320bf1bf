// The filter of a sleeping guest's TAP, in the kernel, with frames as they come and as they may be forged.
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { closeFd } from "../../../src/ffi/fd.ts";
import { attachFilter, detachFilter } from "../../../src/ffi/tun.ts";
import { knockFilter } from "../../../src/host/network/knock.ts";
import { openNetwork } from "../../../src/host/network/network.ts";
import type { Lease, NetworkService } from "../../../src/host/network/service.ts";
import { datagram, ETH_ARP, ETH_IP, ETH_IPV6, ethernet, FLAGS, FrameSender, ICMP, packet, segment, TCP, UDP, waiting } from "./frames.ts";
import { database, enterNamespace, run } from "./world.ts";

setDefaultTimeout(60_000); // only a guard: processes start slowly on a busy or emulated machine
const { FIN, SYN, RST, PSH, ACK, ECE, CWR } = FLAGS;
const MORE = 0x2000; // fragment flag
let leave: () => void, network: NetworkService, lease: Lease, tap: number, sender: FrameSender;

beforeAll(async () => {
  leave = enterNamespace();
  run("ip", "link", "set", "lo", "up");
  network = openNetwork({ db: database() })._unsafeUnwrap();
  (await network.start())._unsafeUnwrap();
  lease = network.allocate("a")._unsafeUnwrap();
  tap = (await network.openTap(lease))._unsafeUnwrap();
  sender = new FrameSender(lease.tap);
});
afterAll(async () => {
  sender.close();
  closeFd(tap);
  (await network.teardown())._unsafeUnwrap();
  network.close();
  leave();
});

const SOURCE = "192.0.2.77";
const routed = (payload: number[]) => ethernet(lease.mac, ETH_IP, payload);
const toGuest = (protocol: number, payload: number[], options?: Parameters<typeof packet>[4]) => routed(packet(protocol, SOURCE, lease.ip, payload, options));
/** NOP, NOP, NOP, end of list, and once more: a header of 28 bytes. */
const OPTIONS = [1, 1, 1, 0, 1, 1, 1, 0];

const KNOCKS: Record<string, () => Uint8Array> = {
  "SYN": () => toGuest(TCP, segment(SYN)),
  "SYN of a client that offers ECN": () => toGuest(TCP, segment(SYN | ECE | CWR)),
  "SYN with data (TCP fast open)": () => toGuest(TCP, [...segment(SYN | PSH), 104, 105]),
  "SYN behind IP options": () => toGuest(TCP, segment(SYN), { options: OPTIONS }),
  "a datagram": () => toGuest(UDP, datagram(53, "hello")),
  "an empty datagram": () => toGuest(UDP, datagram(53, "")),
  "the first fragment of a datagram": () => toGuest(UDP, datagram(53, "hello"), { fragment: MORE }),
  "a later fragment of a datagram": () => toGuest(UDP, datagram(53, "hello"), { fragment: MORE | 185 }),
  "a datagram that may not be cut": () => toGuest(UDP, datagram(53, "hello"), { fragment: 0x4000 }),
};
const NOISE: Record<string, () => Uint8Array> = {
  "ACK of an old connection": () => toGuest(TCP, segment(ACK)),
  "its data": () => toGuest(TCP, [...segment(ACK | PSH), 104, 105]),
  "its data behind IP options, where flags of a shorter header would be": () => toGuest(TCP, segment(ACK), { options: [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, SYN, 1, 0] }),
  "SYN-ACK": () => toGuest(TCP, segment(SYN | ACK)),
  "FIN": () => toGuest(TCP, segment(FIN)),
  "FIN-ACK": () => toGuest(TCP, segment(FIN | ACK)),
  "RST": () => toGuest(TCP, segment(RST)),
  "SYN-RST and SYN-FIN": () => toGuest(TCP, segment(SYN | RST)),
  "SYN-FIN": () => toGuest(TCP, segment(SYN | FIN)),
  "no flags": () => toGuest(TCP, segment(0)),
  "a segment that ends before its flags": () => toGuest(TCP, segment(SYN).slice(0, 12)),
  "the last fragment of a segment": () => toGuest(TCP, segment(SYN), { fragment: 1 }),
  "ping": () => toGuest(ICMP, [8, 0, 0, 0, 0, 1, 0, 1]),
  "a datagram to a neighbour": () => routed(packet(UDP, SOURCE, "10.88.0.77", datagram(53, "hello"))),
  "multicast": () => ethernet("01:00:5e:00:00:fb", ETH_IP, packet(UDP, SOURCE, "224.0.0.251", datagram(5353, "who is there"))),
  "broadcast": () => ethernet("ff:ff:ff:ff:ff:ff", ETH_IP, packet(UDP, SOURCE, "255.255.255.255", datagram(67, "boot"))),
  "ARP": () => ethernet("ff:ff:ff:ff:ff:ff", ETH_ARP, new Array<number>(46).fill(0)),
  "IPv6": () => ethernet("33:33:00:00:00:02", ETH_IPV6, new Array<number>(48).fill(0)),
  "an empty frame": () => ethernet(lease.mac, ETH_IP, []),
};

/** What comes through of `frame`, and after it of a knock that ends the wait. */
function through(frame: Uint8Array): boolean {
  const last = toGuest(UDP, datagram(9, "last"));
  sender.send(frame);
  sender.send(last);
  const frames = waiting(tap);
  expect(frames.at(-1)).toEqual(last);
  if (frames.length === 2) expect(frames[0]).toEqual(frame); // from its Ethernet header on, whole
  return frames.length > 1;
}

test("without a filter all of it comes through", () => {
  for (const [name, frame] of Object.entries({ ...KNOCKS, ...NOISE })) expect([name, through(frame())]).toEqual([name, true]);
});

test("knocks pass, noise does not", () => {
  attachFilter(tap, knockFilter(lease.ip));
  for (const [name, frame] of Object.entries(KNOCKS)) expect([name, through(frame())]).toEqual([name, true]);
  for (const [name, frame] of Object.entries(NOISE)) expect([name, through(frame())]).toEqual([name, false]);
  detachFilter(tap);
  expect(through(NOISE["ARP"]!())).toBe(true);
});

test("a frame longer than a packet of the wire passes whole", () => {
  run("ip", "link", "set", lease.tap, "mtu", "9000");
  attachFilter(tap, knockFilter(lease.ip));
  expect(through(toGuest(UDP, datagram(53, "x".repeat(8_000))))).toBe(true);
  detachFilter(tap);
  run("ip", "link", "set", lease.tap, "mtu", "1500");
});

test("knockFilter() refuses what is no address", () => {
  expect(() => knockFilter("fe80::1")).toThrow("it is not an address");
});
