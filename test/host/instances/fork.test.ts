// Forks and named snapshots as the daemon keeps them, over stand-in monitors: who refers to which files, and what is left once
// nobody does, in whatever order they go.
import { afterAll, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { monitorsIn, open, removeRoots, type Fixture } from "./fixture.ts";
import { codeOf, disks, entries, remove, running } from "./sleeping.ts";

afterAll(removeRoots);

const fork = (fixture: Fixture, source: string, name: string, fromRunning = false) => fixture.instances.fork(source, { name, fromRunning, targetState: null });

test("a running instance is forked only when asked for, runs on, and its child has a name, a machine and a disk of its own", async () => {
  const fixture = await open();
  await running(fixture, "one");
  expect(await codeOf(fork(fixture, "one", "two"))).toBe("instance.invalid_state");
  const child = (await fork(fixture, "one", "two", true))._unsafeUnwrap();
  expect({ state: child.state, name: child.name, ports: child.ports, source: fixture.instances.get("one")._unsafeUnwrap().state, monitors: monitorsIn(fixture.root).length, generations: entries(fixture, "memory").length })
    .toEqual({ state: "Running", name: "two", ports: [], source: "Running", monitors: 2, generations: 1 });
  await remove(fixture, "one");
  expect(entries(fixture, "memory").length).toBe(1);
  await remove(fixture, "two");
  expect({ memory: entries(fixture, "memory"), disks: disks(fixture) }).toEqual({ memory: [], disks: [] });
  await fixture.close();
});

test("a fork has started when it began to run, and not when its source did, once it has ended, too", async () => {
  const fixture = await open();
  await running(fixture, "one");
  const child = (await fork(fixture, "one", "two", true))._unsafeUnwrap();
  const ended = (await fixture.instances.stop("two", { graceMs: 1000 }))._unsafeUnwrap();
  expect(child.startedAt).toBeGreaterThanOrEqual(child.createdAt);
  expect(ended.startedAt).toBe(child.startedAt);
  await fixture.close();
});

test("a name that is taken, and a target that can't be, are refused before the source stands still", async () => {
  const fixture = await open();
  await running(fixture, "one");
  await running(fixture, "two");
  expect(await codeOf(fork(fixture, "one", "two", true))).toBe("instance.already_exists");
  expect(await codeOf(fork(fixture, "one", "No!", true))).toBe("name.invalid");
  (await fixture.instances.stop("two", { graceMs: 1000 }))._unsafeUnwrap();
  expect(await codeOf(fixture.instances.fork("two", { name: "three", fromRunning: false, targetState: "Standby" }))).toBe("instance.invalid_state");
  expect(fixture.instances.list().map(({ name, state }) => `${name} ${state}`)).toEqual(["one Running", "two Stopped"]);
  await fixture.close();
});

test("neither a request nor a hold calls off a fork or snapshot of a running instance", async () => {
  let during = () => {};
  const fixture = await open(undefined, { onStep: (step) => { if (step === "begun") queueMicrotask(() => during()); } }); // the monitor has been asked by then
  await running(fixture, "one", ["save-slowly", "200"]);
  let asked: Promise<unknown>[] = [];
  during = () => void (asked = [fixture.instances.wake("one"), fixture.instances.holdAutoStandby("one")].map(async (one) => (await one).isOk()));
  expect((await fork(fixture, "one", "two", true))._unsafeUnwrap().state).toBe("Running");
  expect(await Promise.all(asked)).toEqual([true, true]);
  expect((await fixture.instances.createSnapshot("one", { kind: "Standby", name: null, tags: {} }))._unsafeUnwrap().kind).toBe("Standby");
  expect(await Promise.all(asked)).toEqual([true, true]);
  await fixture.close();
});

test("a stopped instance's fork has its disk, and neither sees what the other writes", async () => {
  const fixture = await open();
  const { id } = await running(fixture, "one");
  (await fixture.instances.stop("one", { graceMs: 1000 }))._unsafeUnwrap();
  const disk = join(fixture.root, "instances", id, "upper.ext4");
  const bytes = readFileSync(disk);
  bytes.write("of the source", 1 << 20);
  writeFileSync(disk, bytes);
  const child = (await fork(fixture, "one", "two"))._unsafeUnwrap();
  expect({ state: child.state, generations: entries(fixture, "memory") }).toEqual({ state: "Stopped", generations: [] });
  expect((await fixture.instances.start("two", {}))._unsafeUnwrap().name).toBe("two");
  await remove(fixture, "one");
  // The child's content outlives its source: where blocks are shared it is in its own file, elsewhere in a layer.
  const files = [...entries(fixture, "disks").map((name) => join("disks", name)), ...entries(fixture, `instances/${child.id}`).map((name) => join("instances", child.id, name))];
  expect(files.some((name) => readFileSync(join(fixture.root, name)).includes("of the source"))).toBe(true);
  await remove(fixture, "two");
  expect(disks(fixture)).toEqual([]);
  await fixture.close();
});

for (const order of [["snapshot", "source", "fork"], ["source", "fork", "snapshot"], ["fork", "snapshot", "source"]] as const)
  test(`a snapshot, its source and its fork go as ${order.join(", ")}: each keeps what it needs, and nothing is left`, async () => {
    const fixture = await open();
    await running(fixture, "source");
    const snapshot = (await fixture.instances.createSnapshot("source", { kind: "Standby", name: "kept", tags: { a: "b" } }))._unsafeUnwrap();
    expect({ ...snapshot, id: "", createdAt: 0, sizeBytes: snapshot.sizeBytes > 0, sourceInstanceId: "" }).toEqual({
      id: "", name: "kept", kind: "Standby", tags: { a: "b" }, createdAt: 0, sourceInstanceId: "", sourceInstanceName: "source", sizeBytes: true,
      compression: null, compressionState: "none", compressionError: null, compressedSizeBytes: null, uncompressedSizeBytes: null,
    });
    expect((await fixture.instances.forkSnapshot("kept", { name: "fork", targetState: null }))._unsafeUnwrap().state).toBe("Running");
    for (const [i, one] of order.entries()) {
      if (one === "snapshot") (await fixture.instances.removeSnapshot("kept"))._unsafeUnwrap();
      else await remove(fixture, one);
      const left = order.slice(i + 1);
      expect(entries(fixture, "memory").length).toBe(left.includes("snapshot") || left.includes("fork") ? 1 : 0);
      // Whoever is left still works.
      if (left.includes("snapshot")) (await fixture.instances.forkSnapshot("kept", { name: "probe", targetState: null }).andThen(() => fixture.instances.remove("probe", { graceful: false })))._unsafeUnwrap();
    }
    expect({ memory: entries(fixture, "memory"), disks: disks(fixture), monitors: monitorsIn(fixture.root) }).toEqual({ memory: [], disks: [], monitors: [] });
    await fixture.close();
  });

test("a snapshot is given back in place to each of its targets; what the instance was is lost", async () => {
  const fixture = await open();
  await running(fixture, "one");
  const { id } = (await fixture.instances.createSnapshot("one", { kind: "Standby", name: null, tags: {} }))._unsafeUnwrap();
  for (const target of ["Standby", "Running", "Stopped", null] as const) {
    const { state, stoppedAt } = (await fixture.instances.restoreSnapshot("one", id, target))._unsafeUnwrap();
    expect({ state, stopped: stoppedAt !== null }).toEqual({ state: target ?? "Running", stopped: target === "Stopped" });
  }
  expect({ monitors: monitorsIn(fixture.root).length, generations: entries(fixture, "memory").length }).toEqual({ monitors: 1, generations: 1 });
  await running(fixture, "two");
  expect(await codeOf(fixture.instances.restoreSnapshot("two", id, null))).toBe("snapshot.not_found");
  await fixture.close();
});

test("kinds and states that don't go together, taken names and unknown ids are refused", async () => {
  const fixture = await open();
  await running(fixture, "one");
  const take = (kind: "Standby" | "Stopped", name: string | null) => fixture.instances.createSnapshot("one", { kind, name, tags: {} });
  expect(await codeOf(take("Stopped", null))).toBe("instance.invalid_state");
  (await take("Standby", "kept"))._unsafeUnwrap();
  expect(await codeOf(take("Standby", "kept"))).toBe("name.taken");
  expect(await codeOf(take("Standby", "Not A Name"))).toBe("name.invalid");
  (await fixture.instances.stop("one", { graceMs: 1000 }))._unsafeUnwrap();
  expect(await codeOf(take("Standby", null))).toBe("instance.invalid_state");
  const stopped = (await take("Stopped", "stopped"))._unsafeUnwrap();
  expect(await codeOf(fixture.instances.forkSnapshot(stopped.id, { name: "two", targetState: "Standby" }))).toBe("request.bad");
  expect(await codeOf(fixture.instances.forkSnapshot("nowhere", { name: "two", targetState: null }))).toBe("snapshot.not_found");
  expect(fixture.instances.listSnapshots({ kind: "Stopped" }).map(({ name }) => name)).toEqual(["stopped"]);
  await fixture.close();
});

test("a sleeping instance is forked asleep over the same machine, and wakes as itself", async () => {
  const fixture = await open();
  await running(fixture, "one");
  (await fixture.instances.standby("one"))._unsafeUnwrap();
  expect((await fork(fixture, "one", "two"))._unsafeUnwrap().state).toBe("Standby");
  expect(entries(fixture, "memory").length).toBe(1);
  for (const name of ["two", "one"]) expect((await fixture.instances.restore(name))._unsafeUnwrap().state).toBe("Running");
  await fixture.close();
});
