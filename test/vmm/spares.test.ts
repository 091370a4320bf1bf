// What a monitor made ahead serves a guest as well as what is made when it is asked for, and one of another size too.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { openPoller, type Poller } from "../../src/host/poller.ts";
import { TempDir } from "../support/paths.ts";
import { until } from "../support/until.ts";
import { MEMORY, Monitor } from "./monitor.ts";

let poller: Poller, dir: TempDir, count = 0;
const monitors: Monitor[] = [];
beforeAll(() => {
  poller = openPoller();
  dir = new TempDir("spares");
});
afterAll(async () => {
  for (const one of monitors) await one.end();
  await poller.close();
  dir[Symbol.dispose]();
});

function monitor(): Monitor {
  const one = Monitor.start(dir.join(`monitor-${++count}`), poller);
  monitors.push(one);
  return one;
}

for (const [kind, memoryBytes, vcpus] of [["of its size", MEMORY, 1], ["larger and with more vCPUs", 5 * 2 ** 30, 4], ["larger", 2 * MEMORY, 1]] as const)
  test(`a guest boots, sleeps and wakes in monitors that prepared for one ${kind}`, async () => {
    const first = monitor();
    (await first.prepare(memoryBytes, vcpus))._unsafeUnwrap();
    expect((await first.prepare(memoryBytes, vcpus))._unsafeUnwrapErr().message).toContain("prepared already");
    await first.boot("ticker");
    await until("the guest to count", () => first.ticks > 2);
    const files = dir.join(`generation-${count}`);
    (await first.save(files, { id: "g1", base: null }))._unsafeUnwrap();
    const { loop, ticks } = first;
    const second = monitor();
    (await second.prepare(memoryBytes, vcpus))._unsafeUnwrap();
    (await second.restore([files], ["g1"]))._unsafeUnwrap();
    (await second.client.request("release", null))._unsafeUnwrap();
    await until("the guest to go on", () => second.loop > loop && second.ticks > ticks);
    expect((await second.prepare(memoryBytes, vcpus))._unsafeUnwrapErr().message).toContain("prepared already");
  }, 120_000);

test("what can't be prepared is refused, and the monitor serves all the same", async () => {
  const one = monitor();
  expect((await one.prepare(MEMORY + 1, 1))._unsafeUnwrapErr().message).toContain("whole MiB");
  expect((await one.prepare(MEMORY, 0))._unsafeUnwrapErr().message).toContain("vcpus");
  await one.boot("ticker");
  await until("the guest to count", () => one.ticks > 2);
}, 120_000);
