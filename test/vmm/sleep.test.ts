// Save and restore over the control socket, between monitor processes: a tiny guest without an agent that counts by itself and by
// timer interrupts. What needs an agent is under test/guest and in agent.test.ts.
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monotonicMs } from "../../src/ffi/clock.ts";
import { processStart } from "../../src/ffi/process.ts";
import { openPoller, type Poller } from "../../src/host/poller.ts";
import { decodeMachine, encodeMachine } from "../../src/machine-state/saved-machine.ts";
import { command } from "../support/command.ts";
import { until } from "../support/until.ts";
import { fill, FILLED, MEMORY, Monitor, runs } from "./monitor.ts";

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
  const asked = monotonicMs(), { status, stepsMs, runsSinceMs } = (await second.restore([files], ["g1"]))._unsafeUnwrap();
  expect(status).toMatchObject({ state: "paused", bootedAt: first.statuses.find((one) => one.bootedAt !== null)!.bootedAt });
  expect(Object.values(stepsMs).every((ms) => ms >= 0)).toBe(true);
  expect(runsSinceMs).toBeGreaterThan(asked);
  expect(runsSinceMs).toBeLessThan(monotonicMs());
  expect(second.loop).toBeGreaterThanOrEqual(loop);
  expect(second.ticks).toBeGreaterThanOrEqual(ticks);
  expect(second.word(FILLED + 299 * 4096)).toBe(filled);
  expect((await second.client.request("release", null))._unsafeUnwrap().state).toBe("initializing");
  await runs(second);
}, 120_000);

test("a second save writes what was touched since, and a chain of both is the machine", async () => {
  const first = await ticking();
  await fill(first, 500);
  const [g1, g2, g3] = [generation(), generation(), generation()];
  (await first.save(g1, { id: "g1", base: null }))._unsafeUnwrap();
  await first.end();

  const second = monitor();
  (await second.restore([g1], ["g1"]))._unsafeUnwrap();
  (await second.client.request("release", null))._unsafeUnwrap();
  await fill(second, 100);
  await fill(second, -1);
  const touched = 100 * 4096;
  expect((await second.save(generation(), { id: "g2", base: "g0" }))._unsafeUnwrapErr().message).toContain("its memory is g1's");
  const delta = (await second.save(g2, { id: "g2", base: "g1" }))._unsafeUnwrap();
  expect(delta.dataBytes).toBeGreaterThanOrEqual(touched - 4096);
  expect(delta.dataBytes).toBeLessThan(1.1 * touched + 2 ** 20);
  expect(delta.zeroPages).toBe(1);
  const words = [0, 1, 99, 100, 499].map((page) => second.word(FILLED + page * 4096));
  await second.end();

  const third = monitor();
  (await third.restore([g2, g1], ["g2", "g1"]))._unsafeUnwrap();
  expect([0, 1, 99, 100, 499].map((page) => third.word(FILLED + page * 4096))).toEqual(words);
  expect(words[0]).toBe(0n);
  (await third.client.request("release", null))._unsafeUnwrap();
  await runs(third);
  // Over nothing again: all of it, wherever it lay.
  const whole = (await third.save(g3, { id: "g3", base: null }))._unsafeUnwrap();
  expect(whole.dataBytes).toBeGreaterThanOrEqual(499 * 4096);
  await third.end();
  const fourth = monitor();
  (await fourth.restore([g3], ["g3"]))._unsafeUnwrap();
  expect([0, 1, 99, 100, 499].map((page) => fourth.word(FILLED + page * 4096))).toEqual(words);
}, 120_000);

test("after a save the guest can go on, and can be saved again as what its memory is mapped from", async () => {
  const one = await ticking();
  (await one.save(generation(), { id: "g1", base: null }))._unsafeUnwrap();
  expect((await one.save(generation(), { id: "g2", base: null }))._unsafeUnwrapErr().message).toContain("it is saved");
  expect((await one.client.request("resume", null))._unsafeUnwrap().state).toBe("initializing");
  await runs(one);
  expect((await one.save(generation(), { id: "g2", base: "g1" }))._unsafeUnwrapErr().message).toContain("its memory is nobody's");
  (await one.save(generation(), { id: "g2", base: null }))._unsafeUnwrap();
  expect(one.deaf).toBe(2);
}, 120_000);

