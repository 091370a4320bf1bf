import { expect, test } from "bun:test";
import { bootId, processStart, ProcessHandle, SIGKILL } from "../../src/ffi/process.ts";

test("ProcessHandle signals the one process and tells that it has ended", async () => {
  const child = Bun.spawn(["sleep", "1000"]);
  const start = processStart(child.pid);
  expect(start).toBeGreaterThan(0);
  expect(ProcessHandle.open(child.pid, start! + 1)).toBeNull();
  const handle = ProcessHandle.open(child.pid, start)!;
  expect(handle.pid).toBe(child.pid);
  expect(handle.signal(SIGKILL)).toBe(true);
  await child.exited;
  expect(handle.signal(SIGKILL)).toBe(false);
  handle.close();
  expect(ProcessHandle.open(child.pid)).toBeNull();
  expect(processStart(child.pid)).toBeNull();
});

test("processStart() reads past a name with spaces and parentheses", async () => {
  const child = Bun.spawn(["sh", "-c", "printf 'a) b 1' > /proc/$$/comm; echo; exec cat"], { stdin: "pipe", stdout: "pipe" });
  await child.stdout.getReader().read();
  expect(processStart(child.pid)).toBeGreaterThan(1000);
  child.stdin.end();
  await child.exited;
});

test("bootId() is a UUID", () => expect(bootId()).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/));
