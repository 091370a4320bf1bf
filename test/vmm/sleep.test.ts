// Save and restore over the control socket, between monitor processes: a tiny guest without an agent that counts by itself and by
// timer interrupts. What needs an agent is under test/guest and in agent.test.ts.
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openPoller, type Poller } from "../../src/host/poller.ts";
import { until } from "../support/until.ts";
import { FILLED, MEMORY, Monitor } from "./monitor.ts";

let poller: Poller, dir: string, count = 0;
const monitors: Monitor[] = [];
beforeAll(() => {
  poller = openPoller();
  dir = mkdtempSync(join(tmpdir(), "dormouse-sleep-"));
});
afterEach(async () => {
  for (const one of monitors.splice(0)) await one.end();
});
afterAll(async () => {
  await poller.close();
  rmSync(dir, { recursive: true, force: true });
});

function monitor(): Monitor {
  const one = Monitor.start(join(dir, `monitor-${++count}`), poller);
  monitors.push(one);
  return one;
}
const generation = () => join(dir, `generation-${++count}`);
async function ticking(): Promise<Monitor> {
  const one = monitor();
  await one.boot("ticker");
  await runs(one);
  return one;
}
/** It counts on, in its loop and by its timer. */
async function runs(one: Monitor): Promise<void> {
  const [loop, ticks] = await until("the guest's memory", () => [one.loop, one.ticks] as const);
  await until("the guest to count", () => one.loop > loop && one.ticks > ticks + 2);
}
async function fill(one: Monitor, pages: number): Promise<void> {
  const before = one.orders;
  one.order(pages);
  await until("the order", () => one.orders > before);
}
const onDisk = (folder: string) => statSync(join(folder, "memory")).blocks * 512;

test("a guest goes on in another monitor where it was, by its loop and by its timer", async () => {
  const first = await ticking();
  await fill(first, 300);
  const files = generation();
  const saved = (await first.save(files, { id: "g1", base: null }))._unsafeUnwrap();
  expect(first.deaf).toBe(1);
  expect(first.statuses.at(-1)!.state).toBe("paused");
  const [loop, ticks, filled] = [first.loop, first.ticks, first.word(FILLED + 299 * 4096)];
  expect(first.loop).toBe(loop);
  expect(saved.dataBytes).toBeGreaterThan(300 * 4096);
  expect(saved.dataBytes).toBeLessThan(300 * 4096 + 2 ** 20);
  expect(onDisk(files)).toBeLessThan(saved.dataBytes + 2 ** 20);
  expect(statSync(join(files, "memory")).size).toBe(MEMORY);
  await first.end();

  const second = monitor();
  const { status, stepsMs } = (await second.restore([files], ["g1"]))._unsafeUnwrap();
  expect(status).toMatchObject({ state: "paused", bootedAt: first.statuses.find((one) => one.bootedAt !== null)!.bootedAt });
  expect(Object.values(stepsMs).every((ms) => ms >= 0)).toBe(true);
  expect(second.loop).toBeGreaterThanOrEqual(loop);
  expect(second.ticks).toBeGreaterThanOrEqual(ticks);
  expect(second.word(FILLED + 299 * 4096)).toBe(filled);
  expect((await second.client.request("release", null))._unsafeUnwrap().state).toBe("initializing");
  await runs(second);
}, 120_000);
