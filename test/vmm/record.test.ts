import { afterAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { O_CREAT, O_RDWR, openFd } from "../../src/ffi/fd.ts";
import { panicMessage, Tail } from "../../src/vmm/panic.ts";
import type { VmmStatus } from "../../src/vmm/protocol.ts";
import { Record } from "../../src/vmm/record.ts";
import { TempDir } from "../support/paths.ts";

const temp = new TempDir("record");
let count = 0;
afterAll(() => temp[Symbol.dispose]());

function record() {
  const path = temp.join(`status-${++count}.json`);
  const seen: VmmStatus[] = [];
  const it = new Record((status) => seen.push(status));
  it.open(openFd(path, O_CREAT | O_RDWR));
  return { it, seen, onDisk: () => JSON.parse(readFileSync(path, "utf8")) as VmmStatus };
}

test("Record writes each status whole, and keeps what init said of the workload's end", () => {
  const { it, seen, onDisk } = record();
  it.booted();
  expect(onDisk().state).toBe("initializing");
  it.running();
  it.exited(3, "a long message that makes the file longer than what follows", false);
  it.exited(4, "later words don't count", false);
  it.ended("reset", "the guest reset itself");
  expect(onDisk()).toEqual(it.status);
  expect(onDisk()).toMatchObject({ state: "ended", reason: "exited", exitCode: 3, exitMessage: "a long message that makes the file longer than what follows" });
  expect(seen.map((status) => status.state)).toEqual(["initializing", "running", "running", "ended"]);
});

test("Record takes the machine's reason where init said nothing", () => {
  const { it, onDisk } = record();
  it.booted();
  it.ended("triple-fault", "gave up");
  it.ended("killed", "too late");
  expect(onDisk()).toMatchObject({ reason: "triple-fault", exitMessage: "gave up", exitCode: null });
});

test("Record.resumed() goes back to where it was paused", () => {
  const { it } = record();
  it.booted();
  it.paused();
  it.resumed();
  expect(it.status.state).toBe("initializing");
  it.running();
  it.paused();
  it.resumed();
  expect(it.status.state).toBe("running");
});

test("panicMessage() finds the last panic and drops time stamps", () => {
  const text = "[    0.1] boot\n[    1.25] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0\n[    1.26] CPU: 0 PID: 1\n";
  expect(panicMessage(text)).toBe("Kernel panic - not syncing: Attempted to kill init! exitcode=0x0\nCPU: 0 PID: 1");
  expect(panicMessage("all is well\n")).toBeNull();
});

test("Tail keeps the end, and not more than it may", () => {
  const tail = new Tail();
  for (let i = 0; i < 5000; i++) tail.add(Buffer.from(`line ${i}\n`));
  expect(tail.text().length).toBeLessThanOrEqual(8192);
  expect(tail.text().endsWith("line 4999\n")).toBe(true);
});
