// Standby and restore with the daemon or the monitor killed at every step: what the next daemon finds is the instance as it was,
// or as it was to be; never an older machine, never half of one, and nothing left over.
import { afterAll, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { SLEEP_STEPS, type SleepStep } from "../../../src/host/instances/context.ts";
import type { InstanceState } from "../../../src/host/instances/service.ts";
import { until } from "../../support/until.ts";
import { freshRoot, monitorsIn, never, open, removeRoots, request } from "./fixture.ts";

afterAll(removeRoots);

type Victim = "daemon" | "monitor";
const STANDBY: readonly SleepStep[] = ["begun", "deaf", "saved", "asleep", "ended"];
const RESTORE: readonly SleepStep[] = ["started", "acknowledged", "awake", "released"];
test("every step is walked through", () => expect([...STANDBY, ...RESTORE]).toEqual([...SLEEP_STEPS]));

/** Has a daemon of its own do `verb` to `one` until `victim` dies at `step`; the daemon is gone afterwards. */
async function dieAt(root: string, verb: "standby" | "restore", step: SleepStep, victim: Victim): Promise<void> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "daemon.ts"), root, verb, "one", step, victim], { stdout: "pipe", stderr: "inherit" });
  const said = await child.stdout.getReader().read();
  expect(said.done).toBe(victim === "daemon");
  child.kill("SIGKILL");
  await child.exited;
}

async function prepared(asleep: boolean, cmd: readonly string[] = ["serve"]): Promise<string> {
  const first = await open(freshRoot());
  (await first.instances.create(request("one", cmd)))._unsafeUnwrap();
  (await first.instances.wait("one", "Running", 20_000, never()))._unsafeUnwrap();
  if (asleep) (await first.instances.standby("one"))._unsafeUnwrap();
  await first.close();
  return first.root;
}

/** What a new daemon makes of it once it has come to rest; afterwards it can be brought to Running, whatever it is, and deleted without a trace. */
async function settled(root: string): Promise<Found> {
  const next = await open(root);
  const { state } = next.instances.get("one")._unsafeUnwrap();
  const found = { state, monitors: monitorsIn(root).length, generations: readdirSync(join(root, "memory")).length };
  if (state === "Standby") (await next.instances.restore("one"))._unsafeUnwrap();
  if (state === "Stopped") (await next.instances.start("one", {}))._unsafeUnwrap();
  (await next.instances.wait("one", "Running", 20_000, never()))._unsafeUnwrap();
  (await next.instances.remove("one", { graceful: false }))._unsafeUnwrap();
  expect({ monitors: monitorsIn(root), generations: readdirSync(join(root, "memory")) }).toEqual({ monitors: [], generations: [] });
  await next.close();
  return found;
}

interface Found { readonly state: InstanceState; readonly monitors: number; readonly generations: number }
const RUNNING: Found = { state: "Running", monitors: 1, generations: 0 };
const OVER_ONE: Found = { state: "Running", monitors: 1, generations: 1 };
const ASLEEP: Found = { state: "Standby", monitors: 0, generations: 1 };
const STOPPED: Found = { state: "Stopped", monitors: 0, generations: 0 };

for (const [step, after] of [["begun", RUNNING], ["deaf", RUNNING], ["saved", RUNNING], ["asleep", ASLEEP], ["ended", ASLEEP]] as const)
  test(`standby: the daemon is killed once it is ${step}`, async () => {
    const root = await prepared(false);
    await dieAt(root, "standby", step, "daemon");
    expect(await settled(root)).toEqual(after);
  });

for (const [step, after] of [["begun", STOPPED], ["deaf", STOPPED], ["asleep", ASLEEP]] as const)
  test(`standby: the monitor is killed once it is ${step}`, async () => {
    // Before the monitor has answered, it must not be done with it.
    const root = await prepared(false, step === "asleep" ? ["serve"] : ["save-slowly", "60000"]);
    await dieAt(root, "standby", step, "monitor");
    await until("no monitor", () => monitorsIn(root).length === 0);
    expect(await settled(root)).toEqual(after);
  });

for (const [step, after] of [["started", ASLEEP], ["acknowledged", ASLEEP], ["awake", OVER_ONE], ["released", OVER_ONE]] as const)
  test(`restore: the daemon is killed once it is ${step}`, async () => {
    const root = await prepared(true);
    await dieAt(root, "restore", step, "daemon");
    expect(await settled(root)).toEqual(after);
  });

for (const [step, after] of [["started", ASLEEP], ["awake", STOPPED], ["released", STOPPED]] as const)
  test(`restore: the monitor is killed once it is ${step}`, async () => {
    const root = await prepared(true);
    await dieAt(root, "restore", step, "monitor");
    await until("no monitor", () => monitorsIn(root).length === 0);
    expect(await settled(root)).toEqual(after);
  });
