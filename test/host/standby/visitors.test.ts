import { describe, expect, test } from "bun:test";
import { TCP_CONNTRACK } from "../../../src/ffi/abi/nf_conntrack_tcp.ts";
import type { Connection } from "../../../src/ffi/netlink/conntrack.ts";
import { BETWEEN_LOOKS_MS, inUse, nameOf, Visitors, type Look } from "../../../src/host/standby/visitors.ts";
import { address, connection, GUEST, type Described } from "./support.ts";

const UDP = 17;
const { TCP_CONNTRACK_SYN_SENT, TCP_CONNTRACK_SYN_RECV, TCP_CONNTRACK_CLOSE_WAIT, TCP_CONNTRACK_FIN_WAIT, TCP_CONNTRACK_TIME_WAIT, TCP_CONNTRACK_CLOSE } = TCP_CONNTRACK;
const look = (at: number, ...visitors: Connection[]): Look => ({ before: at, after: at, visitors });

describe("inUse()", () => {
  const cases: [what: string, earlier: Described | null, later: Described, used: boolean][] = [
    ["a countdown that ran on", { left: 431_000 }, { left: 430_998 }, false],
    ["and where the second just changed", { left: 431_000 }, { left: 430_997 }, false],
    ["one that was wound up again", { left: 431_000 }, { left: 431_999 }, true],
    ["one that stands where it was", { left: 431_999 }, { left: 431_999 }, true],
    ["one that lost too little", { left: 431_999 }, { left: 431_998 }, true],
    ["data that is not acknowledged yet: a shorter countdown", { left: 431_990 }, { left: 299 }, true],
    ["a new one", null, {}, true],
    ["a new one that nobody answered yet", null, { state: TCP_CONNTRACK_SYN_SENT }, true],
    ["a knock that nobody answers and nobody repeats", { state: TCP_CONNTRACK_SYN_SENT, left: 110 }, { state: TCP_CONNTRACK_SYN_SENT, left: 108 }, false],
    ["one that was accepted meanwhile", { state: TCP_CONNTRACK_SYN_RECV, left: 50 }, { left: 48 }, true],
    ["one that one side has closed meanwhile", { left: 110 }, { state: TCP_CONNTRACK_FIN_WAIT, left: 108 }, true],
    ["one that rests half closed", { state: TCP_CONNTRACK_CLOSE_WAIT, left: 50 }, { state: TCP_CONNTRACK_CLOSE_WAIT, left: 48 }, false],
    ["a quiet flow of datagrams", { protocol: UDP, left: 20 }, { protocol: UDP, left: 18 }, false],
    ["a flow of datagrams that goes on", { protocol: UDP, left: 29 }, { protocol: UDP, left: 29 }, true],
    ["one that has become a stream", { protocol: UDP, left: 29 }, { protocol: UDP, left: 119 }, true],
    ["a new flow of datagrams", null, { protocol: UDP, left: 29 }, true],
  ];
  test.each(cases)("%s", (_, earlier, later, used) => {
    const before = earlier === null ? look(0) : look(0, connection(earlier));
    expect(inUse(before, look(BETWEEN_LOOKS_MS, connection(later)))).toHaveLength(used ? 1 : 0);
  });

  test("another connection with the same ends is another one", () => {
    expect(inUse(look(0, connection({ id: 1, left: 50 })), look(BETWEEN_LOOKS_MS, connection({ id: 2, fromPort: 40_001, left: 48 })))).toHaveLength(1);
  });

  /** The kernel's countdown for a last packet at `packet`, read at `now`, both in jiffies of 4 ms. */
  const left = (packet: number, now: number) => Math.floor((432_000 * 250 - (now - packet)) / 250);
  const at = (first: number, second: number, packets: number[]) => {
    const seen = (now: number) => connection({ left: left(Math.max(...packets.filter((p) => p <= now)), now) });
    return inUse({ before: first * 4 - 3, after: first * 4 + 3, visitors: [seen(first)] }, { before: second * 4 - 3, after: second * 4 + 3, visitors: [seen(second)] }).length > 0;
  };
  const range = (from: number, to: number, step: number) => Array.from({ length: Math.ceil((to - from) / step) }, (_, i) => from + i * step);
  const BETWEEN = Math.ceil(BETWEEN_LOOKS_MS / 4) + 2; // at least, as a timer does it

  test("two looks: without a packet in between never in use, with one in the last second always", () => {
    for (const quiet of range(0, 1300, 7)) {
      const first = 10_000, second = first + BETWEEN, earlier = first - quiet;
      expect([quiet, at(first, second, [earlier])]).toEqual([quiet, false]);
      for (const age of range(0, 250, 7)) expect([quiet, age, at(first, second, [earlier, second - age])]).toEqual([quiet, age, true]);
    }
  });

  test("a third look, at any time: every packet since, of those that were quiet for a second", () => {
    for (const quiet of range(260, 1300, 13)) {
      for (const passed of range(1, 1500, 37)) {
        const first = 10_000, second = first + passed;
        expect([quiet, passed, at(first, second, [first - quiet])]).toEqual([quiet, passed, false]);
        for (const age of range(0, passed, 41)) expect([quiet, passed, age, at(first, second, [first - quiet, second - age])]).toEqual([quiet, passed, age, true]);
      }
    }
  });
});

