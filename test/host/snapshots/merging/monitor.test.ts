// Real monitors over a chain that is merged: a tiny guest sleeps and wakes five times, the sixth time from the merged one; what it saves
// next is a delta over it.
import { afterAll, expect, test } from "bun:test";
import { openPoller } from "../../../../src/host/poller.ts";
import { TempDir } from "../../../support/paths.ts";
import { fill, FILLED, Monitor, runs } from "../../../vmm/monitor.ts";
import { World } from "./world.ts";

const poller = openPoller(), dir = new TempDir("merging"), monitors: Monitor[] = [];
afterAll(async () => {
  for (const one of monitors) await one.end();
  await poller.close();
  dir[Symbol.dispose]();
});

const monitor = () => {
  const one = Monitor.start(dir.join(`monitor-${monitors.length}`), poller);
  monitors.push(one);
  return one;
};

const words = (one: Monitor) => [0, 1, 9, 10, 99, 199, 299, 300].map((page) => one.word(FILLED + page * 4096));

/** As a standby has it: saved over what it runs over, on record as what it sleeps on, ended. */
async function sleep(world: World, one: Monitor, over: string | null): Promise<string> {
  const { id, baseId } = world.generations.begin(over)._unsafeUnwrap();
  const { dataBytes } = (await one.save(world.generations.paths(id).dir, { id, base: baseId }))._unsafeUnwrap();
  world.generations.ready(id, dataBytes);
  world.store.db.query("UPDATE instances SET saved_generation = ?").run(id);
  await one.end();
  return id;
}

async function wake(world: World, id: string): Promise<Monitor> {
  const one = monitor(), letGo = world.merger.hold(id);
  (await one.restore(world.chainPaths(id).map((paths) => paths.dir), world.generations.chainIds(id)))._unsafeUnwrap();
  letGo();
  return one;
}

test("a guest wakes from a merged chain as it fell asleep, and its next save is a delta over that", async () => {
  const world = new World(dir.path);
  let one = monitor();
  await one.boot("ticker");
  await runs(one);
  await fill(one, 300);
  let saved = await sleep(world, one, null);
  world.need("saved", saved);
  for (const order of [200, 100, -1, 10]) {
    one = await wake(world, saved);
    (await one.client.request("release", null))._unsafeUnwrap();
    await runs(one);
    await fill(one, order);
    saved = await sleep(world, one, saved);
  }
  one = await wake(world, saved);
  const before = words(one);
  await one.end();
  expect(world.depth(saved)).toBe(5);
  world.merger.want(saved);
  await world.merger.idle();
  expect([world.failures, world.ids(), world.folders().found.length]).toEqual([[], [saved], 1]);

  one = await wake(world, saved);
  expect(words(one)).toEqual(before);
  (await one.client.request("release", null))._unsafeUnwrap();
  await runs(one);
  await fill(one, 1);
  const after = words(one), next = await sleep(world, one, saved);
  expect(world.generations.find(next)!.baseId).toBe(saved);
  expect(world.generations.find(next)!.dataBytes).toBeLessThan(world.generations.find(saved)!.dataBytes / 2);
  one = await wake(world, next);
  expect(words(one)).toEqual(after);
  (await one.client.request("release", null))._unsafeUnwrap();
  await runs(one);
  await world.close();
}, 120_000);
