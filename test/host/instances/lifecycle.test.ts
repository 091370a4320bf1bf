// The verbs against real monitor processes (stand-in.ts plays the guests).
import { afterAll, afterEach, expect, test } from "bun:test";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { InstanceState } from "../../../src/host/instances/service.ts";
import { openCgroups } from "../../../src/host/vmm/cgroup.ts";
import { spawning } from "../../../src/host/vmm/pool.ts";
import { FAILURE, failing } from "../../support/failing.ts";
import { until } from "../../support/until.ts";
import { DIGEST, freshRoot, monitorsIn, never, open, recordsOf, removeRoots, request, type Fixture } from "./fixture.ts";

const MIB = 2 ** 20;
let f: Fixture;
afterEach(() => f.close());
afterAll(removeRoots);

const reached = async (ref: string, state: InstanceState) => {
  const waited = (await f.instances.wait(ref, state, 20_000, never()))._unsafeUnwrap();
  expect({ ...waited.instance, timedOut: waited.timedOut }).toMatchObject({ state, timedOut: false });
  return waited.instance;
};
const states = (id: string) => recordsOf(f.store.db).transitions(id).map(({ to }) => to);
const lines = async (ref: string, source: "app" | "vmm" | "dormouse") =>
  Array.fromAsync(f.instances.logs(ref, { source, tail: 100, follow: false, signal: never() })._unsafeUnwrap());

test("create() answers Created, comes to Running, and stop() ends it with its exit code", async () => {
  f = await open();
  const seen: string[] = [];
  f.instances.subscribe(({ state }) => seen.push(state));
  const created = (await f.instances.create(request("web", ["serve"], { tags: { team: "a" } })))._unsafeUnwrap();
  expect(created).toMatchObject({ name: "web", state: "Created", imageDigest: DIGEST, startedAt: null, exitCode: null, phase: "created" });
  expect(created.id).toMatch(/^[a-z][a-z0-9]{23}$/);
  const running = await reached("web", "Running");
  expect(running.startedAt).toBeGreaterThan(0);
  expect(monitorsIn(f.root)).toHaveLength(1);
  const stopped = (await f.instances.stop("web"))._unsafeUnwrap();
  expect(stopped).toMatchObject({ state: "Stopped", exitCode: 143, exitMessage: "killed by signal 15 (SIGTERM)" });
  expect(states(created.id)).toEqual(["Created", "Initializing", "Running", "Stopped"]);
  expect([...new Set(seen)]).toEqual(["Created", "Initializing", "Running", "Stopped"]);
  expect(Object.keys(stopped.phaseDurationsMs).sort()).toEqual(["created", "initializing", "running", "stopped"]);
  const dir = join(f.root, "instances", created.id);
  expect(readdirSync(dir).sort()).toEqual(["app.0.log", "app.1.log", "dormouse.0.log", "dormouse.1.log", "status.json", "upper.ext4", "vmm.0.log", "vmm.1.log"]);
  expect(statSync(join(dir, "upper.ext4")).size).toBe(64 * MIB);
  expect(monitorsIn(f.root)).toEqual([]);
  expect((await lines("web", "dormouse")).map((line) => line.slice(25).split(" ")[0])).toEqual(["created", "monitor", "initializing", "running", "stopping,", "stopped:"]);
});

test("a program that ends leaves its code, and start() runs it again on the same disk", async () => {
  f = await open();
  const { id } = (await f.instances.create(request("job", ["exit", "3", "three"])))._unsafeUnwrap();
  expect(await reached("job", "Stopped")).toMatchObject({ exitCode: 3, exitMessage: "three" });
  const inode = statSync(join(f.root, "instances", id, "upper.ext4")).ino;
  const again = (await f.instances.start("job", { cmd: ["exit", "0", ""] }))._unsafeUnwrap();
  expect(again.cmd).toEqual(["exit", "0", ""]);
  await reached("job", "Stopped");
  expect(f.instances.get("job")._unsafeUnwrap()).toMatchObject({ exitCode: 0, exitMessage: null, cmd: ["exit", "0", ""] });
  expect(statSync(join(f.root, "instances", id, "upper.ext4")).ino).toBe(inode);
});

