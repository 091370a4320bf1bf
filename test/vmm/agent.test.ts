// What the monitor asks of an agent, and what becomes of a save whose agent refuses, is silent or is slow. The test plays agent
// and machine; what a real agent does is tested under test/guest.
import { afterEach, expect, test } from "bun:test";
import { Epoll } from "../../src/ffi/epoll.ts";
import { decodePairs, pairValue, type Pair } from "../../src/pairs.ts";
import { Agent } from "../../src/vmm/agent.ts";
import type { Guest } from "../../src/vmm/guest.ts";
import { Frame } from "../../src/vmm/protocol.ts";
import { Record } from "../../src/vmm/record.ts";
import { Sleep } from "../../src/vmm/sleep.ts";
import { NO_CHAIN } from "../../src/vmm/snapshot/plan.ts";

const epolls: Epoll[] = [];
afterEach(() => epolls.splice(0).forEach((epoll) => epoll.close()));

function rig(takes = true) {
  const epoll = new Epoll();
  epolls.push(epoll);
  const sent: { type: number; pairs: Pair[] }[] = [], heard: (string | null)[] = [];
  const agent = new Agent(epoll, (type, payload) => {
    if (takes) sent.push({ type, pairs: decodePairs(payload)! });
    return takes;
  });
  const ack = (index: number, ...more: Pair[]) => agent.answered([["id", pairValue(sent[index]!.pairs, "id")!], ...more]);
  return { epoll, agent, sent, heard, ack, done: (error: string | null) => void heard.push(error) };
}
const run = (epoll: Epoll, done: () => boolean) => { while (!done()) epoll.poll(1000); };

test("an acknowledgement settles its own request, once, whatever else the guest says", () => {
  const { agent, sent, heard, ack, done } = rig();
  agent.request(Frame.FREEZE, "freeze", [], 60_000, done);
  agent.request(Frame.WAKE, "wake", [["hostname", "a"]], 60_000, done);
  expect(sent.map(({ type }) => type)).toEqual([Frame.FREEZE, Frame.WAKE]);
  expect(pairValue(sent[1]!.pairs, "hostname")).toBe("a");
  agent.answered([["id", "1"], ["ok", "1"]]);
  agent.answered([["ok", "1"]]);
  expect(heard).toEqual([]);
  ack(1, ["ok", "1"]);
  ack(0, ["ok", "0"], ["error", "a process did not stop"]);
  ack(0, ["ok", "1"]);
  expect(heard).toEqual([null, "the guest refused to freeze: a process did not stop"]);
});

test("the ids of two agents differ: answers to a monitor before this one are nobody's", () => {
  const [one, two] = [rig(), rig()];
  one.agent.request(Frame.FREEZE, "freeze", [], 60_000, one.done);
  two.agent.request(Frame.FREEZE, "freeze", [], 60_000, two.done);
  two.agent.answered([["id", pairValue(one.sent[0]!.pairs, "id")!], ["ok", "1"]]);
  expect(two.heard).toEqual([]);
});

test("silence has an end, and so has waiting; a guest that reads nothing is told at once", () => {
  const { epoll, agent, heard, ack, done } = rig();
  agent.request(Frame.FREEZE, "freeze", [], 1, done);
  run(epoll, () => heard.length === 1);
  agent.request(Frame.THAW, "thaw", [], 60_000, done)();
  ack(0, ["ok", "1"]);
  const full = rig(false);
  full.agent.request(Frame.THAW, "thaw", [], 60_000, full.done);
  expect([...heard, ...full.heard]).toEqual([
    "the guest did not acknowledge within 1 ms that it should freeze", "the request to thaw was called off", "the guest does not read what it is told (thaw)",
  ]);
});

/** A guest whose machine and devices only note what is done to them. */
function sleeper() {
  const { epoll, agent, sent, ack } = rig();
  const done: string[] = [], note = (what: string) => () => void done.push(what);
  const machine = { pause: (paused: () => void) => (done.push("pause"), paused()), resume: note("run") };
  const devices = { agent: true, deafen: note("deafen"), resume: note("resume"), openGates: note("open"), quiesce: () => void done.push("quiesce") };
  const guest = { machine, devices, agent, params: {}, chain: NO_CHAIN } as unknown as Guest;
  const record = new Record(() => {});
  record.booted();
  record.running();
  const clock = { ms: 0 };
  const sleep = new Sleep(guest, { epoll, pagemapFd: -1, record, deaf: note("deaf") }, () => clock.ms);
  const errors: string[] = [];
  const save = () => sleep.saveTo({ id: "g", base: null }, { machine: -1, memory: -1 }, (_result, error) => void errors.push(error));
  return { epoll, sleep, sent, ack, done, record, errors, save, clock };
}

