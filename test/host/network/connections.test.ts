// What the kernel's table of connections tells about guests: which of them are visitors, and how far they are.
import { afterAll, afterEach, beforeAll, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { connect, type Socket } from "node:net";
import { IPS } from "../../../src/ffi/abi/nf_conntrack_common.ts";
import { TCP_CONNTRACK } from "../../../src/ffi/abi/nf_conntrack_tcp.ts";
import { closeFd } from "../../../src/ffi/fd.ts";
import { ConntrackSocket, type Connection } from "../../../src/ffi/netlink/conntrack.ts";
import { parseAddress } from "../../../src/host/network/address.ts";
import { isInbound, isOpen } from "../../../src/host/network/connections.ts";
import { openNetwork } from "../../../src/host/network/network.ts";
import type { Lease, NetworkService } from "../../../src/host/network/service.ts";
import { readSysctl, writeSysctl } from "../../../src/host/network/sysctl.ts";
import { until } from "../../support/until.ts";
import { database, enterNamespace, guest, HOST_ADDRESS, outside, OUTSIDE_ADDRESS, type Peer } from "./world.ts";

setDefaultTimeout(60_000); // only a guard: processes start slowly on a busy or emulated machine
const { TCP_CONNTRACK_ESTABLISHED, TCP_CONNTRACK_FIN_WAIT, TCP_CONNTRACK_TIME_WAIT, TCP_CONNTRACK_SYN_SENT } = TCP_CONNTRACK;
let leave: () => void, out: Peer, network: NetworkService, a: { peer: Peer; lease: Lease };

beforeAll(async () => {
  leave = enterNamespace();
  writeSysctl("netfilter/nf_conntrack_acct", "0"); // packets are not counted: nothing here may need it
  out = await outside();
  await out.serve("tcp", 80, "outside");
});
afterAll(async () => {
  await out.close();
  leave();
});
beforeEach(async () => {
  network = openNetwork({ db: database() })._unsafeUnwrap();
  (await network.start())._unsafeUnwrap();
  a = await guest(network, "a");
  await a.peer.tell({ do: "echo", port: 7 });
  (await network.publish("a", [{ guestPort: 7, hostPort: 8007, protocol: "tcp" }, { guestPort: 9, hostPort: 8009, protocol: "udp" }]))._unsafeUnwrap();
});
afterEach(async () => {
  await network.teardown();
  network.close();
  await a.peer.close();
});

const address = (text: string) => parseAddress(text) ?? -1;
function table(): Connection[] {
  const socket = new ConntrackSocket();
  try {
    return socket.connections();
  } finally {
    socket.close();
  }
}
const toGuest = (protocol: number) => table().filter((c) => c.original.protocol === protocol && isInbound(c, address(a.lease.ip)));
const visitors = () => table().filter((c) => isInbound(c, address(a.lease.ip)) && isOpen(c));

async function echo(host: string, port: number): Promise<Socket> {
  const socket = connect({ host, port, allowHalfOpen: true });
  const answered = new Promise((resolve, reject) => socket.once("data", resolve).once("error", reject));
  socket.write("hello");
  await answered;
  return socket;
}

test("a connection to the guest is open until both sides are done with it, by its own address or a published port", async () => {
  for (const [host, port] of [[a.lease.ip, 7], [HOST_ADDRESS, 8007], ["127.0.0.1", 8007]] as const) {
    const socket = await echo(host, port);
    const [open] = visitors();
    expect(open).toMatchObject({
      original: { source: address(host === a.lease.ip ? a.lease.gateway : host), destination: address(host), protocol: 6, sourcePort: socket.localPort, destinationPort: port },
      reply: { source: address(a.lease.ip), sourcePort: 7 }, tcpState: TCP_CONNTRACK_ESTABLISHED,
    });
    expect(open!.status & IPS.IPS_ASSURED).toBe(IPS.IPS_ASSURED);
    expect(open!.status & IPS.IPS_DST_NAT).toBe(host === a.lease.ip ? 0 : IPS.IPS_DST_NAT);
    expect(open!.timeoutS).toBeLessThanOrEqual(Number(readSysctl("netfilter/nf_conntrack_tcp_timeout_established")));
    expect(open!.id).toBeGreaterThan(0);
    socket.destroy();
    await until("the connection's end", () => visitors().length === 0);
    const ended = toGuest(6).find((c) => c.original.sourcePort === open!.original.sourcePort);
    expect(ended?.id).toBe(open!.id);
    expect(ended?.tcpState).toBeGreaterThan(TCP_CONNTRACK_FIN_WAIT);
  }
});

test("two connections have two ids, and each packet winds the countdown up", async () => {
  const sockets = [await echo(a.lease.ip, 7), await echo(a.lease.ip, 7)];
  const [one, two] = visitors();
  expect(one!.id).not.toBe(two!.id);
  const full = Number(readSysctl("netfilter/nf_conntrack_tcp_timeout_established"));
  const of = (id: number) => visitors().find((c) => c.id === id)!.timeoutS;
  await until("the countdown to run", () => of(one!.id) < full - 1);
  const first = sockets.find((s) => s.localPort === one!.original.sourcePort)!;
  const before = of(one!.id);
  const answered = new Promise((resolve) => first.once("data", resolve));
  first.write("more");
  await answered;
  expect(of(one!.id)).toBeGreaterThan(before);
  sockets.forEach((s) => s.destroy());
});

test("what the guest begins is no visitor, nor is what it says to itself", async () => {
  expect(await a.peer.ask("tcp", OUTSIDE_ADDRESS, 80)).toContain("outside sees");
  await a.peer.serve("tcp", 70, "a");
  (await network.publish("a", [{ guestPort: 70, hostPort: 8070, protocol: "tcp" }]))._unsafeUnwrap();
  expect(await a.peer.ask("tcp", a.lease.gateway, 8070)).toBe(`a sees ${a.lease.gateway}`);
  expect(table().some((c) => c.original.source === address(a.lease.ip) && c.tcpState === TCP_CONNTRACK_TIME_WAIT)).toBe(true);
  expect(toGuest(6)).toEqual([]);
});

test("a connection that nobody answers is not open; a datagram has no state", async () => {
  await a.peer.close();
  const tap = (await network.openTap(a.lease))._unsafeUnwrap(); // nobody reads it
  const socket = connect(7, a.lease.ip).on("error", () => {});
  await until("the SYN", () => toGuest(6).some((c) => c.tcpState === TCP_CONNTRACK_SYN_SENT));
  expect(visitors()).toEqual([]);
  await out.tell({ do: "tell", host: HOST_ADDRESS, port: 8009, text: "hello" });
  await until("the datagram", () => toGuest(17).length === 1);
  expect(toGuest(17)[0]).toMatchObject({ tcpState: null, original: { source: address(OUTSIDE_ADDRESS), destinationPort: 8009 }, reply: { sourcePort: 9 } });
  socket.destroy();
  closeFd(tap);
});

test("a guest that is no more leaves connections that stay open; forget() ends them, and who has only knocked stays", async () => {
  const sockets = [await echo(a.lease.ip, 7), await echo(HOST_ADDRESS, 8007)];
  await a.peer.close();
  const tap = (await network.openTap(a.lease))._unsafeUnwrap(); // nobody reads it
  await out.tell({ do: "tell", host: HOST_ADDRESS, port: 8009, text: "hello" });
  await until("the datagram", () => toGuest(17).length === 1);
  expect(visitors().length).toBe(2);
  (await network.forget("a"))._unsafeUnwrap();
  expect([toGuest(6), toGuest(17).length]).toEqual([[], 1]);
  expect((await network.forget("nobody")).isOk()).toBe(true);
  sockets.forEach((socket) => socket.on("error", () => {}).destroy());
  closeFd(tap);
});
