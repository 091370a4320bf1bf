// What a look finds, by hand; and with real connections in a namespace.
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { IPS } from "../../../src/ffi/abi/nf_conntrack_common.ts";
import { TCP_CONNTRACK } from "../../../src/ffi/abi/nf_conntrack_tcp.ts";
import { ConntrackSocket, type Connection } from "../../../src/ffi/netlink/conntrack.ts";
import { openNetwork } from "../../../src/host/network/network.ts";
import { Activities, OwnPorts, type Activity } from "../../../src/host/standby/activity.ts";
import type { Candidate, Seen } from "../../../src/host/standby/decide.ts";
import { Observer } from "../../../src/host/standby/observe.ts";
import { database, enterNamespace, guest, run } from "../network/world.ts";
import { address, connection, GATEWAY, GUEST, policy } from "./support.ts";

setDefaultTimeout(60_000); // only a guard: processes start slowly on a busy or emulated machine
const { TCP_CONNTRACK_SYN_SENT, TCP_CONNTRACK_SYN_RECV, TCP_CONNTRACK_LAST_ACK, TCP_CONNTRACK_TIME_WAIT, TCP_CONNTRACK_CLOSE } = TCP_CONNTRACK;
const other: Activity = { open: 0, lastAt: null };
const one = (change: Partial<Candidate> = {}): Candidate => ({ id: "a", state: "Running", network: true, ip: GUEST, policy: policy(), runningSince: 0, ...change });
const observer = (ignored: (c: Connection) => boolean = () => false) => new Observer(ignored, () => other);

describe("observe()", () => {
  test("counts what is open for each guest, and nothing else", () => {
    const seen = observer().observe([one(), one({ id: "b", ip: "10.88.0.3" })], [
      connection({ id: 1 }), connection({ id: 2, published: 8080 }), connection({ id: 3, state: TCP_CONNTRACK_SYN_RECV }), connection({ id: 4, from: GATEWAY }),
      connection({ id: 5, protocol: 17 }), connection({ id: 6, state: TCP_CONNTRACK_SYN_SENT, status: 0 }), connection({ id: 7, from: GUEST, to: "203.0.113.1" }),
      connection({ id: 8, from: GUEST, to: GUEST }), connection({ id: 9, to: "10.88.0.3" }), connection({ id: 10, to: "10.88.0.4" }),
    ]);
    expect(seen).toEqual(new Map<string, Seen>([["a", { open: 4, ended: 0, other }], ["b", { open: 1, ended: 0, other }]]));
  });

  test("leaves out what the policy and the daemon say", () => {
    const look = (candidate: Candidate, ignored?: (c: Connection) => boolean) => observer(ignored).observe([candidate], [connection({ id: 1, from: "10.1.1.1" }), connection({ id: 2, port: 22 }), connection({ id: 3 })]).get("a")!.open;
    expect(look(one())).toBe(3);
    expect(look(one({ policy: policy({ ignoreSourceCidrs: ["10.0.0.0/8"], ignoreDestinationPorts: [22] }) }))).toBe(1);
    expect(look(one(), (c) => c.original.sourcePort === 40_003)).toBe(2);
  });

  test("one that came and went between two looks is use, once; a closed port is none", () => {
    const all = observer();
    const ended = (...connections: Connection[]) => all.observe([one()], connections).get("a")!.ended;
    const closed = (id: number, state: number, status?: number) => connection({ id, state, status });
    expect(ended(connection({ id: 1 }))).toBe(0);
    expect(ended(closed(1, TCP_CONNTRACK_TIME_WAIT))).toBe(0); // it was seen while it was open
    expect(ended(closed(1, TCP_CONNTRACK_TIME_WAIT), closed(2, TCP_CONNTRACK_TIME_WAIT), closed(3, TCP_CONNTRACK_LAST_ACK), closed(4, TCP_CONNTRACK_CLOSE))).toBe(3);
    expect(ended(closed(2, TCP_CONNTRACK_TIME_WAIT), closed(3, TCP_CONNTRACK_TIME_WAIT))).toBe(0);
    expect(ended(closed(5, TCP_CONNTRACK_CLOSE, IPS.IPS_SEEN_REPLY))).toBe(0);
    all.keep(new Set());
    expect(ended(closed(2, TCP_CONNTRACK_TIME_WAIT))).toBe(1); // at the first look it may have been a moment ago
  });
});

test("a request that is over before anybody looks is seen, and an own one is not counted", async () => {
  const leave = enterNamespace();
  run("ip", "link", "set", "lo", "up");
  const network = openNetwork({ db: database() })._unsafeUnwrap();
  (await network.start())._unsafeUnwrap();
  const { peer, lease } = await guest(network, "a");
  await peer.serve("tcp", 80, "a");
  const table = new ConntrackSocket();
  const ports = new OwnPorts(address(lease.gateway));
  const all = observer((c) => ports.has(c)), candidate = one({ ip: lease.ip });
  const look = () => all.observe([candidate], table.connections()).get("a")!;
  const get = (...how: string[]) => run("curl", "-sS", "--http0.9", "--max-time", "10", ...how, `http://${lease.ip}/`);
  expect(look()).toEqual({ open: 0, ended: 0, other });
  get();
  expect(look()).toEqual({ open: 0, ended: 1, other }); // the guest closes first, so curl's end is the last word
  expect(look()).toEqual({ open: 0, ended: 0, other });
  const end = ports.add(45_678);
  get("--local-port", "45678");
  end();
  expect(table.connections().some((c) => c.original.sourcePort === 45_678)).toBe(true);
  expect(look()).toEqual({ open: 0, ended: 0, other });
  table.close();
  await peer.close();
  (await network.teardown())._unsafeUnwrap();
  network.close();
  leave();
});

test("Activities count, and keep the time of the last change", () => {
  let now = 5;
  const activities = new Activities(() => now);
  expect(activities.of("a")).toEqual({ open: 0, lastAt: null });
  const first = activities.begin("a"), second = activities.begin("a");
  now = 9;
  first();
  first();
  expect(activities.of("a")).toEqual({ open: 1, lastAt: 9 });
  now = 12;
  second();
  expect([activities.of("a"), activities.of("b")]).toEqual([{ open: 0, lastAt: 12 }, { open: 0, lastAt: null }]);
  activities.forget("a");
  expect(activities.of("a").lastAt).toBeNull();
});

test("Activities of an instance that was deleted are no more once the last has ended", () => {
  const activities = new Activities();
  const first = activities.begin("a"), second = activities.begin("a");
  activities.forget("a");
  first();
  expect(activities.of("a").open).toBe(1);
  second();
  expect(activities.of("a")).toEqual({ open: 0, lastAt: null });
});

test("OwnPorts: what is left of a connection is ours for a while, a new one from the same port is not", () => {
  let now = 0;
  const ports = new OwnPorts(address(GATEWAY), () => now);
  const from = (fromPort: number, state?: number, source = GATEWAY) => connection({ from: source, fromPort, state });
  const end = ports.add(7), again = ports.add(7);
  end();
  end();
  expect([ports.has(from(7)), ports.has(from(8)), ports.has(from(7, undefined, "192.0.2.7"))]).toEqual([true, false, false]);
  again();
  expect([ports.has(from(7)), ports.has(from(7, TCP_CONNTRACK_TIME_WAIT))]).toEqual([false, true]);
  now = 200_000;
  expect(ports.has(from(7, TCP_CONNTRACK_TIME_WAIT))).toBe(false);
});
