// TAPs of instances that sleep and wake, over a real network in a namespace and stand-in monitors: who sleeps hears knocks only, who runs
// hears all, whatever came in between.
import { expect, spyOn, test } from "bun:test";
import { isReadable } from "../../../src/ffi/fd.ts";
import { attachFilter } from "../../../src/ffi/tun.ts";
import { knockFilter } from "../../../src/host/network/knock.ts";
import type { NetworkService } from "../../../src/host/network/service.ts";
import { Machine } from "../../../src/host/vmm/machine.ts";
import { fail } from "../../../src/errors.ts";
import { FAILURE, failing } from "../../support/failing.ts";
import { until } from "../../support/until.ts";
import { FLAGS, packet, segment, TCP } from "../network/frames.ts";
import { run } from "../network/world.ts";
import { monitorsIn } from "./fixture.ts";
import { closed, hears, knock, leaseOf, looked, opened, overNetwork, send, SILENT, WAKING, world } from "./knocking.ts";
import { asleep, entries, running, stateOf } from "./sleeping.ts";

overNetwork();

test("a knock wakes a sleeper whose policy says so, once, and everything comes through again", async () => {
  const fixture = await opened(undefined, { network: looked() });
  await asleep(fixture, "one", ["serve"], WAKING);
  expect(hears("one")).toBe(false);
  for (let i = 0; i < 5; i++) knock(leaseOf("one"));
  await until("it to be awake", () => stateOf(fixture, "one") === "Running");
  await until("all to come through", () => hears("one"));
});

test("a sleeper that was stopped, or got a stopped disk back, hears all once it is started, and its address is open", async () => {
  const fixture = await opened(undefined, { network: looked() });
  for (const [name, change] of [["waking", WAKING], ["silent", SILENT]] as const) {
    await running(fixture, name, ["serve"], change);
    (await fixture.instances.stop(name, { graceMs: 1000 }))._unsafeUnwrap();
    (await fixture.instances.createSnapshot(name, { kind: "Stopped", name: "disk", tags: {} }).andThen(() => fixture.instances.start(name, {})))._unsafeUnwrap();
    await until("it to run", () => stateOf(fixture, name) === "Running");
    (await fixture.instances.createSnapshot(name, { kind: "Standby", name: "machine", tags: {} }))._unsafeUnwrap();
    const disk = fixture.instances.listSnapshots({ kind: "Stopped", sourceInstanceId: fixture.instances.get(name)._unsafeUnwrap().id })[0]!;
    const machine = fixture.instances.listSnapshots({ kind: "Standby", sourceInstanceId: disk.sourceInstanceId })[0]!;
    for (const bring of [() => fixture.instances.restoreSnapshot(name, disk.id, "Stopped"), () => fixture.instances.restoreSnapshot(name, machine.id, "Stopped")]) {
      (await fixture.instances.standby(name))._unsafeUnwrap();
      expect(closed()).toBe(name === "silent");
      expect((await bring())._unsafeUnwrap().state).toBe("Stopped");
      (await fixture.instances.start(name, {}))._unsafeUnwrap();
      await until("it to run", () => stateOf(fixture, name) === "Running");
      expect({ name, hears: hears(name), closed: closed() }).toEqual({ name, hears: true, closed: false });
    }
    (await fixture.instances.remove(name, { graceful: false }))._unsafeUnwrap();
  }
});

test("a daemon that died over a standby leaves a filter: the next one takes it off a guest that runs", async () => {
  const before = await opened(undefined, { network: looked() });
  await running(before, "one", ["serve"], WAKING);
  await before.close();
  const fixture = await opened(before.root, { network: looked({ adoptTap(lease, fd) {
    attachFilter(fd, knockFilter(lease.ip));
    world.taps.set(lease.instanceId, fd);
    return world.network.adoptTap(lease, fd);
  } }) });
  expect({ state: stateOf(fixture, "one"), hears: hears("one") }).toEqual({ state: "Running", hears: true });
});

test("a knock during a stop or delete of a sleeper is nobody's", async () => {
  const fixture = await opened(undefined, { network: looked() });
  for (const verb of ["stop", "remove"] as const) {
    await asleep(fixture, verb, ["serve"], WAKING);
    const lease = leaseOf(verb);
    const over = verb === "stop" ? fixture.instances.stop(verb, { graceMs: 1000 }) : fixture.instances.remove(verb, { graceful: true });
    knock(lease);
    (await over)._unsafeUnwrap();
    expect(fixture.instances.list().map(({ name, state }) => [name, state])).toEqual([["stop", "Stopped"]]);
    expect(run("ip", "-br", "link")).not.toContain(lease.tap);
  }
});

