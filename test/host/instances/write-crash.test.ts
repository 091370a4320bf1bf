// Verbs of sleep, forks and snapshots with the daemon killed before every statement that changes the database: the next daemon finds the source as it
// was, and what was being made whole or not at all; and all of it goes without a trace.
import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import type { SnapshotKind } from "../../../src/host/snapshots/service.ts";
import { until } from "../../support/until.ts";
import { freshRoot, monitorsIn, open, removeRoots, type Fixture } from "./fixture.ts";
import { disks, entries, generations, remove, running, stateOf } from "./sleeping.ts";

afterAll(removeRoots);
const VERBS = ["fork", "snapshot", "give-back", "give-back-disk", "fork-snapshot", "drop", "standby", "restore"] as const;
type Verb = (typeof VERBS)[number];

/** Has a daemon of its own do `verb` until it dies before its `nth` write, or as it is to end a monitor; false where it comes to no such thing. */
async function dieAt(root: string, nth: number | "kill", verb: Verb): Promise<boolean> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "daemon.ts"), root, "write", String(nth), verb], { stdout: "pipe", stderr: "inherit" });
  const said = await child.stdout.getReader().read();
  child.kill("SIGKILL");
  await child.exited;
  return said.done;
}

/** The kind of the snapshot that it needs. */
const KINDS: Partial<Record<Verb, SnapshotKind>> = { "give-back": "Standby", "give-back-disk": "Stopped", "fork-snapshot": "Standby", drop: "Standby" };

const VOLUME = { volumeId: "data", mountPath: "/data", readonly: true, overlayBytes: null };

/** `one` runs, with a volume that it reads, and has a snapshot `kept` of that kind. */
async function prepare(fixture: Fixture, kind: SnapshotKind | undefined): Promise<void> {
  const { instances } = fixture;
  (await fixture.volumes.create({ name: "data", sizeBytes: 64 * 2 ** 20, id: "data", tags: {} }))._unsafeUnwrap();
  await running(fixture, "one", ["serve"], { volumes: [VOLUME] });
  if (kind === "Stopped") (await instances.stop("one", { graceMs: 1000 }))._unsafeUnwrap();
  if (kind !== undefined) (await instances.createSnapshot("one", { kind, name: "kept", tags: {} }))._unsafeUnwrap();
  if (kind === "Stopped") (await instances.start("one", {}))._unsafeUnwrap();
  await until("it to run", () => stateOf(fixture, "one") === "Running");
}

/** Whatever is there works. */
async function works(fixture: Fixture): Promise<string[]> {
  const { instances } = fixture, found: string[] = [];
  for (const { name, state, volumes } of instances.list()) {
    found.push(`${name} ${state}`);
    expect(volumes).toEqual([VOLUME]);
    if (state === "Standby") expect((await instances.restore(name))._unsafeUnwrap().state).toBe("Running");
    if (state === "Stopped") (await instances.start(name, {}))._unsafeUnwrap();
    await until(`${name} to run`, () => stateOf(fixture, name) === "Running");
  }
  for (const { id, name, kind } of instances.listSnapshots()) {
    found.push(`snapshot ${name}`);
    expect((await instances.forkSnapshot(id, { name: "probe", targetState: null }))._unsafeUnwrap().state).toBe(kind === "Standby" ? "Running" : "Stopped");
  }
  return found;
}

for (const verb of VERBS)
  test(`${verb}: the daemon is killed before each write`, async () => {
    const seen = new Set<string>();
    for (let nth = 1, died = true; died; nth++) {
      const first = await open(freshRoot());
      await prepare(first, KINDS[verb]);
      if (verb === "restore") (await first.instances.standby("one"))._unsafeUnwrap();
      await first.close();
      died = await dieAt(first.root, nth, verb);
      const next = await open(first.root);
      // A child that had not come to be goes in the background.
      await until("what was not finished to be gone", () => !next.instances.list().some(({ name, state }) => name === "two" && state !== "Standby"));
      seen.add((await works(next)).join(", "));
      for (const { name } of next.instances.list()) await remove(next, name);
      for (const { id } of next.instances.listSnapshots()) (await next.instances.removeSnapshot(id))._unsafeUnwrap();
      expect({ nth, generations: generations(next), snapshots: entries(next, "snapshots"), monitors: monitorsIn(next.root) }).toEqual({ nth, generations: [], snapshots: [], monitors: [] });
      next.volumes.remove("data")._unsafeUnwrap(); // nobody has it
      await next.close();
      const last = await open(first.root); // names of merged layers are swept at start
      expect({ nth, disks: disks(last), folders: entries(last, "instances").filter((name) => !name.startsWith(".")) }).toEqual({ nth, disks: [], folders: [] });
      await last.close();
    }
    expect([...seen].sort()).toEqual({
      fork: ["one Running", "one Running, two Standby"],
      snapshot: ["one Running", "one Running, snapshot kept"],
      "give-back": ["one Running, snapshot kept", "one Standby, snapshot kept"],
      "give-back-disk": ["one Running, snapshot kept", "one Stopped, snapshot kept"],
      drop: ["one Running", "one Running, snapshot kept"], standby: ["one Running", "one Standby"], restore: ["one Running", "one Standby"],
      "fork-snapshot": ["one Running, snapshot kept", "one Running, two Standby, snapshot kept"],
    }[verb]);
  }, 300_000);

for (const [verb, state] of [["give-back", "Standby"], ["give-back-disk", "Stopped"]] as const)
  test(`${verb}: a daemon killed after its commit leaves a monitor that the next one ends, and nobody takes for the instance's`, async () => {
    const first = await open(freshRoot());
    await prepare(first, KINDS[verb]);
    await first.close();
    expect(await dieAt(first.root, "kill", verb)).toBe(true);
    expect(monitorsIn(first.root).length).toBe(1);
    const next = await open(first.root);
    await until("the monitor to end", () => monitorsIn(next.root).length === 0);
    expect(stateOf(next, "one")).toBe(state);
    expect(await works(next)).toEqual([`one ${state}`, "snapshot kept"]);
    await next.close();
  });
