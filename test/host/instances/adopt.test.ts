// Daemons that die, and what the next one makes of it. The daemons and monitors are real processes.
import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { listenSeqpacket } from "../../../src/ffi/socket.ts";
import { closeFd } from "../../../src/ffi/fd.ts";
import { openStore } from "../../../src/host/store/store.ts";
import { until } from "../../support/until.ts";
import { DIGEST, freshRoot, MemoryNetwork, migrations, monitorsIn, never, open, recordsOf, removeRoots, request } from "./fixture.ts";

afterAll(removeRoots);

const daemon = async (root: string, ...args: string[]) => {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "daemon.ts"), root, ...args], { stdout: "pipe", stderr: "inherit" });
  await child.stdout.getReader().read();
  return child;
};
const kill = async (child: Bun.Subprocess) => {
  child.kill("SIGKILL");
  await child.exited;
};
const dirOf = (root: string, id: string) => join(root, "instances", id);

test("a guest outlives its daemon's SIGKILL, is taken over, and stops", async () => {
  const root = freshRoot();
  await kill(await daemon(root, "create", "web", "serve"));
  const [monitor] = monitorsIn(root);
  const f = await open(root);
  expect(f.instances.get("web")._unsafeUnwrap().state).toBe("Running");
  expect(monitorsIn(root)).toEqual([monitor!]);
  expect((await f.instances.stats("web")).isOk()).toBe(true);
  expect((await f.instances.stop("web"))._unsafeUnwrap()).toMatchObject({ state: "Stopped", exitCode: 143 });
  expect(monitorsIn(root)).toEqual([]);
  await f.close();
});

test("close() leaves guests running for the next daemon", async () => {
  const root = freshRoot();
  const first = await open(root);
  await first.instances.create(request("web", ["serve"]));
  await first.instances.wait("web", "Running", 20_000, never());
  await first.close();
  expect(monitorsIn(root)).toHaveLength(1);
  const second = await open(root);
  expect(second.instances.get("web")._unsafeUnwrap().state).toBe("Running");
  await second.instances.remove("web", { graceful: false });
  await second.close();
});

test("a guest that ended meanwhile is Stopped with its own code, one that came up is Running", async () => {
  const root = freshRoot();
  const first = await open(root);
  const { id } = (await first.instances.create(request("talk", ["talk", "300"])))._unsafeUnwrap();
  await first.instances.wait("talk", "Running", 20_000, never());
  await first.instances.create(request("late", ["boot-slowly", "300"]));
  await first.instances.wait("late", "Initializing", 20_000, never());
  await first.close();
  await until("the end of the guest", () => JSON.parse(readFileSync(join(dirOf(root, id), "status.json"), "utf8")).state === "ended");
  const second = await open(root);
  await second.instances.wait("talk", "Stopped", 20_000, never());
  expect(second.instances.get("talk")._unsafeUnwrap()).toMatchObject({ state: "Stopped", exitCode: 0, exitMessage: null });
  expect((await second.instances.wait("late", "Running", 20_000, never()))._unsafeUnwrap().instance.state).toBe("Running");
  expect(existsSync(join(dirOf(root, id), "vmm.sock"))).toBe(false);
  await second.instances.remove("late", { graceful: false });
  await second.close();
});

test("a monitor killed together with its daemon leaves Stopped with a reason", async () => {
  const root = freshRoot();
  await kill(await daemon(root, "create", "web", "serve"));
  const [monitor] = monitorsIn(root);
  process.kill(monitor!, "SIGKILL");
  await until("the monitor's end", () => monitorsIn(root).length === 0);
  const f = await open(root);
  const instance = f.instances.get("web")._unsafeUnwrap();
  expect(instance).toMatchObject({ state: "Stopped", exitCode: null, exitMessage: "its monitor was killed while the daemon was not running" });
  expect(existsSync(join(dirOf(root, instance.id), "vmm.sock"))).toBe(false);
  expect(recordsOf(f.store.db).process(instance.id)).toBeNull();
  expect((await f.instances.start("web", {})).isOk()).toBe(true);
  await f.instances.remove("web", { graceful: false });
  await f.close();
});

/** A record as a daemon that died has left it. */
const record = (root: string, prepare: (records: ReturnType<typeof recordsOf>, id: string) => void) => {
  const store = openStore(join(root, "dormouse.db"), migrations)._unsafeUnwrap();
  const records = recordsOf(store.db);
  const { id } = records.insert("tz4a98xxat96iws9zmbrgj3a", request("web", ["serve"]), DIGEST)._unsafeUnwrap();
  mkdirSync(dirOf(root, id), { recursive: true });
  prepare(records, id);
  store.close();
  return id;
};