test("a wake that fails is tried again by the next knock, and not by the same one", async () => {
  const fixture = await opened(undefined, { network: looked() });
  await asleep(fixture, "one", ["refuse-wake"], WAKING);
  for (let round = 1; round <= 3; round++) {
    knock(leaseOf("one"));
    const failures = () => fixture.logged.filter((line) => line.includes("it could not be woken")).length;
    await until("the wake to fail", () => failures() === round);
    expect({ state: stateOf(fixture, "one"), failures: failures(), waits: isReadable(world.taps.get(leaseOf("one").instanceId)!) }).toEqual({ state: "Standby", failures: round, waits: false });
  }
});

for (const step of ["deaf", "saved", "asleep", "ended"] as const)
  test(`a knock over a standby that is ${step}: ${step === "deaf" || step === "saved" ? "it is called off, and all comes through" : "it wakes"}`, async () => {
    const fixture = await opened(undefined, { network: looked(), onStep: (at) => { if (at === step) knock(leaseOf("one")); } });
    await running(fixture, "one", ["serve"], WAKING);
    const slept = await fixture.instances.standby("one");
    if (step === "deaf" || step === "saved") {
      expect(slept._unsafeUnwrapErr()).toMatchObject({ code: "conflict", message: expect.stringContaining("a packet came for it"), details: { state: "Running", reason: "called_off" } });
      // The frame that knocked is the guest's to read, by its monitor as ever: here the daemon's descriptor sees it wait.
      expect({ state: stateOf(fixture, "one"), left: entries(fixture, "memory"), monitors: monitorsIn(fixture.root).length, waits: isReadable(world.taps.get(leaseOf("one").instanceId)!) }).toEqual({ state: "Running", left: [], monitors: 1, waits: true });
    } else {
      expect(slept._unsafeUnwrap().state).toBe("Standby");
      await until("it to be awake", () => stateOf(fixture, "one") === "Running");
    }
    await until("all to come through", () => hears("one"));
  });

for (const [why, guest, guard] of [
  ["called off by a knock", "save-slowly", null], ["called off by a connection that came late", "serve", "somebody came"], ["failed", "save-fails", null],
] as const)
  test(`over a standby that is ${why} all comes through before its monitor is told to go on`, async () => {
    const seen: [string, boolean][] = [], told = Machine.prototype.request;
    using _ = spyOn(Machine.prototype, "request").mockImplementation(function (this: Machine, ...args: Parameters<Machine["request"]>) {
      if (args[0] === "cancelSave" || args[0] === "resume") seen.push([args[0], hears("one")]);
      return told.apply(this, args);
    } as Machine["request"]);
    const fixture = await opened(undefined, {
      network: looked(), guard: { forget() {}, visitors: async () => null, lateVisitors: async () => guard },
      onStep: (at) => { if (at === "deaf" && guest === "save-slowly") knock(leaseOf("one")); },
    });
    await running(fixture, "one", [guest, "60000"], WAKING);
    expect((await fixture.instances.standby("one")).isErr()).toBe(true);
    expect(seen).toEqual(guest === "save-slowly" ? [["cancelSave", true], ["resume", true]] : [["resume", true]]);
    expect(stateOf(fixture, "one")).toBe("Running");
  });

test("noise over a standby does not call it off: its monitor is told what passes", async () => {
  using told = spyOn(Machine.prototype, "request");
  const noise = () => send(leaseOf("one"), packet(TCP, "192.0.2.77", leaseOf("one").ip, segment(FLAGS.ACK)));
  const fixture = await opened(undefined, { network: looked(), onStep: (at) => { if (["deaf", "saved", "asleep"].includes(at)) noise(); } });
  await running(fixture, "one", ["serve"], WAKING);
  (await fixture.instances.standby("one"))._unsafeUnwrap();
  expect({ state: stateOf(fixture, "one"), waits: isReadable(world.taps.get(leaseOf("one").instanceId)!) }).toEqual({ state: "Standby", waits: false });
  expect(told).toHaveBeenCalledWith("save", expect.objectContaining({ filter: Buffer.from(knockFilter(leaseOf("one").ip)).toString("base64") }), expect.anything());
});

test("a knock while the database fails ends nothing: a later one wakes it", async () => {
  const fixture = await opened(undefined, { network: looked() });
  await asleep(fixture, "one", ["serve"], WAKING);
  const lease = leaseOf("one"), said = (text: string) => fixture.logged.some((line) => line.includes(text));
  {
    using _ = failing(fixture.store.db);
    knock(lease);
    await until("it to be told", () => said(`could not be woken: ${FAILURE}`) && said(`packets wake instance ${lease.instanceId} again: ${FAILURE}; trying again`));
  }
  // Whoever gets no answer sends again.
  await until("it to be awake", () => (knock(lease), stateOf(fixture, "one") === "Running"));
  await until("all to come through", () => hears("one"));
});

