import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import type { Pair } from "../../src/pairs.ts";
import { Frame } from "../../src/vmm/protocol.ts";
import { buildHarness, Guest, makeRoot } from "./harness.ts";
import { removeFolder, tempFolder } from "./machine.ts";

const folder = tempFolder();
let harness = "";
const guests: Guest[] = [];

beforeAll(async () => void (harness = await buildHarness(folder)), 120_000);
afterEach(() => guests.splice(0).forEach((guest) => guest.kill()));
afterAll(() => removeFolder(folder));

async function run(args: readonly string[], ...config: Pair[]): Promise<Guest> {
  const own = mkdtempSync(join(folder, "g-"));
  await makeRoot(own);
  const guest = await Guest.start(harness, own, [...args.map((arg): Pair => ["arg", arg]), ...config]);
  guests.push(guest);
  return guest;
}
const sh = (script: string, ...config: Pair[]) => run(["sh", "-c", script], ...config);

test("the workload is PID 1, its output and code are reported, states in order", async () => {
  const guest = await sh("echo pid $$; echo err >&2; exit 3");
  expect(await guest.ended()).toEqual(new Map([["state", "exited"], ["code", "3"], ["message", "exited with code 3"], ["reboot", "0"]]));
  expect(guest.states.map((s) => s.get("state"))).toEqual(["initializing", "running", "exited"]);
  expect(guest.output.split("\n").sort()).toEqual(["", "err", "pid 1"]);
});

test("a workload that can't start is never running", async () => {
  const guest = await run(["nosuch"]);
  const state = await guest.ended();
  expect(state.get("code")).toBe("127");
  expect(state.get("message")).toStartWith('Cannot run "nosuch": command not found in PATH (');
  expect(guest.states.map((s) => s.get("state"))).toEqual(["initializing", "exited"]);
});

test("SHUTDOWN sends the stop signal, and the workload's own code counts", async () => {
  const guest = await sh("trap 'echo bye; exit 4' QUIT; echo ready; while :; do sleep 0.02; done", ["stop_signal", "SIGQUIT"]);
  await guest.until(() => guest.output.includes("ready"));
  guest.request(Frame.SHUTDOWN, ["signal", "0"], ["grace_ms", "60000"]);
  expect((await guest.ended()).get("code")).toBe("4");
  expect(guest.output).toBe("ready\nbye\n");
});

test("past the grace SIGKILL ends a workload that does not listen", async () => {
  const guest = await run(["sleep", "1000000"]);
  guest.request(Frame.SHUTDOWN, ["signal", "15"], ["grace_ms", "100"]);
  const state = await guest.ended();
  expect(state.get("code")).toBe("137");
  expect(state.get("message")).toBe("killed by signal 9 (SIGKILL) after a grace period of 100 ms");
});

test("a second SHUTDOWN shortens the grace", async () => {
  const guest = await run(["sleep", "1000000"]);
  guest.request(Frame.SHUTDOWN, ["grace_ms", "600000"]);
  guest.request(Frame.SHUTDOWN, ["grace_ms", "0"]);
  expect((await guest.ended()).get("code")).toBe("137");
});

test("every byte of a large output arrives before the end is reported", async () => {
  const guest = await sh("head -c 5000000 /dev/zero | tr '\\0' x");
  expect((await guest.ended()).get("code")).toBe("0");
  expect(guest.output.length).toBe(5_000_000);
});

test("execs die with the workload and are told so", async () => {
  const guest = await run(["sleep", "1000000"]);
  const exec = await guest.exec(["cat"]);
  await exec.until(() => exec.started);
  guest.request(Frame.SHUTDOWN, ["grace_ms", "0"]);
  expect(await exec.code()).toBe(137);
  await guest.ended();
});