test("a start with a command of its own joins no other, and one without does", async () => {
  f = await open();
  await f.instances.create(request("web", ["serve"]));
  const other = f.instances.start("web", { cmd: ["other"] }), same = f.instances.start("web", { cmd: ["other"] }), plain = f.instances.start("web", {});
  for (const refused of [other, same, plain]) expect((await refused)._unsafeUnwrapErr().code).toBe("instance.invalid_state");
  await f.instances.create(request("two", ["serve"]));
  expect((await f.instances.start("two", {}))._unsafeUnwrap().cmd).toEqual(["serve"]);
  expect((await reached("web", "Running")).cmd).toEqual(["serve"]);
});

test("a start that fails ends in Stopped with the reason and leaves no process and no socket", async () => {
  f = await open();
  for (const [name, cmd, reason] of [["refused", ["refuse-boot"], "no room for this guest"], ["died", ["die-at-boot"], "monitor"]] as const) {
    const { id } = (await f.instances.create(request(name, cmd)))._unsafeUnwrap();
    const stopped = await reached(name, "Stopped");
    expect(stopped).toMatchObject({ exitCode: null, startedAt: null, exitMessage: expect.stringContaining(reason) });
    expect(existsSync(join(f.root, "instances", id, "vmm.sock"))).toBe(false);
    expect((await f.instances.start(name, {}))._unsafeUnwrapErr()).toMatchObject({ code: "instance.start_failed" });
    expect(f.instances.get(name)._unsafeUnwrap().state).toBe("Stopped");
  }
  expect(monitorsIn(f.root)).toEqual([]);
});

test("a monitor that can't be started, and one that ends at once, say so", async () => {
  f = await open(freshRoot(), { monitors: spawning(["/nonexistent/dormouse"]) });
  await f.instances.create(request("none", ["serve"]));
  expect(await reached("none", "Stopped")).toMatchObject({ exitMessage: expect.stringContaining("/nonexistent/dormouse") });
  await f.close();
  f = await open(freshRoot(), { monitors: spawning(["/bin/true"]) });
  await f.instances.create(request("brief", ["serve"]));
  expect(await reached("brief", "Stopped")).toMatchObject({ exitMessage: expect.stringContaining("monitor") });
});

test("a guest's panic and a killed monitor are told apart", async () => {
  f = await open();
  await f.instances.create(request("panicked", ["panic"]));
  expect(await reached("panicked", "Stopped")).toMatchObject({ exitCode: null, exitMessage: expect.stringContaining("Kernel panic") });
  await f.instances.create(request("victim", ["serve"]));
  await reached("victim", "Running");
  process.kill(monitorsIn(f.root)[0]!, "SIGKILL");
  expect(await reached("victim", "Stopped")).toMatchObject({ exitCode: null, exitMessage: "the monitor's process was killed" });
});

test("stop() kills what is deaf after its grace, and joins a stop under way", async () => {
  f = await open();
  await f.instances.create(request("deaf", ["deaf"]));
  await reached("deaf", "Running");
  const [one, two] = await Promise.all([f.instances.stop("deaf", { graceMs: 20 }), f.instances.stop("deaf", { graceMs: 20 })]);
  expect(one._unsafeUnwrap()).toMatchObject({ state: "Stopped", exitMessage: "the guest did not shut down in time and was killed" });
  expect(two._unsafeUnwrap()).toEqual(one._unsafeUnwrap());
  expect((await lines("deaf", "dormouse")).filter((line) => line.includes("stopping"))).toHaveLength(1);
});

test("verbs refuse the wrong state and unknown instances", async () => {
  f = await open();
  const { id } = (await f.instances.create(request("web", ["serve"])))._unsafeUnwrap();
  await reached("web", "Running");
  // A round trip to the monitor: by then the start itself is over, and is not joined.
  await f.instances.stats("web");
  expect((await f.instances.start("web", {}))._unsafeUnwrapErr()).toMatchObject({ code: "instance.invalid_state", details: { state: "Running" } });
  await f.instances.stop("web");
  expect((await f.instances.stop(id))._unsafeUnwrapErr().code).toBe("instance.invalid_state");
  expect((await f.instances.stats("web"))._unsafeUnwrapErr().code).toBe("instance.invalid_state");
  for (const answer of [f.instances.start("nobody", {}), f.instances.stop("nobody"), f.instances.remove("nobody", { graceful: true }), f.instances.wait("nobody", "Running", 1, never())])
    expect((await answer)._unsafeUnwrapErr().code).toBe("instance.not_found");
});