describe("Visitors", () => {
  /** The kernel's table at each look in turn, the last one for all that follow. */
  function world(...tables: (Connection[] | Error)[]) {
    let time = 0, looks = 0;
    const io = {
      connections() {
        const table = tables[Math.min(looks++, tables.length - 1)]!;
        if (table instanceof Error) throw table;
        return table;
      },
      now: () => time,
      async pause(ms: number) { time += ms; },
    };
    return { visitors: new Visitors(io, address(GUEST), (c) => c.original.sourcePort === 9_999), looks: () => looks, time: () => time, pass(ms: number) { time += ms; } };
  }

  test("nobody there: one look, no wait", async () => {
    const { visitors, looks, time } = world([connection({ from: GUEST, to: "192.0.2.9" }), connection({ to: "10.88.0.3" }), connection({ fromPort: 9_999 }), connection({ state: TCP_CONNTRACK_TIME_WAIT }), connection({ state: TCP_CONNTRACK_CLOSE })]);
    expect((await visitors.present())._unsafeUnwrap()).toEqual([]);
    expect([looks(), time()]).toEqual([1, 0]);
  });

  test("somebody there: two looks tell who is busy", async () => {
    const { visitors, looks, time } = world([connection({ id: 1, left: 50 }), connection({ id: 2, left: 50 })], [connection({ id: 1, left: 48 }), connection({ id: 2, left: 99 })]);
    expect((await visitors.present())._unsafeUnwrap().map((c) => c.id)).toEqual([2]);
    expect([looks(), time()]).toEqual([2, BETWEEN_LOOKS_MS]);
  });

  test("arrived() tells of those since", async () => {
    const one = world([], [connection({ id: 7 })]);
    expect((await one.visitors.present())._unsafeUnwrap()).toEqual([]);
    expect(one.visitors.arrived()._unsafeUnwrap().map((c) => c.id)).toEqual([7]);
    const two = world([connection({ left: 50 })], [connection({ left: 48 })], [connection({ left: 47 })], [connection({ left: 99 })]);
    expect((await two.visitors.present())._unsafeUnwrap()).toEqual([]);
    two.pass(400);
    expect(two.visitors.arrived()._unsafeUnwrap()).toEqual([]);
    two.pass(400);
    expect(two.visitors.arrived()._unsafeUnwrap()).toHaveLength(1);
  });

  test("a kernel that does not tell is an error", async () => {
    const { visitors } = world(new Error("no ctnetlink"));
    expect((await visitors.present())._unsafeUnwrapErr()).toMatchObject({ code: "host.network", message: "Cannot see who is connected to the guest: no ctnetlink" });
  });

  test("nameOf() says who, and to what", () => {
    expect(nameOf(connection({ published: 8080 }))).toBe("192.0.2.7:40001 to port 80 (TCP)");
  });
});
