// Standby and restore under load: nothing that runs in a guest notices, but for the time that has passed.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { MERGE_AT } from "../../src/host/snapshots/merging/plan.ts";
import { Site } from "../support/site.ts";
import { Soak, type SoakState } from "../support/soak.ts";
import { until } from "../support/until.ts";

const LONG = process.env["DORMOUSE_LONG"] === "1";
const CYCLES = LONG ? 500 : 50;
/** Some four times what a cycle takes. */
const CYCLES_LIMIT_MS = CYCLES * 25_000;
const LIMIT_MS = 300_000;
/** By how much a woken guest's clock may be off. */
const CLOCK_MS = 50;
/** How long a timer takes that is to fall due while its guest sleeps. */
const DUE_MS = 1000;
const LONG_SLEEP_MS = 120_000;
const CLOCKS = ["realtime", "monotonic", "boottime"] as const;

interface Sleeper { readonly name: string; readonly soak: Soak; /** Timers that were set. */ readonly armed: string[] }

let site: Site;
beforeAll(async () => {
  site = await Site.start(["soak"]);
}, 300_000);
afterAll(async () => {
  await site?.[Symbol.asyncDispose]();
}, 300_000);

const monitorRuns = async (ref: string) => existsSync(join("/sys/fs/cgroup/dormouse", (await site.get(ref)).id));
/** A folder for each saved machine that is kept apart. */
const savedMachines = () => readdirSync(join(site.daemon.dataDir, "memory")).filter((name) => !name.startsWith("."));

async function booted(name: string, vcpus: number): Promise<Sleeper> {
  const { network } = await site.boot(name, "soak", { vcpus });
  const soak = new Soak(network!.ip!);
  await soak.ready();
  return { name, soak, armed: [] };
}

/** One timer of each clock, which fall due while the guest sleeps or after it. Resolves once the host's clock is past them. */
async function fallAsleep({ name, soak, armed }: Sleeper): Promise<void> {
  const turn = armed.length / CLOCKS.length;
  for (const clock of CLOCKS) {
    armed.push(`${clock}-${turn}`);
    await soak.arm(armed.at(-1)!, clock, DUE_MS);
  }
  const due = Date.now() + DUE_MS;
  await site.verb(name, "standby");
  await until("the monitor's end", async () => !(await monitorRuns(name)));
  await until("the timers' time", () => Date.now() > due);
  expect(await site.get(name)).toMatchObject({ state: "Standby", has_snapshot: true });
}

/** Every timer that was armed has fired, and none twice. */
async function firedOnce({ soak, armed }: Sleeper): Promise<void> {
  const timers = await until("the timers", async () => {
    const now = await soak.timers();
    return Object.values(now).every((fired) => fired.length > 0) ? now : null;
  });
  expect(Object.keys(timers).sort()).toEqual(armed.toSorted());
  expect(Object.entries(timers).filter(([, fired]) => fired.length !== 1)).toEqual([]);
}

/** All memory and the whole file are as they were left. */
async function checked({ soak }: Sleeper): Promise<void> {
  expect((await soak.check()).errors).toEqual([]);
}

async function wake({ name, soak }: Sleeper): Promise<void> {
  await site.verb(name, "restore");
  expect(Math.abs(await soak.clockError())).toBeLessThanOrEqual(CLOCK_MS);
}

async function restartDaemon(): Promise<void> {
  await site.daemon.stop("SIGKILL");
  await site.daemon.start();
}

/**
 * What else happens in some of the cycles: the daemon's death must make no difference to guests that sleep, or that run on a saved machine's
 * memory; nor must it that chains are merged. Elsewhere guests wake at once, which mostly calls a merge off: by MERGED their chains
 * would have seven and more saved machines each. What is too short to be merged, and the one of the long sleep, are seven together at most.
 */
const DEATH_ASLEEP = 1, DEATH_AWAKE = 3, MERGED = 6;
const EVERY = 24;
const merged = () => until("the chains to be merged", () => savedMachines().length < 2 * MERGE_AT);

async function cycle(sleepers: readonly Sleeper[], number: number): Promise<void> {
  const before = await Promise.all(sleepers.map(({ soak }) => soak.state()));
  await Promise.all(sleepers.map(fallAsleep));
  if (number % EVERY === DEATH_ASLEEP) await restartDaemon();
  if (number % EVERY === MERGED) await merged();
  // Together, on processors that they share: each hears late what it is told, and its clock must be right all the same.
  await Promise.all(sleepers.map(wake));
  if (number % EVERY === DEATH_AWAKE) await restartDaemon();
  await Promise.all(sleepers.map(({ soak }, i) => soak.goesOnFrom(before[i]!)));
  if (number % EVERY === MERGED) await Promise.all(sleepers.map(checked));
}

let one: Sleeper, four: Sleeper, longest: Sleeper;
let bedtime: number, before: SoakState;

test("a guest is put to sleep for minutes", async () => {
  longest = await booted("longest", 1);
  before = await longest.soak.state();
  await fallAsleep(longest);
  bedtime = Date.now();
}, LIMIT_MS);

test(`${CYCLES} sleeps under load lose nothing, with one vCPU and with four`, async () => {
  const sleepers = [one, four] = [await booted("one", 1), await booted("four", 4)];
  for (let number = 0; number < CYCLES; number++) await cycle(sleepers, number);
  await Promise.all(sleepers.map(firedOnce));
  await Promise.all(sleepers.map(checked));
}, CYCLES_LIMIT_MS);

test("a sleep of minutes is nothing else, whatever became of the daemon meanwhile", async () => {
  await until("minutes to be over", () => Date.now() - bedtime > LONG_SLEEP_MS);
  await wake(longest);
  await longest.soak.goesOnFrom(before);
  await firedOnce(longest);
  await checked(longest);
}, LIMIT_MS);

test("what does not fit its state is refused, and the same verb is joined", async () => {
  expect(await site.refused("POST", "/instances/one/restore")).toMatchObject({ status: 409, code: "invalid_state" });
  const before = await one.soak.state();
  const [once, twice] = await Promise.all([site.verb("one", "standby"), site.verb("one", "standby")]);
  expect(twice.id).toBe(once.id);
  expect(await site.refused("POST", "/instances/one/standby")).toMatchObject({ status: 409, code: "invalid_state" });
  await Promise.all(Array.from({ length: 20 }, () => site.verb("one", "restore")));
  await one.soak.goesOnFrom(before);
}, LIMIT_MS);

test("a sleeping instance that is stopped or deleted leaves nothing asleep", async () => {
  await site.verb("one", "standby");
  await site.remove("one", "four", "longest");
  expect(await site.daemon.api("GET", "/instances")).toEqual([]);
}, LIMIT_MS);