test("stop() right after create() waits for the start and stops it", async () => {
  f = await open();
  await f.instances.create(request("quick", ["serve"]));
  expect((await f.instances.stop("quick"))._unsafeUnwrap()).toMatchObject({ state: "Stopped", exitCode: 143 });
});

test("remove() deletes record, folder, lease and monitor, gracefully or at once", async () => {
  f = await open();
  for (const [name, cmd, graceful] of [["kind", ["serve"], true], ["harsh", ["hung"], false]] as const) {
    const { id } = (await f.instances.create(request(name, cmd)))._unsafeUnwrap();
    await reached(name, "Running");
    (await f.instances.remove(name, { graceful }))._unsafeUnwrap();
    expect(f.instances.get(name)._unsafeUnwrapErr().code).toBe("instance.not_found");
    expect(existsSync(join(f.root, "instances", id))).toBe(false);
    expect(recordsOf(f.store.db).transitions(id)).toEqual([]);
  }
  expect(monitorsIn(f.root)).toEqual([]);
  expect(f.instances.list()).toEqual([]);
});

test("remove(graceful: false) does not wait for a stop under way", async () => {
  f = await open();
  await f.instances.create(request("hung", ["hung"]));
  await reached("hung", "Running");
  const stopping = f.instances.stop("hung", { graceMs: 60_000 });
  (await f.instances.remove("hung", { graceful: false }))._unsafeUnwrap();
  expect((await stopping)._unsafeUnwrap().state).toBe("Stopped");
});

test("a guest that asks for a restart gets one; after stop() it does not", async () => {
  f = await open();
  const { id } = (await f.instances.create(request("cycle", ["reboot-once"])))._unsafeUnwrap();
  await f.instances.wait("cycle", "Running", 20_000, never());
  while (states(id).filter((state) => state === "Running").length < 2) await new Promise<void>((resolve) => { const off = f.instances.subscribe(() => (off(), resolve())); });
  expect(states(id)).toEqual(["Created", "Initializing", "Running", "Stopped", "Initializing", "Running"]);
  expect((await f.instances.stop("cycle"))._unsafeUnwrap()).toMatchObject({ state: "Stopped", exitCode: 143 });
});

test("create() checks what the caller can mend before it answers", async () => {
  f = await open();
  const code = async (...args: Parameters<typeof request>) => (await f.instances.create(request(...args)))._unsafeUnwrapErr().code;
  expect(await code("a", null, { image: "missing" })).toBe("image.not_found");
  expect(await code("a", null, { image: "slow" })).toBe("image.not_ready");
  for (const name of ["", "-a", "a-", "A", "a_b", "a".repeat(64)]) expect(await code(name, null)).toBe("name.invalid");
  for (const memoryBytes of [0, -MIB, 63 * MIB, 128 * MIB + 1, NaN]) expect(await code("a", null, { memoryBytes })).toBe("size.invalid");
  expect(await code("a", null, { memoryBytes: 9 * 1024 * MIB })).toBe("resources.insufficient");
  for (const vcpus of [0, 17, 1.5]) expect(await code("a", null, { vcpus })).toBe("size.invalid");
  expect(await code("a", null, { vcpus: 5 })).toBe("resources.insufficient");
  for (const overlayBytes of [MIB, 2 ** 50, 64 * MIB + 512]) expect(await code("a", null, { overlayBytes })).toBe("size.invalid");
  expect(await code("a", ["x\0y"])).toBe("request.bad");
  expect(await code("a", null, { env: { "A=B": "c" } })).toBe("request.bad");
  expect(await code("a", null, { ports: [{ guestPort: 80, hostPort: 8080, protocol: "tcp" }] })).toBe("request.bad");
  expect(f.instances.list()).toEqual([]);
  expect(readdirSync(join(f.root, "instances"))).toEqual([]);
});

