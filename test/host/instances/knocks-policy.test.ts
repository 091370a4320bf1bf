// Policies of waking that are changed while their instance sleeps, wakes or falls asleep, over a real network in a namespace and stand-in monitors.
import { expect, test } from "bun:test";
import { ResultAsync } from "neverthrow";
import type { NetworkService } from "../../../src/host/network/service.ts";
import { until } from "../../support/until.ts";
import { closed, hears, knock, leaseOf, looked, opened, overNetwork, policy, SILENT, WAKING, world } from "./knocking.ts";
import { asleep, entries, running, stateOf } from "./sleeping.ts";

overNetwork();

for (const [from, to] of [[WAKING, false], [SILENT, true]] as const)
  test(`waking is switched ${to ? "on" : "off"} while it is restored: afterwards all comes through, and its address is open`, async () => {
    let meanwhile: Promise<unknown> | null = null;
    const fixture = await opened(undefined, { network: looked(), onStep: (step) => {
      if (step === "started" || step === "acknowledged") meanwhile = Promise.all([meanwhile, fixture.instances.update("one", { autoStandby: policy(to) })]);
    } });
    await asleep(fixture, "one", ["serve"], from);
    (await fixture.instances.restore("one"))._unsafeUnwrap();
    await meanwhile;
    expect({ hears: hears("one"), closed: closed(), wakes: fixture.instances.get("one")._unsafeUnwrap().autoStandby?.wakeOnPacket }).toEqual({ hears: true, closed: false, wakes: to });
  });

test("a policy of waking counts at once for one that sleeps", async () => {
  const fixture = await opened(undefined, { network: looked() });
  await asleep(fixture, "one", ["serve"], SILENT);
  expect(closed()).toBe(true);
  (await fixture.instances.update("one", { autoStandby: policy(true) }))._unsafeUnwrap();
  expect(closed()).toBe(false);
  knock(leaseOf("one"));
  await until("it to be awake", () => stateOf(fixture, "one") === "Running");
});

test("of two changes of a policy that are under way at once the later one holds", async () => {
  const asked = Promise.withResolvers<void>(), goes = Promise.withResolvers<void>();
  let holding = false;
  const slow: NetworkService["setClosed"] = (id, shut) => {
    if (!holding) return world.network.setClosed(id, shut);
    holding = false;
    asked.resolve();
    return ResultAsync.fromSafePromise(goes.promise).andThen(() => world.network.setClosed(id, shut));
  };
  const fixture = await opened(undefined, { network: looked({ setClosed: slow }) });
  await asleep(fixture, "one", ["serve"], WAKING);
  holding = true;
  const first = fixture.instances.update("one", { autoStandby: policy(false) });
  await asked.promise;
  const second = fixture.instances.update("one", { autoStandby: policy(true) });
  goes.resolve();
  (await first)._unsafeUnwrap();
  (await second)._unsafeUnwrap();
  expect(closed()).toBe(false);
  knock(leaseOf("one"));
  await until("it to be awake", () => stateOf(fixture, "one") === "Running");
});

test("a wake while it is about to fall asleep by itself calls that off, and is answered once that is sure", async () => {
  const asked = Promise.withResolvers<void>(), goes = Promise.withResolvers<void>();
  const fixture = await opened(undefined, { network: looked(), guard: { forget() {}, lateVisitors: async () => null, visitors: async (_, by) => {
    if (by === "by itself") { asked.resolve(); await goes.promise; }
    return null;
  } } });
  await running(fixture, "one", ["serve"], { network: true, autoStandby: { ...policy(true), enabled: true, idleTimeoutMs: 1 } });
  await asked.promise;
  const woken = Promise.resolve(fixture.instances.wake("one"));
  (await fixture.instances.update("one", { autoStandby: policy(true) }))._unsafeUnwrap(); // once is enough
  goes.resolve();
  expect((await woken)._unsafeUnwrap().state).toBe("Running");
  await until("the standby to be over", () => fixture.logged.some((line) => line.includes("auto_standby.called_off") && line.includes("a request came for it")));
  expect(stateOf(fixture, "one")).toBe("Running");
});

for (const change of [null, policy(true)])
  test(`a policy that is ${change === null ? "removed" : "disabled"} calls off the standby that it has asked for`, async () => {
    const deaf = Promise.withResolvers<void>();
    const fixture = await opened(undefined, { network: looked(), onStep: (at) => { if (at === "deaf") deaf.resolve(); } });
    await running(fixture, "one", ["save-slowly", "60000"], { network: true, autoStandby: { ...policy(true), enabled: true, idleTimeoutMs: 1 } });
    await deaf.promise;
    (await fixture.instances.update("one", { autoStandby: change }))._unsafeUnwrap();
    await until("the standby to be over", () => fixture.logged.some((line) => line.includes("auto_standby.called_off") && line.includes("its reason has gone")));
    expect({ state: stateOf(fixture, "one"), left: entries(fixture, "memory"), hears: hears("one") }).toEqual({ state: "Running", left: [], hears: true });
  });