test("ATTACH replays what was said, goes on live, and ends with EXIT", async () => {
  const guest = await sh("echo before; echo warning >&2; read line; echo got $line; exit 6", ["stdin", "1"]);
  await guest.until(() => guest.output.includes("before") && guest.output.includes("warning"));
  const [one, two] = [await guest.attach(), await guest.attach()];
  await one.until(() => one.stdout === "before\n" && one.stderr === "warning\n");
  await two.until(() => two.stdout === "before\n");
  one.stdin("word\n");
  expect(await one.code()).toBe(6);
  expect(await two.code()).toBe(6);
  expect([one.stdout, two.stdout]).toEqual(["before\ngot word\n", "before\ngot word\n"]);
  expect(guest.output).toContain("got word\n");
  await guest.ended();
});

test("ATTACH replays at most the last 64 KiB", async () => {
  const guest = await sh("head -c 200000 /dev/zero | tr '\\0' x; echo end; read line", ["stdin", "1"]);
  await guest.until(() => guest.output.endsWith("end\n"));
  const session = await guest.attach();
  await session.until(() => session.stdout.endsWith("end\n"));
  expect(session.bytes).toBeGreaterThan(40_000);
  expect(session.bytes).toBeLessThanOrEqual(65_536);
  session.endStdin();
  expect(await session.code()).toBe(1);
});

test("a slow attached reader slows the workload and loses nothing; its hang-up frees it", async () => {
  const guest = await sh("read go; head -c 3000000 /dev/zero | tr '\\0' x; echo end", ["stdin", "1"]);
  const [slow, gone] = [await guest.attach(), await guest.attach()];
  await slow.until(() => slow.started && gone.started);
  slow.pause();
  gone.pause();
  slow.stdin("go\n");
  await guest.until(() => guest.output.length > 0);
  gone.hangUp();
  slow.resume();
  expect(await slow.code()).toBe(0);
  expect(slow.bytes).toBe(3_000_004);
  await guest.ended();
  expect(guest.output.length).toBe(3_000_004);
});

test("a workload with a terminal: size, resize, input, signals", async () => {
  const guest = await sh("tty; stty size; trap 'echo winch; stty size; exit 0' WINCH; echo ready; while :; do sleep 0.02; done", ["tty", "1"], ["rows", "30"], ["cols", "90"]);
  await guest.until(() => guest.output.includes("ready"));
  const session = await guest.attach();
  session.resize(50, 132);
  expect(await session.code()).toBe(0);
  expect(session.stdout.replaceAll("\r", "")).toMatch(/^\/dev\/pts\/\d+\n30 90\nready\nwinch\n50 132\n$/);
  await guest.ended();
});

test("SIGNAL on an attached connection goes to the workload", async () => {
  const guest = await sh("trap 'exit 11' USR1; echo ready; while :; do sleep 0.02; done");
  await guest.until(() => guest.output.includes("ready"));
  const session = await guest.attach();
  session.signal(10);
  expect(await session.code()).toBe(11);
  await guest.ended();
});

test("user, environment and working directory of the workload", async () => {
  const guest = await sh("id -u; id -G; pwd; echo $HOME $HOSTNAME $A; echo x > /dev/stderr", ["user", "ann"], ["cwd", "/srv/app"], ["env", "A=1"], ["env", "A=2"]);
  expect((await guest.ended()).get("code")).toBe("0");
  expect(guest.output.split("\n").sort()).toEqual(["", "/home/ann box 2", "/srv/app", "1000", "1000 29 50", "x"]);
});

test("SYNC is acknowledged; an unknown key and an unknown frame are refused with a reason", async () => {
  const guest = await run(["sleep", "1000000"]);
  guest.request(Frame.SYNC, ["id", "s1"]);
  guest.request(Frame.THAW, ["id", "t1"], ["colour", "red"]);
  guest.request(Frame.STDOUT, ["id", "x1"]);
  await guest.until(() => guest.acks.length === 3);
  const ack = (id: string) => guest.acks.find((a) => a.get("id") === id);
  expect(ack("s1")?.get("ok")).toBe("1");
  expect(guest.acks.map((a) => a.get("error") ?? "").join("\n")).toContain('no key "colour"');
  expect(ack("x1")?.get("error")).toContain("frame 21");
});