test("cancelSave calls a save off, resume does too, and the guest goes on", async () => {
  const one = await ticking();
  for (const method of ["cancelSave", "resume"] as const) {
    process.kill(one.pid, "SIGSTOP"); // it hears of both at once, and has no time to be done with the first
    const saving = one.save(generation(), { id: "g1", base: null });
    const called = one.client.request(method, null);
    process.kill(one.pid, "SIGCONT");
    expect((await saving)._unsafeUnwrapErr().message).toBe("Cannot save the machine: it was called off");
    expect((await called).isOk()).toBe(true);
    await runs(one);
    expect(one.statuses.at(-1)!.state).toBe("initializing");
  }
  expect((await one.client.request("cancelSave", null))._unsafeUnwrap()).toBeNull();
}, 120_000);

test("saves that come to nothing leave no memory mapped and no descriptor open", async () => {
  const one = await ticking(), held = () => ({ mappings: readFileSync(`/proc/${one.pid}/maps`, "utf8").split("\n").length, fds: readdirSync(`/proc/${one.pid}/fd`).length });
  const saveAndGoOn = async (times: number) => {
    for (let i = 0; i < times; i++) {
      (await one.save(generation(), { id: "g1", base: null }))._unsafeUnwrap();
      (await one.client.request("resume", null))._unsafeUnwrap();
    }
    return held();
  };
  const saves = 20, first = await saveAndGoOn(2), last = await saveAndGoOn(saves);
  expect(last.fds).toBe(first.fds);
  expect(last.mappings - first.mappings).toBeLessThan(saves); // the engine's heap may have grown by a few
}, 120_000);

test("memory beyond the 32-bit hole, in thousands of scattered pages, comes back page by page, and so do its deltas", async () => {
  const memoryBytes = 5 * 2 ** 30, change = { memoryBytes };
  // Every third page of the last 96 MiB, and some on each side of 2 and 4 GiB: more runs than a machine may have mappings, so they are joined.
  const offsets = [2 ** 31 - 4096, 2 ** 31, 2 ** 32 - 4096, 2 ** 32, ...Array.from({ length: 8000 }, (_, i) => memoryBytes - 96 * 2 ** 20 + i * 3 * 4096)];
  const first = monitor();
  await first.boot("ticker", change);
  await runs(first);
  offsets.forEach((offset, i) => first.poke(offset, BigInt(i + 1)));
  const [g1, g2] = [generation(), generation()];
  (await first.save(g1, { id: "g1", base: null }))._unsafeUnwrap();
  await first.end();
  const second = monitor();
  (await second.restore([g1], ["g1"], change))._unsafeUnwrap();
  (await second.client.request("release", null))._unsafeUnwrap();
  expect(offsets.filter((offset, i) => second.word(offset) !== BigInt(i + 1))).toEqual([]);
  offsets.forEach((offset, i) => { if (i % 2 === 0) second.poke(offset, BigInt(i) << 32n); });
  (await second.save(g2, { id: "g2", base: "g1" }))._unsafeUnwrap();
  await second.end();
  const third = monitor();
  (await third.restore([g2, g1], ["g2", "g1"], change))._unsafeUnwrap();
  (await third.client.request("release", null))._unsafeUnwrap();
  await runs(third);
  expect(offsets.filter((offset, i) => third.word(offset) !== (i % 2 === 0 ? BigInt(i) << 32n : BigInt(i + 1)))).toEqual([]);
  const mappings = readFileSync(`/proc/${third.pid}/maps`, "latin1").split("\n").filter((line) => line.includes("generation-")).length;
  expect(mappings).toBeGreaterThan(0);
  expect(mappings).toBeLessThanOrEqual(4096);
}, 120_000);

test("a save that finds no room fails whole, and the guest goes on", async () => {
  const one = await ticking();
  await fill(one, 1000);
  const small = generation();
  mkdirSync(small);
  await command(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small]);
  try {
    expect((await one.save(small, { id: "g1", base: null }))._unsafeUnwrapErr().message).toBe("Cannot save the machine: cannot write guest memory: ENOSPC");
  } finally {
    await command(["umount", small]);
  }
  await runs(one);
  (await one.save(generation(), { id: "g1", base: null }))._unsafeUnwrap();
}, 120_000);