test("one that fell asleep while its address could not be closed or listened at is closed, or heard, later", async () => {
  let broken = true;
  const setClosed: NetworkService["setClosed"] = (id, closed) => (broken ? fail("host.network", "Cannot change closed addresses: busy").asyncMap(async () => {}) : world.network.setClosed(id, closed));
  const fixture = await opened(undefined, { network: looked({ setClosed }) });
  const wakeful = async (name: string, change: typeof WAKING | typeof SILENT) => {
    broken = false;
    await running(fixture, name, ["serve"], change);
    broken = true;
    (await fixture.instances.standby(name))._unsafeUnwrap();
  };
  await wakeful("one", WAKING);
  await wakeful("two", SILENT);
  expect(fixture.logged.filter((line) => line.includes("Cannot change closed addresses: busy; trying again")).length).toBeGreaterThan(1);
  broken = false;
  await until("it to answer as closed", closed);
  await until("it to be awake", () => (knock(leaseOf("one")), stateOf(fixture, "one") === "Running"));
  expect(stateOf(fixture, "two")).toBe("Standby");
});

test("connections are forgotten with the guest that had them, at a start anew and where a snapshot takes its place, and never over a sleep", async () => {
  const forgotten: string[] = [];
  const fixture = await opened(undefined, { network: looked({ forget: (id) => (forgotten.push(stateOf(fixture, "one")), world.network.forget(id)) }) });
  const { id } = await running(fixture, "one", ["serve"], WAKING);
  (await fixture.instances.createSnapshot("one", { kind: "Standby", name: "kept", tags: {} }))._unsafeUnwrap();
  (await fixture.instances.standby("one").andThen(() => fixture.instances.restore("one")))._unsafeUnwrap();
  expect(forgotten).toEqual([]);
  (await fixture.instances.stop("one", { graceMs: 1000 }).andThen(() => fixture.instances.start("one", {})))._unsafeUnwrap();
  expect(forgotten).toEqual(["Stopped"]);
  await until("it to run", () => stateOf(fixture, "one") === "Running");
  expect((await fixture.instances.restoreSnapshot(id, "kept", null))._unsafeUnwrap().state).toBe("Running");
  expect(forgotten).toEqual(["Stopped", "Standby"]);
});

test("what waited for a guest whose place a snapshot takes wakes nobody", async () => {
  const fixture = await opened(undefined, { network: looked() });
  const { id } = await running(fixture, "one", ["serve"], WAKING), lease = leaseOf("one");
  (await fixture.instances.createSnapshot("one", { kind: "Standby", name: "kept", tags: {} }))._unsafeUnwrap();
  send(lease, packet(TCP, "192.0.2.77", lease.ip, segment(FLAGS.ACK))); // of a connection that it has; the stand-in reads nothing
  expect((await fixture.instances.restoreSnapshot("one", "kept", "Standby"))._unsafeUnwrap().state).toBe("Standby");
  expect({ waits: isReadable(world.taps.get(id)!), hears: hears("one") }).toEqual({ waits: false, hears: false });
  knock(lease);
  await until("it to be awake", () => stateOf(fixture, "one") === "Running");
});

for (const [how, change] of [["wakes by packet", WAKING], ["does not", SILENT]] as const)
  test(`a link that somebody removes under a sleeper that ${how} is made anew, at the latest as it wakes`, async () => {
    const fixture = await opened(undefined, { network: looked() });
    await asleep(fixture, "one", ["serve"], change);
    const lease = leaseOf("one");
    run("ip", "link", "del", lease.tap);
    if (change === WAKING) await until("it to be awake", () => run("ip", "-br", "link").includes(lease.tap) && (knock(lease), stateOf(fixture, "one") === "Running"));
    else (await fixture.instances.restore("one"))._unsafeUnwrap();
    expect(hears("one")).toBe(true);
  });

test("wakes that fail while nothing can listen either leave one who tries again, however many they were", async () => {
  let broken = false;
  const retries: (() => void)[] = [], real = globalThis.setTimeout;
  const refuses: NetworkService["setClosed"] = () => fail("host.network", "Cannot change closed addresses: the kernel says no").asyncMap(async () => undefined);
  const fixture = await opened(undefined, { network: looked({ setClosed: (id, closed) => (broken ? refuses : world.network.setClosed.bind(world.network))(id, closed) }) });
  await asleep(fixture, "one", ["serve"], SILENT);
  broken = true;
  // Those of 250 ms and 500 ms are the first and the second try again (eventually.ts): they come when the test says so.
  const timers = spyOn(globalThis, "setTimeout").mockImplementation(((run: () => void, ms: number) => (ms === 250 || ms === 500 ? (retries.push(run), { unref() {} }) : real(run, ms))) as never);
  try {
    for (let i = 0; i < 5; i++) expect((await fixture.instances.restore("one")).isErr()).toBe(true);
    expect(retries).toHaveLength(5);
    for (const run of retries.splice(0)) {
      run();
      expect((await fixture.instances.createSnapshot("one", { kind: "Stopped", name: null, tags: {} })).isErr()).toBe(true); // its turn comes after that one's
    }
    expect(retries).toHaveLength(1);
    broken = false;
    retries[0]!();
    await until("its address to be closed", closed);
  } finally {
    timers.mockRestore();
  }
});