test("after a host's restart what was Running is Stopped with that reason", async () => {
  const root = freshRoot();
  record(root, (records, id) => {
    records.transition(id, "Initializing", null);
    records.transition(id, "Running", null);
    // The number is a living process, the boot another: it must not be touched, nor taken for the monitor.
    records.setProcess(id, { pid: process.pid, start: 1, bootId: "00000000-0000-0000-0000-000000000000" });
  });
  const f = await open(root);
  expect(f.instances.get("web")._unsafeUnwrap()).toMatchObject({ state: "Stopped", exitMessage: "the host was restarted" });
  await f.close();
});

test("a process that has taken over a monitor's number is left alone", async () => {
  const root = freshRoot();
  const stranger = Bun.spawn(["sleep", "1000"]);
  record(root, (records, id) => {
    records.transition(id, "Initializing", null);
    records.setProcess(id, { pid: stranger.pid, start: 1, bootId: readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim() });
  });
  const f = await open(root);
  expect(f.instances.get("web")._unsafeUnwrap().state).toBe("Stopped");
  expect(stranger.exitCode).toBeNull();
  expect((await f.instances.remove("web", { graceful: false })).isOk()).toBe(true);
  expect(stranger.exitCode).toBeNull();
  stranger.kill();
  await f.close();
});

test("Created without a monitor is Stopped: the daemon died before it started one", async () => {
  const root = freshRoot();
  const id = record(root, (_records, id) => closeFd(listenSeqpacket(join(dirOf(root, id), "vmm.sock"))));
  const f = await open(root);
  expect(f.instances.get("web")._unsafeUnwrap()).toMatchObject({ state: "Stopped", exitMessage: expect.stringContaining("start it again") });
  expect(existsSync(join(dirOf(root, id), "vmm.sock"))).toBe(false);
  await f.close();
});

test("a monitor that was started and not written down ends", async () => {
  const root = freshRoot();
  const first = await open(root);
  const { id } = (await first.instances.create(request("web", ["serve"])))._unsafeUnwrap();
  await first.instances.stop("web");
  await first.close();
  // As spawnVmm() leaves it for a daemon that is killed before the record: a listener of the folder, held by a monitor.
  const listener = listenSeqpacket(join(dirOf(root, id), "vmm.sock"));
  const log = Bun.file(join(dirOf(root, id), "vmm.0.log"));
  const monitor = Bun.spawn([process.execPath, join(import.meta.dir, "stand-in.ts")], { stdio: ["ignore", log, log, listener] });
  closeFd(listener);
  const second = await open(root);
  expect(await monitor.exited).toBe(0);
  expect(second.instances.get("web")._unsafeUnwrap().state).toBe("Stopped");
  expect(existsSync(join(dirOf(root, id), "vmm.sock"))).toBe(false);
  await second.close();
});

test("a monitor without a guest, on record, ends too, and its instance is Stopped", async () => {
  const root = freshRoot();
  const id = record(root, () => {});
  const listener = listenSeqpacket(join(dirOf(root, id), "vmm.sock"));
  const log = Bun.file(join(dirOf(root, id), "vmm.0.log"));
  const monitor = Bun.spawn([process.execPath, join(import.meta.dir, "stand-in.ts")], { stdio: ["ignore", log, log, listener] });
  closeFd(listener);
  const store = openStore(join(root, "dormouse.db"), migrations)._unsafeUnwrap();
  const { processStart, bootId } = await import("../../../src/ffi/process.ts");
  recordsOf(store.db).setProcess(id, { pid: monitor.pid, start: processStart(monitor.pid)!, bootId: bootId() });
  store.close();
  const f = await open(root);
  expect(f.instances.get("web")._unsafeUnwrap()).toMatchObject({ state: "Stopped", exitMessage: expect.stringContaining("start it again") });
  await monitor.exited;
  await f.close();
});

/** Puts the record back to what a daemon left that died between `boot` and its own record of it. */
const forgetBoot = (root: string, name: string, state: "Created" | "Stopped") => {
  const store = openStore(join(root, "dormouse.db"), migrations)._unsafeUnwrap();
  store.db.query("UPDATE instances SET state = ?, started_at = NULL WHERE name = ?").run(state, name);
  store.close();
};

test("a guest whose boot was not written down is taken over as what it is", async () => {
  for (const state of ["Created", "Stopped"] as const) {
    const root = freshRoot();
    await kill(await daemon(root, "create", "web", "serve"));
    forgetBoot(root, "web", state);
    const f = await open(root);
    const instance = f.instances.get("web")._unsafeUnwrap();
    expect(instance).toMatchObject({ state: "Running", startedAt: expect.any(Number) });
    expect(recordsOf(f.store.db).transitions(instance.id).slice(-2).map(({ to }) => to)).toEqual(["Initializing", "Running"]);
    await f.instances.remove("web", { graceful: false });
    await f.close();
  }
});