test("a daemon that goes away during a save leaves the guest running", async () => {
  const one = await ticking();
  await fill(one, 5000);
  const saving = one.save(generation(), { id: "g1", base: null });
  one.client.close();
  expect((await saving).isErr()).toBe(true);
  await runs(one);
}, 120_000);

test("what is damaged, another machine's or another host's is refused by name, and the monitor ends", async () => {
  const first = await ticking();
  const files = generation();
  (await first.save(files, { id: "g1", base: null }))._unsafeUnwrap();
  await first.end();
  const whole = readFileSync(join(files, "machine"));
  const refused = async (change: Parameters<Monitor["restore"]>[2], ids: readonly string[] = ["g1"]) => {
    const one = monitor();
    const { message } = (await one.restore([files], ids, change))._unsafeUnwrapErr();
    await until("the monitor's end", () => one.closed !== "" && one.statuses.at(-1)?.state === "ended");
    return message;
  };
  const damage = async (bytes: Uint8Array) => {
    writeFileSync(join(files, "machine"), bytes);
    return refused({});
  };
  expect(await damage(whole.subarray(0, whole.length - 10))).toMatch(/^snapshot\.damaged: .*\(truncated\)$/);
  expect(await damage(Buffer.from(whole).fill(0x55, 5000, 5001))).toMatch(/^snapshot\.damaged: .*\(corrupted\)$/);
  expect(await damage(Buffer.from("not a saved machine, though a file of some length that is there"))).toMatch(/^snapshot\.damaged: .*\(foreign\)$/);
  expect(await damage(Buffer.from(whole).fill(9, 8, 9))).toMatch(/^snapshot\.incompatible: .*version 9.*\(newer\)$/);
  const strange = decodeMachine(whole);
  expect(await damage(encodeMachine({ ...strange, cpu: { ...strange.cpu, words: { ...strange.cpu.words, "0x7.0.ebx": 0xffff_ffff } } }))).toMatch(/^snapshot\.incompatible: .*lacks CPUID 0x7\.0\.ebx bit/);
  writeFileSync(join(files, "machine"), whole);
  expect(await refused({}, ["g9"])).toContain("(foreign)");
  expect(await refused({ memoryBytes: 2 * MEMORY })).toMatch(/^snapshot\.incompatible: /);
  expect(await refused({ vcpus: 2 })).toMatch(/^snapshot\.incompatible: /);
  expect(await refused({ xsave: false })).toMatch(/^snapshot\.incompatible: .*XSAVE/);
  expect(await refused({ disks: [] })).toMatch(/^snapshot\.incompatible: /);
  truncateSync(join(files, "memory"), MEMORY - 4096);
  expect(await refused({})).toMatch(/^snapshot\.damaged: .*memory.*\(truncated\)$/);
  truncateSync(join(files, "memory"), MEMORY);
  const sound = monitor();
  (await sound.restore([files], ["g1"]))._unsafeUnwrap();
  (await sound.client.request("resume", null))._unsafeUnwrap(); // a daemon that adopts it knows no better
  await runs(sound);
}, 120_000);

test("a machine is loaded once, and restored only then; a daemon that goes away before that leaves no monitor", async () => {
  const first = await ticking();
  const files = generation();
  (await first.save(files, { id: "g1", base: null }))._unsafeUnwrap();
  await first.end();
  const second = monitor();
  const early = await second.client.request("restore", { disks: [], identity: { hostname: "box" }, deadlineMs: 10_000 });
  expect(early._unsafeUnwrapErr().message).toContain("no saved machine was loaded");
  (await second.load([files], { generations: ["g1"] }))._unsafeUnwrap();
  expect((await second.load([files], { generations: ["g1"] }))._unsafeUnwrapErr().message).toContain("already");
  expect((await second.prepare(MEMORY, 1))._unsafeUnwrapErr().message).toContain("already");
  expect(second.closed).toBe("");
  second.client.close();
  await until("the monitor's end", () => processStart(second.pid) === null);
}, 120_000);

test("a guest that resets itself ends after a wake as ever", async () => {
  const first = await ticking();
  const files = generation();
  (await first.save(files, { id: "g1", base: null }))._unsafeUnwrap();
  const second = monitor();
  (await second.restore([files], ["g1"]))._unsafeUnwrap();
  (await second.client.request("release", null))._unsafeUnwrap();
  await runs(second);
  second.order(-2);
  await until("the end", () => second.statuses.at(-1)?.reason === "reset");
}, 120_000);
