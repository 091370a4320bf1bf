// Standby and restore under load: nothing that runs in a guest notices, but for the time that has passed.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Site } from "../support/site.ts";
import { Soak } from "../support/soak.ts";
import { until } from "../support/until.ts";

const LONG = process.env["DORMOUSE_LONG"] === "1";
const CYCLES = LONG ? 50 : 5;
const LIMIT_MS = LONG ? 3_600_000 : 300_000;
/** By how much a woken guest's clock may be off. */
const CLOCK_MS = 50;
/** How long a timer takes that is to fall due while its guest sleeps. */
const DUE_MS = 1000;

let site: Site;
beforeAll(async () => {
  site = await Site.start(["soak"]);
}, 300_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
}, 300_000);

const monitorRuns = async (ref: string) => existsSync(join("/sys/fs/cgroup/dormouse", (await site.get(ref)).id));

async function booted(name: string, vcpus: number): Promise<Soak> {
  const { network } = await site.boot(name, "soak", { vcpus });
  const soak = new Soak(network!.ip!);
  await soak.ready();
  return soak;
}

/** One timer of each clock, which fall due while the guest sleeps or after it. Resolves once the host's clock is past them. */
async function fallAsleep(name: string, soak: Soak, cycle: number, standby: () => Promise<unknown>): Promise<void> {
  for (const clock of ["realtime", "monotonic", "boottime"] as const) await soak.arm(`${clock}-${cycle}`, clock, DUE_MS);
  const due = Date.now() + DUE_MS;
  await standby();
  await until("the monitor's end", async () => !(await monitorRuns(name)));
  await until("the timers' time", () => Date.now() > due);
}

/** Every timer that was armed has fired, and none twice. */
async function firedOnce(soak: Soak, cycles: number): Promise<void> {
  const names = Array.from({ length: cycles }, (_, cycle) => ["realtime", "monotonic", "boottime"].map((clock) => `${clock}-${cycle}`)).flat().sort();
  const timers = await until("the timers", async () => {
    const now = await soak.timers();
    return Object.values(now).every((fired) => fired.length > 0) ? now : null;
  });
  expect(Object.keys(timers).sort()).toEqual(names);
  expect(Object.entries(timers).filter(([, fired]) => fired.length !== 1)).toEqual([]);
}

async function wake(name: string, soak: Soak): Promise<void> {
  await site.verb(name, "restore");
  expect(Math.abs(await soak.clockError())).toBeLessThanOrEqual(CLOCK_MS);
}

/** What else happens in a cycle: the daemon's death must make no difference to a guest that sleeps, or that runs on a saved machine's memory. */
const deaths: Readonly<Record<number, "asleep" | "awake">> = { 1: "asleep", 3: "awake" };
async function restartDaemon(): Promise<void> {
  await site.daemon.stop("SIGKILL");
  await site.daemon.start();
}

async function sleepAndWake(name: string, vcpus: number): Promise<Soak> {
  const soak = await booted(name, vcpus);
  for (let cycle = 0; cycle < CYCLES; cycle++) {
    const before = await soak.state();
    await fallAsleep(name, soak, cycle, () => site.verb(name, "standby"));
    if (deaths[cycle] === "asleep") await restartDaemon();
    expect(await site.get(name)).toMatchObject({ state: "Standby", has_snapshot: true });
    await wake(name, soak);
    if (deaths[cycle] === "awake") await restartDaemon();
    await soak.goesOnFrom(before);
  }
  await firedOnce(soak, CYCLES);
  expect((await soak.check()).errors).toEqual([]);
  return soak;
}

let first: Soak;
let slept: number;

test(`${CYCLES} sleeps under load lose nothing, with one vCPU`, async () => {
  first = await sleepAndWake("one", 1);
  await site.verb("one", "standby");
  slept = Date.now();
}, LIMIT_MS);

test(`${CYCLES} sleeps under load lose nothing, with four vCPUs`, async () => {
  await sleepAndWake("four", 4);
  await site.remove("four");
}, LIMIT_MS);

test("a long sleep is nothing else, and the first machine still has all that it had", async () => {
  expect(await site.get("one")).toMatchObject({ state: "Standby" });
  expect(Date.now() - slept).toBeGreaterThan(10_000); // the test before this one takes longer
  await wake("one", first);
  expect((await first.check()).errors).toEqual([]);
}, LIMIT_MS);

test("what does not fit its state is refused, and the same verb is joined", async () => {
  expect(await site.refused("POST", "/instances/one/restore")).toMatchObject({ status: 409, code: "invalid_state" });
  const before = await first.state();
  const [once, twice] = await Promise.all([site.verb("one", "standby"), site.verb("one", "standby")]);
  expect(twice.id).toBe(once.id);
  expect(await site.refused("POST", "/instances/one/standby")).toMatchObject({ status: 409, code: "invalid_state" });
  await Promise.all(Array.from({ length: 20 }, () => site.verb("one", "restore")));
  await first.goesOnFrom(before);
}, LIMIT_MS);

test("a sleeping instance that is stopped or deleted leaves nothing asleep", async () => {
  await site.verb("one", "standby");
  await site.remove("one");
  expect(await site.daemon.api("GET", "/instances")).toEqual([]);
}, LIMIT_MS);
