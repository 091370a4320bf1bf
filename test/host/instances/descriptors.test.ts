// What verbs of sleep open is closed again, whether they succeed or fail.
import { afterAll, expect, test } from "bun:test";
import { readdirSync, readlinkSync, rmSync } from "node:fs";
import { join } from "node:path";
import { until } from "../../support/until.ts";
import { monitorsIn, removeRoots, type Fixture } from "./fixture.ts";
import { asleep, begun, generations, openCompressing, remove, running } from "./sleeping.ts";

afterAll(removeRoots);

/** What this process has open, but for which one of its kind it is. */
function descriptors(): string[] {
  return readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`).replace(/\d+/g, "N")];
    } catch {
      return []; // the one that the folder was read by
    }
  }).sort();
}

/** What is open now and was not `before`. */
function more(before: readonly string[]): string[] {
  const left = [...before];
  return descriptors().filter((one) => {
    const known = left.indexOf(one);
    if (known >= 0) left.splice(known, 1);
    return known < 0;
  });
}

async function allOfThem(fixture: Fixture & { readonly compressor: { settled(): Promise<void> } }): Promise<void> {
  const { instances } = fixture;
  await asleep(fixture, "one");
  (await instances.restore("one"))._unsafeUnwrap();
  (await instances.fork("one", { name: "two", fromRunning: true, targetState: null }))._unsafeUnwrap();
  (await instances.createSnapshot("one", { kind: "Standby", name: "kept", tags: {}, compression: { enabled: true, algorithm: "zstd", level: 1 } }))._unsafeUnwrap();
  await fixture.compressor.settled();
  (await instances.forkSnapshot("kept", { name: "three", targetState: null }))._unsafeUnwrap();
  (await instances.restoreSnapshot("one", "kept", null))._unsafeUnwrap();
  // And what fails: a wake, a save, a fork, a standby that is called off, a restore of what is gone.
  await asleep(fixture, "refuses", ["refuse-wake"]);
  expect((await instances.restore("refuses")).isErr()).toBe(true);
  await running(fixture, "fails", ["save-fails"]);
  expect((await instances.standby("fails")).isErr()).toBe(true);
  expect((await instances.fork("fails", { name: "never", fromRunning: true, targetState: null })).isErr()).toBe(true);
  await running(fixture, "slow", ["save-slowly", "60000"]);
  const sleeping = instances.standby("slow");
  await begun(fixture, generations(fixture).length);
  await instances.wake("slow");
  expect((await sleeping).isErr()).toBe(true);
  (await instances.standby("one"))._unsafeUnwrap();
  for (const generation of generations(fixture)) rmSync(join(fixture.root, "memory", generation, "machine"));
  expect((await instances.restore("one")).isErr()).toBe(true);
  for (const { name } of instances.list()) await remove(fixture, name);
  (await instances.removeSnapshot("kept"))._unsafeUnwrap();
  await until("all monitors to be gone", () => monitorsIn(fixture.root).length === 0);
}

test("no descriptor is left by any of them", async () => {
  const fixture = await openCompressing();
  await allOfThem(fixture); // what is opened once for all
  const before = descriptors();
  for (let round = 0; round < 2; round++) await allOfThem(fixture);
  await until("all to be closed", () => more(before).length === 0, 20_000).catch(() => expect(more(before)).toEqual([]));
  await fixture.close();
}, 120_000);
