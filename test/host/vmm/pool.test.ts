// The pool with real monitors: `dormouse vmm` from the sources.
import { afterAll, afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ProcessHandle, processStart, SIGKILL } from "../../../src/ffi/process.ts";
import { openPoller } from "../../../src/host/poller.ts";
import { socketPath } from "../../../src/host/vmm/files.ts";
import { Machine } from "../../../src/host/vmm/machine.ts";
import { openPool, type VmmPool } from "../../../src/host/vmm/pool.ts";
import { vmmCommand, type Spawned } from "../../../src/host/vmm/spawn.ts";
import { createLogger } from "../../../src/log.ts";
import { TempDir } from "../../support/paths.ts";
import { until } from "../../support/until.ts";

const poller = openPoller();
afterAll(() => poller.close());

const SHAPE = { memoryBytes: 2 ** 28, vcpus: 1 };

let root: TempDir;
let pools: VmmPool[];
let logged: string[];
beforeEach(() => {
  root = new TempDir("pool");
  [pools, logged] = [[], []];
});
afterEach(() => {
  for (const pool of pools) pool.close();
  root[Symbol.dispose]();
});

function open(size: number, command = vmmCommand()): VmmPool {
  const pool = openPool({ command, size, dir: root.join("pool"), poller, logger: createLogger("warn", (line) => logged.push(line)) })._unsafeUnwrap();
  pools.push(pool);
  return pool;
}

const isAlive = ({ pid, start }: Spawned): boolean => {
  const handle = ProcessHandle.open(pid, start);
  handle?.close();
  return handle !== null;
};
const sockets = () => readdirSync(root.join("pool")).filter((name) => name.endsWith(".sock")).sort();
const attach = (spawned: Spawned, dir: string) => Machine.attach(spawned, dir, poller, { onState() {}, onEnded() {}, onUnreachable() {} })._unsafeUnwrap()!;

test("take() hands out a started monitor, which answers at the instance's socket and outlives its pool", async () => {
  const pool = open(2);
  expect(pool.idle).toBe(2);
  expect(sockets()).toEqual(["1.sock", "2.sock"]);
  const dir = root.join("instance");
  mkdirSync(dir);
  writeFileSync(socketPath(dir), "of an earlier monitor");
  const spawned = pool.take(dir, SHAPE)._unsafeUnwrap();
  expect(pool.idle).toBe(1);
  expect(sockets()).toEqual(["2.sock"]);
  const machine = attach(spawned, dir);
  expect((await machine.request("status", null))._unsafeUnwrap().state).toBe("created");
  pool.close();
  expect(sockets()).toEqual([]);
  expect((await machine.request("status", null))._unsafeUnwrap().state).toBe("created");
  machine.detach();
  await until("the end of a monitor whose daemon has hung up", () => !isAlive(spawned));
});

test("the pool fills up again, one after the other; what it can't give is started on the spot", async () => {
  const pool = open(2);
  const machines = Array.from({ length: 4 }, (_, i) => {
    const dir = root.join(`instance-${i}`);
    return attach(pool.take(dir, SHAPE)._unsafeUnwrap(), dir);
  });
  for (const machine of machines) expect((await machine.request("status", null))._unsafeUnwrap().state).toBe("created");
  await until("a full pool", () => pool.idle === 2);
  machines.forEach((machine) => machine.kill());
  await Promise.all(machines.map((machine) => machine.ended));
});

test("an idle monitor that has died is not handed out", async () => {
  const pool = open(2);
  const monitors = monitorsInPool();
  expect(monitors.length).toBe(2);
  for (const monitor of monitors) {
    monitor.signal(SIGKILL);
    while (processStart(monitor.pid) !== null); // no turn of the loop, which would hear of it
    monitor.close();
  }
  const dir = root.join("instance");
  const machine = attach(pool.take(dir, SHAPE)._unsafeUnwrap(), dir);
  expect(monitors.map(({ pid }) => pid)).not.toContain(machine.pid);
  expect((await machine.request("status", null))._unsafeUnwrap().state).toBe("created");
  machine.kill();
  await machine.ended;
});

test("a pool that can't start monitors says so, and take() why", () => {
  const pool = open(2, ["/nonexistent/dormouse"]);
  expect(pool.idle).toBe(0);
  expect(logged).toEqual([expect.stringContaining("/nonexistent/dormouse")]);
  expect(sockets()).toEqual([]);
  expect(pool.take(root.join("instance"), SHAPE)._unsafeUnwrapErr().message).toContain("/nonexistent/dormouse");
});

test("a pool of 0 starts each monitor when it is asked for", async () => {
  const pool = open(0);
  expect(sockets()).toEqual([]);
  const dir = root.join("instance");
  const machine = attach(pool.take(dir, SHAPE)._unsafeUnwrap(), dir);
  machine.kill();
  await machine.ended;
  expect(pool.idle).toBe(0);
});

test("a killed daemon's monitors end, and what it left is swept by the next", async () => {
  const daemon = Bun.spawn([process.execPath, join(import.meta.dir, "pool-daemon.ts"), root.join("pool"), ...vmmCommand()], { stdin: "ignore", stdout: "pipe", stderr: "inherit" });
  const { value } = await daemon.stdout.getReader().read();
  expect(new TextDecoder().decode(value)).toBe("idle 2\n");
  const left = monitorsInPool();
  expect(left.length).toBe(2);
  daemon.kill("SIGKILL");
  await daemon.exited;
  for (const monitor of left) {
    await until("the end of its monitors", () => !monitor.signal(0));
    monitor.close();
  }
  expect(existsSync(root.join("pool/1.sock"))).toBe(true);
  open(0);
  expect(sockets()).toEqual([]);
});

/** Those whose words go to the pool's log. */
function monitorsInPool(): ProcessHandle[] {
  const log = root.join("pool/vmm.log");
  const pids = readdirSync("/proc").filter((entry) => /^\d+$/.test(entry) && linkOf(`/proc/${entry}/fd/1`) === log);
  return pids.flatMap((pid) => ProcessHandle.open(Number(pid)) ?? []);
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return ""; // ended meanwhile, or without such a descriptor
  }
}
