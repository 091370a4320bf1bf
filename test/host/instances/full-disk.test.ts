// A data folder on a file system that is full, or becomes it at any page of what a verb writes: the instance is as before or as it was
// to be, nothing is left of what failed, and once there is room all goes on.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { closeSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, rmSync, statfsSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Res } from "../../../src/errors.ts";
import { openStore } from "../../../src/host/store/store.ts";
import { command } from "../../support/command.ts";
import { until } from "../../support/until.ts";
import { killIfThere, monitorsIn, open, type Fixture } from "./fixture.ts";
import { disks, entries, generations, remove, running, stateOf } from "./sleeping.ts";

const PAGE = 4096;
/** Two pages of room more each time, until it was enough a few times; a hundred are more than any of the verbs writes here. */
const MOST_PAGES = 100, ENOUGH = 3;
let mount = "", count = 0;

beforeAll(async () => {
  mount = mkdtempSync(join(tmpdir(), "dormouse-full-"));
  await command(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", mount]);
});
afterAll(async () => {
  for (const pid of monitorsIn(mount)) killIfThere(pid);
  await command(["umount", "-l", mount]);
  rmSync(mount, { recursive: true });
});

/** A data folder of its own on that file system. */
async function fresh(): Promise<Fixture> {
  const root = join(mount, `data-${++count}`);
  mkdirSync(root);
  for (const name of ["kernel", "initramfs", "rootfs"]) writeFileSync(join(root, name), name);
  return open(root);
}

/** Has a verb try with more and more room until that was enough a few times. At first there is too little, and it says so. */
async function roomByRoom<T>(attempt: (pages: number) => Promise<Res<T>>): Promise<void> {
  const seen: string[] = [];
  for (let pages = 0; pages < MOST_PAGES && !enough(seen); pages += 2) {
    const outcome = await attempt(pages);
    seen.push(outcome.isOk() ? "done" : outcome.error.code);
  }
  expect(new Set(seen)).toEqual(new Set(["host.storage", "done"]));
}

const enough = (seen: readonly string[]): boolean => seen.length >= ENOUGH && seen.slice(-ENOUGH).every((one) => one === "done");

/** Leaves `pages` of room while `work` runs. */
async function withRoom<T>(pages: number, work: () => PromiseLike<T>): Promise<T> {
  const path = join(mount, "filler"), fd = openSync(path, "w"), zeroes = Buffer.alloc(PAGE);
  try {
    // Monitors that end give and take some meanwhile.
    for (let i = 0; statfsSync(mount).bavail > pages; i++) writeSync(fd, zeroes, 0, PAGE, i * PAGE);
    return await work();
  } finally {
    ftruncateSync(fd, 0);
    closeSync(fd);
    rmSync(path);
  }
}

/** Deletes the instance, and closes: then nothing is left of it, but for layers that were merged, which keep their names for a while. */
async function leavesNothing(fixture: Fixture): Promise<void> {
  await remove(fixture, "one");
  await fixture.close(); // and with it the end of merges that were called off
  expect(generations(fixture)).toEqual([]);
  const next = await open(fixture.root);
  expect({ generations: generations(next), disks: disks(next) }).toEqual({ generations: [], disks: [] });
  await next.close();
}

const left = (fixture: Fixture) => ({
  instances: fixture.instances.list().map(({ name }) => name), names: fixture.instances.listSnapshots().map(({ name }) => name), generations: generations(fixture),
  folders: entries(fixture, "instances").sort(), snapshots: entries(fixture, "snapshots"),
});

test("standby with any little room: Running as before, or asleep whole; and the code says that the disk is full", async () => {
  const fixture = await fresh();
  await running(fixture, "one");
  await roomByRoom(async (pages) => {
    const kept = generations(fixture);
    const slept = await withRoom(pages, () => fixture.instances.standby("one"));
    expect({ pages, state: stateOf(fixture, "one"), monitors: monitorsIn(fixture.root).length }).toEqual(slept.isOk() ? { pages, state: "Standby", monitors: 0 } : { pages, state: "Running", monitors: 1 });
    if (slept.isErr()) expect({ pages, message: slept.error.message, left: generations(fixture) }).toEqual({ pages, message: expect.stringMatching(/^Cannot .*; the disk is full: free some space/), left: kept });
    else expect((await fixture.instances.restore("one"))._unsafeUnwrap().state).toBe("Running");
    return slept;
  });
  await leavesNothing(fixture);
}, 120_000);

test("restore with any little room: asleep as before, or awake", async () => {
  const fixture = await fresh();
  await running(fixture, "one");
  await roomByRoom(async (pages) => {
    (await fixture.instances.standby("one"))._unsafeUnwrap();
    const woken = await withRoom(pages, () => fixture.instances.restore("one"));
    expect({ pages, state: stateOf(fixture, "one"), monitors: monitorsIn(fixture.root).length }).toEqual(woken.isOk() ? { pages, state: "Running", monitors: 1 } : { pages, state: "Standby", monitors: 0 });
    if (woken.isErr()) expect((await fixture.instances.restore("one"))._unsafeUnwrap().state).toBe("Running");
    return woken;
  });
  await leavesNothing(fixture);
}, 120_000);

test("a snapshot given back with any little room: the instance runs on, or is asleep on the snapshot", async () => {
  const fixture = await fresh();
  await running(fixture, "one");
  (await fixture.instances.createSnapshot("one", { kind: "Standby", name: "kept", tags: {} }))._unsafeUnwrap();
  await roomByRoom(async (pages) => {
    const before = monitorsIn(fixture.root);
    const given = await withRoom(pages, () => fixture.instances.restoreSnapshot("one", "kept", "Standby"));
    expect({ pages, state: stateOf(fixture, "one"), monitors: monitorsIn(fixture.root) }).toEqual(given.isOk() ? { pages, state: "Standby", monitors: [] } : { pages, state: "Running", monitors: before });
    if (given.isOk()) expect((await fixture.instances.restore("one"))._unsafeUnwrap().state).toBe("Running");
    return given;
  });
  (await fixture.instances.removeSnapshot("kept"))._unsafeUnwrap();
  await leavesNothing(fixture);
}, 120_000);

for (const [what, state] of [["fork", "Running"], ["snapshot", "Running"], ["fork", "Standby"], ["snapshot", "Standby"], ["fork", "Stopped"]] as const)
  test(`${what} of an instance that is ${state} with any little room: whole, or nothing is left of it; the source is as before`, async () => {
    const fixture = await fresh();
    await running(fixture, "one");
    if (state === "Standby") (await fixture.instances.standby("one"))._unsafeUnwrap();
    if (state === "Stopped") (await fixture.instances.stop("one", { graceMs: 1000 }))._unsafeUnwrap();
    await roomByRoom<unknown>(async (pages) => {
      const before = left(fixture);
      const made = await withRoom(pages, async () =>
        what === "fork" ? fixture.instances.fork("one", { name: "two", fromRunning: true, targetState: state === "Running" ? "Standby" : state })
          : fixture.instances.createSnapshot("one", { kind: "Standby", name: "kept", tags: {} }));
      expect({ pages, state: stateOf(fixture, "one") }).toEqual({ pages, state });
      // To forget it takes some room too: what can't be done at once is done when there is some.
      if (made.isErr()) await until("what came to nothing to be forgotten", () => Bun.deepEquals(left(fixture), before), 10_000);
      else if (what === "fork") await remove(fixture, "two");
      else (await fixture.instances.removeSnapshot("kept"))._unsafeUnwrap();
      return made;
    });
    await leavesNothing(fixture);
  }, 120_000);

test("a daemon that can't start on a full disk says that it is full, and guests run on", async () => {
  const first = await fresh();
  await running(first, "one");
  await first.close();
  const refused = await withRoom(0, async () => openStore(join(first.root, "dormouse.db"), []));
  expect(refused._unsafeUnwrapErr().message).toContain("; free space on its disk");
  const next = await open(first.root);
  expect(stateOf(next, "one")).toBe("Running");
  await remove(next, "one");
  await next.close();
});
