// The controller with a clock of its own, a database in memory, and connections by hand.
import { beforeEach, describe, expect, test } from "bun:test";
import type { Database } from "bun:sqlite";
import { TCP_CONNTRACK } from "../../../src/ffi/abi/nf_conntrack_tcp.ts";
import { connection, FakeClock, policy } from "./support.ts";
import { DAY, MINUTE, World } from "./auto-world.ts";

let db: Database, clock: FakeClock, world: World;
beforeEach(() => void ({ db, clock } = world = new World()));

describe("an instance without visitors", () => {
  test("is asked to sleep once its time is over, on the millisecond, and once", async () => {
    world.add("a");
    world.auto.kick();
    await clock.pass(MINUTE - 1);
    expect(world.asked).toEqual([]);
    expect(world.status()).toMatchObject({ status: "idle_countdown", reason: "idle_timeout_not_elapsed", countdownRemainingMs: 1, eligible: true });
    await clock.pass(1);
    expect(world.asked.map((a) => a.id)).toEqual(["a"]);
    expect(world.status()).toMatchObject({ status: "standby_requested", reason: "ready_for_standby" });
    await clock.pass(10 * MINUTE);
    expect(world.asked).toHaveLength(1);
    await world.asked[0]!.end();
    await clock.pass(10 * MINUTE);
    expect(world.asked).toHaveLength(1);
    expect(world.status()).toMatchObject({ status: "ineligible", reason: "instance_not_running" });
  });

  test("begins anew when it was woken", async () => {
    world.add("a");
    world.auto.kick();
    await clock.pass(MINUTE);
    await world.asked[0]!.end();
    await clock.pass(10 * MINUTE);
    world.add("a", { state: "Running", runningSince: clock.now() });
    await clock.pass(MINUTE - 1);
    expect(world.asked).toHaveLength(1);
    await clock.pass(1);
    expect(world.asked).toHaveLength(2);
  });

  test("begins anew after an attempt that was called off, or failed", async () => {
    world.add("a");
    world.auto.kick();
    for (const [i, code] of (["conflict", "host.storage"] as const).entries()) {
      await clock.pass(MINUTE - 1);
      expect(world.asked).toHaveLength(i);
      await clock.pass(1);
      expect(world.asked).toHaveLength(i + 1);
      await world.asked[i]!.end(code);
      expect(world.status()).toMatchObject({ status: "idle_countdown", countdownRemainingMs: MINUTE });
    }
    expect(world.log).toEqual(["auto_standby.called_off", "auto_standby.failed"]);
    // A bug is told as a failure too, and does not end the daemon.
    await clock.pass(MINUTE);
    await world.asked[2]!.fail();
    expect(world.status()).toMatchObject({ status: "idle_countdown", countdownRemainingMs: MINUTE });
    expect(world.log).toEqual(["auto_standby.called_off", "auto_standby.failed", "auto_standby.failed"]);
  });

  test("goes on counting after the daemon was restarted", async () => {
    world.add("a");
    world.auto.kick();
    await clock.pass(MINUTE - 10_000);
    world.auto.close();
    await clock.pass(5_000);
    expect(clock.waiting).toBe(0);
    world.auto = world.open();
    expect(world.status()).toMatchObject({ countdownRemainingMs: 5_000 });
    world.auto.kick();
    await clock.pass(5_000);
    expect(world.asked).toHaveLength(1);
  });

  test("has a countdown of its own, and no more than four sleep at once", async () => {
    for (let i = 0; i < 6; i++) world.add(`i${i}`, { ip: `10.88.0.${i + 2}`, policy: policy({ idleTimeoutMs: MINUTE + i }) });
    world.auto.kick();
    await clock.pass(MINUTE + 2_000);
    expect(world.asked.map((a) => a.id)).toEqual(["i0", "i1", "i2", "i3"]);
    expect(world.status("i4").status).toBe("ready_for_standby");
    await world.asked[1]!.end();
    await clock.pass(1_000);
    expect(world.asked.map((a) => a.id)).toEqual(["i0", "i1", "i2", "i3", "i4"]);
  });
});