test("a workload that can't be frozen is thawed, and nothing else has been done to the guest", () => {
  const { sent, ack, done, errors, save, sleep, record } = sleeper();
  save();
  ack(0, ["ok", "0"], ["error", "a process did not stop"]);
  expect(sent.map(({ type }) => type)).toEqual([Frame.FREEZE, Frame.THAW]);
  expect(errors).toEqual([]); // not before it runs on
  ack(1, ["ok", "1"]);
  expect(errors).toEqual(["Cannot save the machine: the guest refused to freeze its workload: a process did not stop"]);
  expect(done).toEqual([]);
  expect(record.status.state).toBe("running");
  expect(sleep.refusal(null)).toBeNull();
});

test("cancelSave() ends the wait for the freeze at once", () => {
  const { sent, ack, done, errors, save, sleep } = sleeper();
  save();
  sleep.cancelSave();
  ack(0, ["ok", "1"]); // too late
  expect(sent.map(({ type }) => type)).toEqual([Frame.FREEZE, Frame.THAW]);
  ack(1, ["ok", "1"]);
  expect(errors).toEqual(["Cannot save the machine: it was called off"]);
  expect(done).toEqual([]);
});

test("a woken guest answers after it has said who it is; its gates open before its workload is let go", () => {
  const { sent, ack, done, sleep, record } = sleeper();
  const heard: (string | null)[] = [], released: string[] = [];
  record.restored(1, 2);
  sleep.wake({ hostname: "box", ip: "10.0.0.2", gateway: "10.0.0.1" }, 60_000, () => void done.push("running"), (error) => void heard.push(error));
  const wake = new Map(sent[0]!.pairs);
  expect([...wake.keys()]).toEqual(["id", "realtime_ns", "seed", "hostname", "ip", "gateway"]);
  expect(wake.get("seed")).toMatch(/^[0-9a-f]{128}$/);
  expect(Math.abs(Number(wake.get("realtime_ns")) / 1e6 - Date.now())).toBeLessThan(60_000);
  expect(heard).toEqual([]);
  expect(sleep.refusal(null)).toContain("it is gated");
  ack(0, ["ok", "1"]);
  expect(heard).toEqual([null]);
  sleep.resume((status, error) => void released.push(status?.state ?? error));
  expect(done).toEqual(["run", "running", "open"]);
  expect(released).toEqual([]);
  ack(1, ["ok", "1"]);
  expect(released).toEqual(["running"]);
});

test("a guest whose answers take long is told the time again, from the third time on with the way added, until its clock can't be far off or it was told often enough", () => {
  for (const [wayMs, expected] of [[20, 1], [21, 3], [40, 3], [41, 5], [20_000, 5]] as const) {
    const { sent, ack, clock, sleep, record } = sleeper();
    const heard: (string | null)[] = [];
    record.restored(1, 2);
    sleep.wake({ hostname: "box" }, 60_000, () => {}, (error) => void heard.push(error));
    for (let i = 0; i < expected; i++) {
      expect(heard).toEqual([]);
      clock.ms += wayMs;
      ack(i, ["ok", "1"]);
    }
    expect(heard).toEqual([null]);
    expect(sent.map(({ type }) => type)).toEqual(sent.map(() => Frame.WAKE));
    expect(sent.slice(1).map(({ pairs }) => pairs.map(([key]) => key))).toEqual(sent.slice(1).map(() => ["id", "realtime_ns"]));
    const told = sent.map(({ pairs }) => BigInt(new Map(pairs).get("realtime_ns")!));
    if (expected > 1) expect(told[2]! - told[1]!).toBeGreaterThanOrEqual(BigInt(wayMs) * 500_000n); // both read a clock that went on in between
  }
});

test("a guest that does not thaw is asked again by the next resume()", () => {
  const { sent, ack, sleep, record } = sleeper();
  const heard: string[] = [], resume = () => sleep.resume((status, error) => void heard.push(status?.state ?? error));
  record.restored(1, 2);
  sleep.wake({ hostname: "box" }, 60_000, () => {}, () => {});
  ack(0, ["ok", "1"]);
  resume();
  ack(1, ["ok", "0"], ["error", "no cgroup"]);
  resume();
  ack(2, ["ok", "1"]);
  expect(sent.map(({ type }) => type)).toEqual([Frame.WAKE, Frame.THAW, Frame.THAW]);
  expect(heard).toEqual(["the guest refused to thaw its workload: no cgroup", "running"]);
});