test("a guest whose boot was not written down and that has ended is on record with its code", async () => {
  const root = freshRoot(), end = join(root, "end");
  await kill(await daemon(root, "create", "job", "until", end));
  forgetBoot(root, "job", "Created");
  writeFileSync(end, "");
  await until("the guest's end", () => monitorsIn(root).length === 0);
  const f = await open(root);
  expect(f.instances.get("job")._unsafeUnwrap()).toMatchObject({ state: "Stopped", exitCode: 0, exitMessage: null, startedAt: expect.any(Number) });
  await f.close();
});

test("a monitor that says nothing is Unknown with the reason, and can be deleted", async () => {
  const root = freshRoot();
  await kill(await daemon(root, "create", "mute", "silent"));
  const f = await open(root);
  expect(f.instances.get("mute")._unsafeUnwrap()).toMatchObject({ state: "Unknown", stateError: expect.stringContaining("silent for") });
  (await f.instances.remove("mute", { graceful: false }))._unsafeUnwrap();
  expect(monitorsIn(root)).toEqual([]);
  await f.close();
}, 20_000);

test("a monitor whose socket was deleted is Unknown, and stop() ends it", async () => {
  const root = freshRoot();
  await kill(await daemon(root, "create", "web", "serve"));
  const store = openStore(join(root, "dormouse.db"), migrations)._unsafeUnwrap();
  const { id } = recordsOf(store.db).get("web")._unsafeUnwrap();
  store.close();
  rmSync(join(dirOf(root, id), "vmm.sock"));
  const f = await open(root);
  expect(f.instances.get("web")._unsafeUnwrap()).toMatchObject({ state: "Unknown", stateError: expect.stringContaining("ENOENT") });
  expect(monitorsIn(root)).toHaveLength(1);
  expect((await f.instances.stop("web"))._unsafeUnwrap()).toMatchObject({ state: "Stopped", stateError: null });
  expect(monitorsIn(root)).toEqual([]);
  await f.close();
});

test("a deletion that was begun is finished", async () => {
  const root = freshRoot();
  await kill(await daemon(root, "create", "web", "hung"));
  const store = openStore(join(root, "dormouse.db"), migrations)._unsafeUnwrap();
  const records = recordsOf(store.db);
  const { id } = records.get("web")._unsafeUnwrap();
  records.markRemoving(id);
  store.close();
  const f = await open(root);
  await until("the deletion", () => f.instances.list().length === 0);
  expect(existsSync(dirOf(root, id))).toBe(false);
  expect(monitorsIn(root)).toEqual([]);
  await f.close();
});

test("leases of instances that are gone are dropped; folders that nobody knows are kept", async () => {
  const root = freshRoot();
  const network = new MemoryNetwork();
  network.allocate("gone")._unsafeUnwrap();
  mkdirSync(join(root, "instances", "unknown"), { recursive: true });
  writeFileSync(join(root, "instances", "unknown", "upper.ext4"), "precious");
  const f = await open(root, {}, network);
  expect([...network.leases.keys()]).toEqual([]);
  expect(readFileSync(join(root, "instances", "unknown", "upper.ext4"), "utf8")).toBe("precious");
  expect(f.logged.some((line) => line.includes("instance.unknown_folder"))).toBe(true);
  await f.close();
});

// A daemon killed at random moments of create and start, again and again on one folder: whatever stands there, the next
// daemon settles it to a state without leftovers, and the instances can be started and deleted.
test("daemons killed at any moment of a start leave what the next one settles", async () => {
  const root = freshRoot();
  const seed = Number(process.env["DORMOUSE_TEST_SEED"] ?? Date.now() % 1e6);
  let random = seed;
  const next = () => ((random = (random * 1103515245 + 12345) % 2 ** 31) / 2 ** 31);
  for (let round = 0; round < 8; round++) {
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "daemon.ts"), root, "create", `i${round}`, "serve"], { stdout: "pipe", stderr: "ignore" });
    await until("a daemon that opened the database", () => existsSync(join(root, "dormouse.db.lock")));
    await Bun.sleep(next() * 250); // the moment of the kill is what varies; nothing is concluded from the time
    await kill(child);
  }
  const f = await open(root);
  try {
    for (const instance of f.instances.list()) expect({ state: instance.state, seed }).toEqual({ state: instance.state === "Running" ? "Running" : "Stopped", seed });
    const live = f.instances.list({ state: "Running" });
    await until("monitors of running instances alone", () => monitorsIn(root).length === live.length);
    for (const { name, state } of f.instances.list()) {
      if (state === "Stopped") (await f.instances.start(name, {}))._unsafeUnwrap();
      (await f.instances.remove(name, { graceful: true }))._unsafeUnwrap();
    }
    expect(monitorsIn(root)).toEqual([]);
    expect(readdirSync(join(root, "instances")).filter((name) => !name.startsWith("."))).toEqual([]);
  } finally {
    await f.close();
  }
}, 60_000);