describe("activity", () => {
  test("keeps it awake while it lasts, and from then on the whole time is waited", async () => {
    world.add("a");
    world.connections = [connection({ id: 1 }), connection({ id: 2, fromPort: 9_999 })];
    world.auto.kick();
    await clock.pass(5 * MINUTE);
    expect(world.status()).toMatchObject({ status: "active", reason: "active_inbound_connections", activeInboundConnections: 1, idleSince: null, lastInboundActivityAt: clock.now() });
    world.connections = [connection({ id: 1, state: TCP_CONNTRACK.TCP_CONNTRACK_TIME_WAIT })];
    const end = clock.now();
    await clock.pass(MINUTE - 1);
    expect(world.asked).toEqual([]);
    expect(world.status()).toMatchObject({ status: "idle_countdown", activeInboundConnections: 0, lastInboundActivityAt: end });
    await clock.pass(1_001);
    expect(world.asked).toHaveLength(1);
  });

  test("counts also where it is exec, or over before anybody looks", async () => {
    world.add("a");
    world.auto.kick();
    await clock.pass(MINUTE - 500);
    world.activities.begin("a")();
    await clock.pass(MINUTE - 500);
    expect(world.asked).toEqual([]);
    world.connections = [connection({ id: 1, state: TCP_CONNTRACK.TCP_CONNTRACK_TIME_WAIT })];
    await clock.pass(MINUTE - 500);
    expect(world.asked).toEqual([]);
    const end = world.activities.begin("a");
    await clock.pass(5 * MINUTE);
    expect(world.status()).toMatchObject({ status: "active", activeInboundConnections: 0 });
    end();
    await clock.pass(MINUTE - 1);
    expect(world.asked).toEqual([]);
    await clock.pass(1_001); // until the look after it, it was in use
    expect(world.asked).toHaveLength(1);
  });

  test("calls off a standby that was asked for", async () => {
    world.add("a");
    world.auto.kick();
    await clock.pass(MINUTE);
    expect(world.asked[0]!.calledOff.aborted).toBe(false);
    world.connections = [connection()];
    await clock.pass(1_000);
    expect(world.asked[0]!.calledOff.aborted).toBe(true);
    await world.asked[0]!.end("conflict");
    await clock.pass(1_000);
    expect(world.status().status).toBe("active");
  });
});

describe("hold()", () => {
  test("keeps it awake for its timeout, each one from now, and also after a restart", async () => {
    world.add("a");
    world.auto.kick();
    await clock.pass(MINUTE - 1_000);
    const held = (await world.auto.hold("a"))._unsafeUnwrap();
    expect(held).toMatchObject({ status: "idle_countdown", holdUntil: clock.now() + MINUTE, nextStandbyAt: clock.now() + MINUTE });
    await clock.pass(MINUTE - 1);
    expect(world.asked).toEqual([]);
    world.add("a", { policy: policy({ idleTimeoutMs: 500 }) });
    expect((await world.auto.hold("a"))._unsafeUnwrap().holdUntil).toBe(clock.now() + 500);
    world.auto.close();
    world.auto = world.open();
    world.auto.kick();
    await clock.pass(499);
    expect(world.asked).toEqual([]);
    await clock.pass(1);
    expect(world.asked).toHaveLength(1);
  });

  test("calls off what is under way; past the commit it is too late", async () => {
    world.add("a");
    world.auto.kick();
    await clock.pass(MINUTE);
    const holding = world.auto.hold("a");
    expect(world.asked[0]!.calledOff.aborted).toBe(true);
    await world.asked[0]!.end("conflict");
    expect((await holding)._unsafeUnwrap()).toMatchObject({ status: "idle_countdown", holdUntil: clock.now() + MINUTE });
    await clock.pass(MINUTE);
    const late = world.auto.hold("a");
    await world.asked[1]!.end();
    expect((await late)._unsafeUnwrapErr().code).toBe("instance.in_standby");
    expect((await world.auto.hold("a"))._unsafeUnwrapErr().code).toBe("instance.in_standby");
  });

  test("answers with the status where nothing would put it to sleep", async () => {
    world.add("a", { policy: policy({ enabled: false }) });
    world.add("b", { policy: null, state: "Standby" });
    world.add("c", { state: "Stopped" });
    expect((await world.auto.hold("a"))._unsafeUnwrap()).toMatchObject({ status: "disabled", reason: "policy_disabled", holdUntil: null });
    expect((await world.auto.hold("b"))._unsafeUnwrap()).toMatchObject({ status: "disabled", reason: "policy_missing", configured: false });
    expect((await world.auto.hold("c"))._unsafeUnwrap()).toMatchObject({ status: "ineligible", reason: "instance_not_running" });
    expect((await world.auto.hold("d"))._unsafeUnwrapErr().code).toBe("instance.not_found");
    expect(world.auto.status("d")._unsafeUnwrapErr().code).toBe("instance.not_found");
  });
});

