// The daemon's end of a control socket against a monitor that lies, is silent, or dies. The test plays the monitor.
import { afterAll, afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { closeFd, O_RDONLY, openFd } from "../../../src/ffi/fd.ts";
import { packetPair, receivePacket, sendPacket } from "../../../src/ffi/socket.ts";
import { openPoller } from "../../../src/host/poller.ts";
import type { DiskFailure } from "../../../src/host/vmm/parse.ts";
import { VmmClient } from "../../../src/host/vmm/client.ts";
import type { VmmStatus } from "../../../src/vmm/protocol.ts";
import { until } from "../../support/until.ts";

const poller = openPoller();
const dir = mkdtempSync(join(tmpdir(), "dormouse-client-"));
afterAll(async () => {
  await poller.close();
  rmSync(dir, { recursive: true, force: true });
});

const status: VmmStatus = { state: "running", bootedAt: 1, runningAt: 2, endedAt: null, reason: null, exitCode: null, exitMessage: null };
let monitor: number;
let client: VmmClient;
let heard: VmmStatus[];
let deaf: number;
let failures: DiskFailure[];
let closed: string[];
beforeEach(() => {
  const [ours, theirs] = packetPair();
  monitor = theirs;
  [heard, closed, deaf, failures] = [[], [], 0, []];
  client = new VmmClient(ours, poller, { onState: (one) => heard.push(one), onDeaf: () => void deaf++, onDiskFailed: (failure) => failures.push(failure), onClosed: (reason) => closed.push(reason) });
});
afterEach(() => {
  client.close();
  if (monitor >= 0) closeFd(monitor);
});

/** The next request, as the monitor gets it. */
const requested = () => until("a request", () => {
  const packet = receivePacket(monitor, new Uint8Array(65536));
  return packet === null || packet === "again" ? null : { message: JSON.parse(Buffer.from(packet.bytes).toString()) as { id: number; method: string; params: unknown; fds: string[] }, fds: packet.fds };
});
const say = (message: unknown) => sendPacket(monitor, Buffer.from(typeof message === "string" ? message : JSON.stringify(message)));
const hangUp = () => (closeFd(monitor), (monitor = -1));

test("request() sends parameters and descriptors, and brings the result; its status is heard too", async () => {
  writeFileSync(join(dir, "kernel"), "a kernel");
  const kernel = openFd(join(dir, "kernel"), O_RDONLY);
  const answer = client.request("shutdown", { graceMs: 5, signal: 0 }, { fds: { kernel } });
  closeFd(kernel);
  const { message, fds } = await requested();
  expect(message).toMatchObject({ method: "shutdown", params: { graceMs: 5, signal: 0 }, fds: ["kernel"] });
  expect(readFileSync(`/proc/self/fd/${fds[0]}`, "utf8")).toBe("a kernel");
  fds.forEach(closeFd);
  say({ id: message.id, ok: true, result: status });
  expect((await answer)._unsafeUnwrap()).toEqual(status);
  expect(heard).toEqual([status]);
});

test("answers find their requests in any order", async () => {
  const one = client.request("status", null), two = client.request("kill", null);
  const [first, second] = [await requested(), await requested()];
  say({ id: second.message.id, ok: true, result: null });
  say({ id: first.message.id, ok: false, error: "no" });
  expect((await two)._unsafeUnwrap()).toBeNull();
  expect((await one)._unsafeUnwrapErr()).toMatchObject({ code: "host.process", message: "no" });
});

test("statuses are heard in the monitor's order, events and answers alike", async () => {
  const booting = { ...status, state: "initializing" as const, runningAt: null };
  const answer = client.request("status", null);
  const { message } = await requested();
  say({ event: "state", status: booting });
  say({ id: message.id, ok: true, result: booting });
  say({ event: "state", status });
  await answer;
  await until("the last status", () => heard.length === 3);
  expect(heard.map(({ state }) => state)).toEqual(["initializing", "initializing", "running"]);
});

test("save() is heard to go deaf, and brings what it wrote; a restore's status is heard like any other", async () => {
  const saving = client.request("save", { id: "g1", base: null });
  const save = await requested();
  say({ event: "deaf" });
  say({ id: save.message.id, ok: true, result: { dataBytes: 4096, zeroPages: 3, pausedMs: 12.5 } });
  expect((await saving)._unsafeUnwrap()).toEqual({ dataBytes: 4096, zeroPages: 3, pausedMs: 12.5 });
  expect(deaf).toBe(1);
  const restoring = client.request("restore", { disks: [], identity: { hostname: "a" }, deadlineMs: 1 });
  const result = { status, stepsMs: { load: 1, machine: 2, run: 3, acknowledged: 4 }, runsSinceMs: 5 };
  say({ id: (await requested()).message.id, ok: true, result });
  expect((await restoring)._unsafeUnwrap()).toEqual(result);
  expect(heard).toEqual([status]);
});

test("a disk's failure is heard; one that makes no sense ends the connection", async () => {
  say({ event: "diskFailed", disk: 2, errno: 28 });
  say({ event: "diskFailed", disk: 2, errno: "full" });
  await until("the end", () => closed.length > 0);
  expect({ failures, closed }).toEqual({ failures: [{ disk: 2, errno: 28 }], closed: ["the monitor sent an event that can't be read"] });
});

test("requestFds() hands an answer's descriptors over; request() and a bad answer close them", async () => {
  writeFileSync(join(dir, "tap"), "a tap");
  const answer = async (fds: string[] | undefined, send: number) => {
    const fd = openFd(join(dir, "tap"), O_RDONLY);
    const { message } = await requested();
    sendPacket(monitor, Buffer.from(JSON.stringify({ id: message.id, ok: true, result: null, fds })), Array.from({ length: send }, () => fd));
    closeFd(fd);
  };
  const open = () => readdirSync("/proc/self/fd").map((fd) => { try { return readlinkSync(`/proc/self/fd/${fd}`); } catch { return ""; } }).filter((path) => path === join(dir, "tap")).length;
  const tap = client.requestFds("tap", null);
  await answer(["tap"], 1);
  const { fds } = (await tap)._unsafeUnwrap();
  expect(readFileSync(`/proc/self/fd/${fds["tap"]}`, "utf8")).toBe("a tap");
  closeFd(fds["tap"]!);
  const without = client.request("tap", null);
  await answer(["tap"], 1);
  expect((await without)._unsafeUnwrap()).toBeNull();
  for (const [names, send] of [[undefined, 1], [["tap"], 0], [["tap", "tap"], 2]] as const) {
    const bad = client.requestFds("tap", null);
    await answer(names === undefined ? undefined : [...names], send);
    expect((await bad)._unsafeUnwrapErr().message).toContain("Cannot read the monitor's answer to tap");
  }
  expect(open()).toBe(0);
});

test("a silent monitor is an error at the deadline, and its late answer is dropped", async () => {
  const late = client.request("status", null, { timeoutMs: 10 });
  const { message } = await requested();
  expect((await late)._unsafeUnwrapErr()).toMatchObject({ code: "host.process", message: expect.stringContaining("silent for 10 ms") });
  say({ id: message.id, ok: true, result: status });
  const next = client.request("status", null);
  say({ id: (await requested()).message.id, ok: true, result: { ...status, exitCode: 7 } });
  expect((await next)._unsafeUnwrap().exitCode).toBe(7);
});

test("results of a wrong shape are errors of their request alone", async () => {
  const wrong = [null, "x", {}, { ...status, state: "flying" }, { ...status, exitCode: "0" }, { ...status, exitCode: 256 }, { ...status, reason: "bored" }, { ...status, bootedAt: "now" }];
  for (const result of wrong) {
    const answer = client.request("status", null);
    say({ id: (await requested()).message.id, ok: true, result });
    expect((await answer)._unsafeUnwrapErr()).toMatchObject({ code: "host.process", message: expect.stringContaining("status") });
  }
  for (const result of [{}, { cpuSeconds: 1, exits: -1, disks: [], net: null }, { cpuSeconds: 1, exits: 1, disks: [{}], net: null }, { cpuSeconds: 1, exits: 1, disks: [], net: {} }]) {
    const answer = client.request("stats", null);
    say({ id: (await requested()).message.id, ok: true, result });
    expect((await answer)._unsafeUnwrapErr().code).toBe("host.process");
  }
  expect(closed).toEqual([]);
});

test("what is no message at all ends the connection, once, and every request on it", async () => {
  for (const nonsense of ["{", "[]", "null", '"x"', '{"id":"1","ok":true}', '{"event":"party"}', '{"event":"state","status":{}}']) {
    const [ours, theirs] = packetPair();
    const reasons: string[] = [];
    const other = new VmmClient(ours, poller, { onState() {}, onClosed: (reason) => reasons.push(reason) });
    const answer = other.request("status", null);
    sendPacket(theirs, Buffer.from(nonsense));
    expect((await answer)._unsafeUnwrapErr().code).toBe("host.process");
    expect(reasons).toEqual([expect.stringContaining("the monitor sent")]);
    expect((await other.request("status", null))._unsafeUnwrapErr().message).toContain("it has gone");
    closeFd(theirs);
  }
});

test("a monitor that dies ends its requests; its last words are heard first", async () => {
  const answer = client.request("kill", null);
  await requested();
  say({ event: "state", status: { ...status, state: "ended", reason: "killed" } });
  hangUp();
  expect((await answer)._unsafeUnwrapErr().message).toContain("the monitor has closed it");
  expect(heard.map(({ state }) => state)).toEqual(["ended"]);
  expect(closed).toEqual(["the monitor has closed it"]);
});

test("close() ends requests and says nothing", async () => {
  const answer = client.request("status", null);
  client.close();
  client.close();
  expect((await answer)._unsafeUnwrapErr().message).toContain("the connection was closed");
  expect(closed).toEqual([]);
});

test("requests wait for room in a full socket, in order; one with descriptors says that there is none", async () => {
  const answers = Array.from({ length: 600 }, () => client.request("status", null));
  const refused = await client.request("vsock", { port: 1 }, { fds: { stream: 0 } });
  expect(refused._unsafeUnwrapErr()).toMatchObject({ code: "host.process", message: expect.stringContaining("EAGAIN") });
  const ids: number[] = [];
  for (let i = 0; i < answers.length; i++) {
    const { message } = await requested();
    ids.push(message.id);
    say({ id: message.id, ok: true, result: status });
  }
  expect(ids).toEqual([...ids].sort((a, b) => a - b));
  expect((await Promise.all(answers)).every((answer) => answer.isOk())).toBe(true);
});

test("a request that is too long for a packet is refused before it is sent", async () => {
  const answer = await client.request("boot", { memoryBytes: 0, vcpus: 1, cmdline: "x".repeat(70_000), xsave: true, disks: [] });
  expect(answer._unsafeUnwrapErr().message).toContain("more than a packet");
});
