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
  const clock = { ns: 1_700_000_000_000_000_000n };
  const sleep = new Sleep(guest, { epoll, pagemapFd: -1, record, deaf: note("deaf") }, () => clock.ns);
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
  const { sent, ack, done, sleep, record, clock } = sleeper();
  const heard: (string | null)[] = [], released: string[] = [];
  record.restored(1, 2);
  sleep.wake({ hostname: "box", ip: "10.0.0.2", gateway: "10.0.0.1" }, 60_000, () => void done.push("running"), (error) => void heard.push(error));
  const wake = new Map(sent[0]!.pairs);
  expect([...wake.keys()]).toEqual(["id", "realtime_ns", "seed", "hostname", "ip", "gateway"]);
  expect(wake.get("seed")).toMatch(/^[0-9a-f]{128}$/);
  expect(wake.get("realtime_ns")).toBe(String(clock.ns));
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

/** A guest whose agent hears each word some time after it was said, and is heard some time after it has answered; those times in order. */
function clockOf(ways: readonly (readonly [thereMs: number, backMs: number])[]) {
  const { sent, ack, clock, sleep, record } = sleeper();
  const heard: (string | null)[] = [];
  let guestNs = 5n - clock.ns; // what its clock is ahead
  record.restored(1, 2);
  sleep.wake({ hostname: "box" }, 60_000, () => {}, (error) => void heard.push(error));
  for (let i = 0; heard.length === 0; i++) {
    const [thereMs, backMs] = ways[Math.min(i, ways.length - 1)]!, told = new Map(sent[i]!.pairs);
    clock.ns += BigInt(thereMs) * 1_000_000n;
    const set = told.get("realtime_ns"), shift = told.get("offset_ns");
    if (set !== undefined) guestNs = BigInt(set) - clock.ns;
    if (shift !== undefined) guestNs += BigInt(shift);
    const answer: Pair = ["realtime_ns", String(clock.ns + guestNs)];
    clock.ns += BigInt(backMs) * 1_000_000n;
    ack(i, ["ok", "1"], answer);
  }
  expect(heard).toEqual([null]);
  expect(sent.map(({ type }) => type)).toEqual(sent.map(() => Frame.WAKE));
  return { offMs: Number(guestNs) / 1e6, words: sent.map(({ pairs }) => pairs.map(([key]) => key).at(-1)) };
}

test("a guest's clock is put right however long each word takes, and only as often as it must be asked", () => {
  expect(clockOf([[20, 0]])).toEqual({ offMs: -20, words: ["hostname"] });
  // Late for the first word, as a guest that has yet to run: its next answer says by how much.
  expect(clockOf([[800, 1], [5, 5]])).toEqual({ offMs: -2, words: ["hostname", "id", "offset_ns"] });
  // Now the ways there take long, now those back: no answer says enough, two of them do.
  expect(clockOf([[800, 500], [1, 300], [300, 1], [999, 999]])).toEqual({ offMs: 0, words: ["hostname", "id", "id", "offset_ns"] });
  // A shift that is late shifts as well as another.
  expect(clockOf([[400, 400], [15, 25], [70_000, 0]]).offMs).toBe(5);
  // Always slow: as right as can be told.
  expect(clockOf([[100, 200]])).toEqual({ offMs: 50, words: ["hostname", ...Array<string>(7).fill("id"), "offset_ns"] });
});

test("a guest that says nothing of its clock, or no number, or any number, is asked no more than another", () => {
  for (const [text, words] of [[null, 1], ["noon", 1], ["-1", 1], ["1e9", 1], ["0", 2], ["9".repeat(19), 2], ["9".repeat(20), 1]] as const) {
    const { sent, ack, sleep, record } = sleeper();
    const heard: (string | null)[] = [];
    record.restored(1, 2);
    sleep.wake({ hostname: "box" }, 60_000, () => {}, (error) => void heard.push(error));
    for (let i = 0; heard.length === 0; i++) ack(i, ["ok", "1"], ...(text === null ? [] : [["realtime_ns", text] as const]));
    expect({ text, words: sent.length }).toEqual({ text, words });
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