test("create() refuses a taken name and a taken port, and leaves nothing of either", async () => {
  f = await open();
  const port = { guestPort: 80, hostPort: 8080, protocol: "tcp" } as const;
  const first = (await f.instances.create(request("web", ["serve"], { network: true, ports: [port] })))._unsafeUnwrap();
  expect(first).toMatchObject({ ip: "10.88.0.2", mac: "02:64:0a:58:00:02" });
  expect((await f.instances.create(request("web", ["serve"])))._unsafeUnwrapErr().code).toBe("instance.already_exists");
  expect((await f.instances.create(request("other", ["serve"], { network: true, ports: [port] })))._unsafeUnwrapErr().code).toBe("port.taken");
  expect(f.instances.list().map(({ name }) => name)).toEqual(["web"]);
  expect([...f.network.leases.keys()]).toEqual([first.id]);
  // Its TAP can't be made here: that failure is recorded, and address and port stay its own until it is deleted.
  expect(await reached("web", "Stopped")).toMatchObject({ exitMessage: "Cannot open a TAP here", ip: "10.88.0.2" });
  (await f.instances.remove("web", { graceful: true }))._unsafeUnwrap();
  expect([...f.network.leases.keys(), ...f.network.ports.keys()]).toEqual([]);
});

test("get() takes ids, names and unique prefixes; list() filters by state and tags", async () => {
  f = await open();
  const records = recordsOf(f.store.db);
  for (const [id, name, tags] of [["abc1", "one", { team: "a", tier: "x" }], ["abc2", "two", { team: "a" }], ["xyz", "abc1x", {}]] as const)
    records.insert(id, request(name, null, { tags }), DIGEST)._unsafeUnwrap();
  const found = (ref: string) => f.instances.get(ref).map(({ name }) => name).unwrapOr("");
  expect(["abc1", "two", "abc1x", "x", "abc2"].map(found)).toEqual(["one", "two", "abc1x", "abc1x", "two"]);
  expect(f.instances.get("abc")._unsafeUnwrapErr().code).toBe("name.ambiguous");
  expect(["nobody", "", "%", "a%", "_"].map((ref) => f.instances.get(ref)._unsafeUnwrapErr().code)).toEqual(Array(5).fill("instance.not_found"));
  expect(f.instances.list({ tags: { team: "a" } }).map(({ name }) => name)).toEqual(["one", "two"]);
  expect(f.instances.list({ tags: { team: "a", tier: "x" } }).map(({ name }) => name)).toEqual(["one"]);
  expect(f.instances.list({ state: "Running" })).toEqual([]);
  expect(f.instances.list({ state: "Created" })).toHaveLength(3);
});

test("wait() ends on the target, on a state that can't lead there, at the deadline and at hang-up", async () => {
  f = await open();
  await f.instances.create(request("web", ["serve"]));
  await reached("web", "Running");
  const answer = async (...args: [InstanceState, number, AbortSignal?]) => {
    const { instance, timedOut } = (await f.instances.wait("web", args[0], args[1], args[2] ?? never()))._unsafeUnwrap();
    return [instance.state, timedOut];
  };
  expect(await answer("Running", 0)).toEqual(["Running", false]);
  expect(await answer("Created", 20_000)).toEqual(["Running", false]);
  expect(await answer("Stopped", 5)).toEqual(["Running", true]);
  expect(await answer("Stopped", 20_000, AbortSignal.abort())).toEqual(["Running", true]);
  const stopped = answer("Stopped", 20_000);
  await f.instances.stop("web");
  expect(await stopped).toEqual(["Stopped", false]);
  expect(await answer("Running", 20_000)).toEqual(["Stopped", false]);
  // A start under way counts, and its failure ends the wait.
  const failing = f.instances.start("web", { cmd: ["refuse-boot"] });
  expect(await answer("Running", 20_000)).toEqual(["Stopped", false]);
  expect((await failing).isErr()).toBe(true);
});

