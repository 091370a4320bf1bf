import { expect, test } from "bun:test";
import type { Connection } from "../../../src/ffi/netlink/conntrack.ts";
import { Activities } from "../../../src/host/standby/activity.ts";
import { StandbyGuard, type Sleeper } from "../../../src/host/standby/guard.ts";
import { connection, GUEST, policy } from "./support.ts";

const sleeper: Sleeper = { id: "a", ip: GUEST, autoStandby: policy({ ignoreDestinationPorts: [22] }) };

/** The kernel's table at each look in turn, the last one for all that follow. */
function guard(...tables: (Connection[] | Error)[]) {
  let time = 0, looks = 0;
  const activities = new Activities(), log: string[] = [];
  const subject = new StandbyGuard({
    connections() {
      const table = tables[Math.min(looks++, tables.length - 1)]!;
      if (table instanceof Error) throw table;
      return table;
    },
    now: () => time, async pause(ms) { time += ms; },
    otherActivity: (id) => activities.of(id), ignored: (c) => c.original.sourcePort === 9_999, logger: { warn: (event) => void log.push(event) },
  });
  return { subject, activities, log, looks: () => looks };
}
const idle = [[connection({ left: 50 })], [connection({ left: 48 })]];

test("by hand, a quiet connection is no reason; by itself it is", async () => {
  expect(await guard(...idle).subject.visitors(sleeper, "by hand")).toBeNull();
  expect(await guard(...idle).subject.visitors(sleeper, "by itself")).toBe("the connection 192.0.2.7:40001 to port 80 (TCP) is open");
});

test("a busy one is a reason for both, and how many there are is said", async () => {
  const { subject } = guard([connection({ id: 1, left: 50 }), connection({ id: 2, left: 50 })], [connection({ id: 1, left: 50 }), connection({ id: 2, left: 50 })]);
  expect(await subject.visitors(sleeper, "by hand")).toEndWith("is in use, and 1 more");
});

test("the policy's exceptions count by itself only; ours always", async () => {
  const ssh = [connection({ port: 22, left: 50 }), connection({ id: 9, fromPort: 9_999 })];
  expect(await guard(ssh).subject.visitors(sleeper, "by itself")).toBeNull();
  expect(await guard(ssh).subject.visitors(sleeper, "by hand")).toContain("to port 22");
});

test("who came meanwhile is seen late", async () => {
  for (const asked of ["by hand", "by itself"] as const) {
    const { subject } = guard([], [connection({ id: 3 })]);
    expect(await subject.visitors(sleeper, asked)).toBeNull();
    expect(await subject.lateVisitors(sleeper)).toContain("to port 80");
    expect(await subject.lateVisitors(sleeper)).toBeNull(); // nobody looked before
  }
  const { subject, activities } = guard([]);
  expect(await subject.visitors(sleeper, "by hand")).toBeNull();
  const end = activities.begin("a");
  expect(await subject.lateVisitors(sleeper)).toBe("it is used by a session or request");
  expect(await subject.visitors(sleeper, "by itself")).toBe("it is used by a session or request");
  end();
});

test("without an address nobody can be there; a kernel that tells nothing keeps nobody awake", async () => {
  const none = guard(new Error("asked for nothing"));
  expect(await none.subject.visitors({ ...sleeper, ip: null }, "by hand")).toBeNull();
  expect([none.looks(), none.log]).toEqual([0, []]);
  expect(await none.subject.visitors(sleeper, "by hand")).toBeNull();
  expect(none.log).toEqual(["standby.blind"]);
});