describe("looks", () => {
  test("are one for all instances, and none where no policy is enabled or nobody is awake", async () => {
    world.add("a", { policy: null });
    world.auto.kick();
    await clock.pass(MINUTE);
    expect([world.looks, clock.waiting]).toEqual([0, 0]);
    for (const id of ["b", "c", "d"]) world.add(id, { policy: policy({ idleTimeoutMs: 60 * MINUTE }) });
    world.auto.kick();
    await clock.pass(9_500);
    expect(world.looks).toBe(10);
    for (const id of ["b", "c", "d"]) world.add(id, { state: "Standby" });
    await clock.pass(MINUTE);
    expect([world.looks, clock.waiting]).toEqual([10, 1]);
    for (const id of ["b", "c", "d"]) world.add(id, { policy: policy({ enabled: false }) });
    await clock.pass(1_000);
    expect(clock.waiting).toBe(0);
  });

  test("that fail are told as such, rarely said, and nobody is put to sleep meanwhile", async () => {
    world.add("a");
    world.auto.kick();
    await clock.pass(MINUTE - 1_000);
    world.failure = new Error("no ctnetlink");
    await clock.pass(9 * MINUTE);
    expect(world.status()).toMatchObject({ status: "error", reason: "observer_error", eligible: true });
    expect([world.asked, world.log]).toEqual([[], ["auto_standby.blind"]]);
    await clock.pass(2 * MINUTE);
    expect(world.log).toEqual(["auto_standby.blind", "auto_standby.blind"]);
    world.failure = null;
    await clock.pass(1_000);
    expect(world.log.at(-1)).toBe("auto_standby.sees_again");
    expect(world.asked).toHaveLength(1);
  });

  test.each([["forward", DAY], ["back", -DAY]])("go on where the clock is set %s in the middle of one", async (_, ms) => {
    world.add("a", { policy: policy({ idleTimeoutMs: 10 * DAY }) });
    world.auto.kick();
    await clock.pass(1_000);
    world.onLook = () => {
      clock.jump(ms);
      world.onLook = () => {};
    };
    await clock.pass(1_000);
    const before = world.looks;
    await clock.pass(5_000);
    expect(world.looks).toBe(before + 5);
  });

  test("go on where the timers can't be written", async () => {
    world.add("a");
    world.auto.kick();
    await clock.pass(1_000);
    db.run("DROP TABLE auto_standby_timers");
    world.connections = [connection()];
    await clock.pass(1_000);
    world.connections = [];
    await clock.pass(2 * MINUTE);
    expect(world.asked).toHaveLength(1);
    await world.asked[0]!.end("host.storage");
    expect((await world.auto.hold("a"))._unsafeUnwrapErr().code).toBe("host.storage");
  });
});

test("a clock that is set back delays nobody's sleep: not by its start, nor by an exec, nor by a hold", async () => {
  for (const id of ["started", "used", "held"]) world.add(id);
  world.auto.kick();
  await clock.pass(1_000);
  world.add("started", { runningSince: clock.now() });
  world.activities.begin("used")();
  await world.auto.hold("held");
  clock.jump(-DAY);
  await clock.pass(MINUTE);
  expect(world.asked).toEqual([]);
  await clock.pass(1_000);
  expect(world.asked.map(({ id }) => id)).toEqual(["started", "used", "held"]);
});

describe("timers on record", () => {
  const rows = () => db.query("SELECT * FROM auto_standby_timers ORDER BY instance_id").all();

  test("are written when they change, not at each look", async () => {
    world.add("a");
    world.connections = [connection()];
    world.auto.kick();
    await clock.pass(1);
    const changes = () => db.query<{ n: number }, []>("SELECT total_changes() AS n").get()!.n;
    const before = changes();
    await clock.pass(MINUTE);
    expect(changes()).toBe(before);
    world.connections = [];
    await clock.pass(30_000);
    expect(changes()).toBe(before + 1);
    expect(rows()).toEqual([{ instance_id: "a", idle_since: expect.any(Number), hold_until: null, last_activity: expect.any(Number) }]);
  });

  test("go with the instance, and with its policy", async () => {
    world.add("a");
    world.add("b", { ip: "10.88.0.3" });
    world.auto.kick();
    await clock.pass(30_000);
    expect(rows()).toHaveLength(2);
    db.run("DELETE FROM instances WHERE id = 'b'");
    await clock.pass(1_000); // the list may still have it for a moment
    world.instances.delete("b");
    world.add("a", { policy: policy({ enabled: false }) });
    world.auto.kick();
    await clock.pass(1_000);
    expect(rows()).toEqual([]);
    world.add("a", { policy: policy({ idleTimeoutMs: MINUTE }) });
    world.auto.kick();
    await clock.pass(MINUTE - 1);
    expect(world.asked).toEqual([]);
    await clock.pass(1);
    expect(world.asked.map((a) => a.id)).toEqual(["a"]);
  });
});