test("wait() says so where the record can't be read any more", async () => {
  f = await open();
  await f.instances.create(request("web", ["serve"]));
  await reached("web", "Running");
  // At its deadline, and at its begin.
  const late = f.instances.wait("web", "Stopped", 1, never());
  using _ = failing(f.store.db);
  for (const waited of [late, f.instances.wait("web", "Stopped", 1, never())])
    expect((await waited)._unsafeUnwrapErr()).toMatchObject({ code: "host.storage", message: expect.stringContaining(FAILURE) });
});

test("stats() passes the monitor's figures on, and refuses what is none", async () => {
  f = await open();
  await f.instances.create(request("web", ["serve"]));
  await reached("web", "Running");
  expect((await f.instances.stats("web"))._unsafeUnwrap()).toEqual({ cpuSeconds: 1.5, exits: 7, disks: [], net: null, residentBytes: expect.any(Number), virtualBytes: expect.any(Number) });
  await f.instances.create(request("liar", ["bad-stats"]));
  await reached("liar", "Running");
  expect((await f.instances.stats("liar"))._unsafeUnwrapErr()).toMatchObject({ code: "host.process", message: expect.stringContaining("stats") });
});

test("a guest that could not be written down is ended: the next start has the instance to itself", async () => {
  let broken: Disposable | null = null;
  const breaking = { ...openCgroups(), add: () => void (broken ??= failing(f.store.db)) };
  f = await open(undefined, { cgroups: breaking });
  await f.instances.create(request("web", ["serve"]));
  await until("its start, which another one would join, to be over", () => f.logged.some((line) => line.includes("instance.start_unrecorded")));
  expect({ broken: broken !== null, monitors: monitorsIn(f.root) }).toEqual({ broken: true, monitors: [] });
  broken![Symbol.dispose]();
  (await f.instances.start("web", {}))._unsafeUnwrap();
  await reached("web", "Running");
  expect(monitorsIn(f.root)).toHaveLength(1);
});

test("a full disk costs the request and nothing else: news are recorded once there is room", async () => {
  f = await open();
  await f.instances.create(request("web", ["serve"]));
  await reached("web", "Running");
  const { page_count: pages } = f.store.db.query<{ page_count: number }, []>("PRAGMA page_count").get()!;
  f.store.db.run(`PRAGMA max_page_count = ${pages}`);
  const refused = await f.instances.create(request("fat", null, { env: { BIG: "x".repeat(100_000) } }));
  expect(refused._unsafeUnwrapErr()).toMatchObject({ code: "host.storage", message: expect.stringContaining("full") });
  // Fills what is left of the pages, so that the end of the guest can't be written down either.
  expect(() => { for (;;) f.store.db.run("INSERT INTO instance_transitions (instance_id, to_state, at, reason) SELECT id, state, 0, printf('%.200c', 'x') FROM instances"); }).toThrow(/full/);
  process.kill(monitorsIn(f.root)[0]!, "SIGKILL");
  await until("the failure in the log", () => f.logged.some((line) => line.includes("instance.unrecorded")));
  expect(f.instances.get("web")._unsafeUnwrap().state).toBe("Running");
  f.store.db.run("PRAGMA max_page_count = 1000000");
  await reached("web", "Stopped");
});

test("monitors killed at any moment of a start leave Stopped with a reason, and no process", async () => {
  f = await open();
  for (let round = 0; round < 12; round++) {
    const name = `i${round}`;
    const { id } = (await f.instances.create(request(name, ["serve"])))._unsafeUnwrap();
    const victim = await until("a monitor", () => recordsOf(f.store.db).process(id));
    await Bun.sleep(round); // the moment of the kill is what varies; nothing is concluded from the time
    process.kill(victim.pid, "SIGKILL");
    const { exitMessage, exitCode } = await reached(name, "Stopped");
    expect({ exitCode, exitMessage }).toEqual({ exitCode: null, exitMessage: expect.stringMatching(/monitor/) });
    expect(existsSync(join(f.root, "instances", id, "vmm.sock"))).toBe(false);
    (await f.instances.remove(name, { graceful: true }))._unsafeUnwrap();
  }
  expect(monitorsIn(f.root)).toEqual([]);
});
