// exec and attach through a real monitor process and real sockets; stand-in.ts plays the agent.
import { afterAll, afterEach, expect, setSystemTime, test } from "bun:test";
import type { ExecEnd, ExecListener, ExecRequest, ExecSession } from "../../../src/host/instances/service.ts";
import { Activities } from "../../../src/host/standby/activity.ts";
import { until } from "../../support/until.ts";
import { never, open, removeRoots, request, type Fixture } from "./fixture.ts";

let f: Fixture;
afterEach(() => f.close());
afterAll(removeRoots);

const command = (words: string[], change: Partial<ExecRequest> = {}): ExecRequest =>
  ({ command: words, tty: false, env: {}, cwd: null, user: null, rows: 24, cols: 80, timeoutMs: null, waitForAgentMs: 0, ...change });

/** Gathers what a session says. */
class Gather implements ExecListener {
  stdout = "";
  stderr = "";
  bytes = 0;
  drains = 0;
  readonly over: Promise<ExecEnd | string>;
  private finish!: (end: ExecEnd | string) => void;
  constructor(private readonly keep = true) {
    this.over = new Promise((resolve) => (this.finish = resolve));
  }
  onStdout(bytes: Uint8Array): void {
    this.bytes += bytes.length;
    if (this.keep) this.stdout += Buffer.from(bytes).toString();
  }
  onStderr(bytes: Uint8Array): void { this.stderr += Buffer.from(bytes).toString(); }
  onDrain(): void { this.drains++; }
  onEnd(end: ExecEnd): void { this.finish(end); }
  onLost(reason: string): void { this.finish(reason); }
}

const running = async (cmd: string[] = ["serve"]) => {
  f = await open();
  await f.instances.create(request("web", cmd));
  await f.instances.wait("web", "Running", 20_000, never());
};
const exec = async (words: string[], listener: ExecListener, change?: Partial<ExecRequest>): Promise<ExecSession> =>
  (await f.instances.exec("web", command(words, change), listener, never()))._unsafeUnwrap();

test("exec() brings output of both kinds, then the exit code and message", async () => {
  await running();
  const gather = new Gather();
  await exec(["echo", "hello", "world"], gather);
  expect(await gather.over).toEqual({ code: 3, message: "three" });
  expect([gather.stdout, gather.stderr]).toEqual(["hello world\n", "warned\n"]);
});

test("exec() tells the guest all that was asked for", async () => {
  await running();
  const gather = new Gather();
  await exec(["argv", ""], gather, { tty: true, rows: 50, cols: 132, env: { A: "1=2", B: "" }, cwd: "/tmp", user: "www", timeoutMs: 1500.2 });
  expect(await gather.over).toEqual({ code: 0, message: null });
  expect(JSON.parse(gather.stdout)).toEqual([
    ["arg", "argv"], ["arg", ""], ["env", "A=1=2"], ["env", "B="], ["cwd", "/tmp"], ["user", "www"], ["tty", "1"], ["rows", "50"], ["cols", "132"], ["timeout_ms", "1501"],
  ]);
});

test("a command that can't start ends with 127 and the guest's words", async () => {
  await running();
  const gather = new Gather();
  await exec(["missing"], gather);
  expect(await gather.over).toEqual({ code: 127, message: "missing: command not found" });
});

test("input goes in to its end, with resizes and signals", async () => {
  await running();
  const gather = new Gather();
  const session = await exec(["cat"], gather);
  session.resize(30, 100);
  session.signal(2);
  for (const part of ["a", "b".repeat(100_000), "c"]) session.writeStdin(Buffer.from(part));
  session.endStdin();
  expect(await gather.over).toEqual({ code: 0, message: null });
  expect(gather.stdout).toBe(`a${"b".repeat(100_000)}c`);
  expect(gather.stderr).toBe("resize 30 0 100 0\nsignal 2\n");
});

test("pause() stops the guest's output where the sockets are full, and resume() brings all of it", async () => {
  await running();
  const size = 8 * 2 ** 20;
  const gather = new Gather(false);
  const session = await exec(["flood", String(size)], gather);
  session.pause();
  // A command beside it comes and goes while this one stands still.
  const other = new Gather();
  await exec(["echo", "x"], other);
  await other.over;
  expect(gather.bytes).toBeLessThan(size / 2);
  session.resume();
  expect(await gather.over).toEqual({ code: 0, message: null });
  expect(gather.bytes).toBe(size);
});

test("writeStdin() asks to wait while the guest does not read, and onDrain() ends that", async () => {
  await running();
  const gather = new Gather(false);
  // `cat` echoes into a session that does not read: so it stops reading too.
  const session = await exec(["cat"], gather);
  session.pause();
  let sent = 0;
  const block = new Uint8Array(64 * 1024);
  while (session.writeStdin(block)) sent += block.length;
  sent += block.length;
  expect(gather.drains).toBe(0);
  session.resume();
  await until("room for more input", () => gather.drains > 0);
  session.endStdin();
  expect(await gather.over).toEqual({ code: 0, message: null });
  expect(gather.bytes).toBe(sent);
});

test("close() hangs up, and says nothing more", async () => {
  await running();
  let said = 0;
  const session = await exec(["cat"], { onStdout() {}, onStderr() {}, onDrain() {}, onEnd: () => said++, onLost: () => said++ });
  session.close();
  session.close();
  const lines = f.instances.logs("web", { source: "app", tail: 1, follow: true, signal: never() })._unsafeUnwrap();
  for await (const line of lines) {
    expect(line).toBe("hung up");
    break;
  }
  expect(said).toBe(0);
});

test("a guest that goes away in the middle is told as lost", async () => {
  await running();
  const vanished = new Gather(), killed = new Gather();
  await exec(["vanish"], vanished);
  expect(await vanished.over).toBe("the guest's agent hung up");
  await exec(["cat"], killed);
  await f.instances.remove("web", { graceful: false });
  expect(await killed.over).toBe("the guest's agent hung up");
});

test("exec() refuses what is not running, has no agent, or can't be sent", async () => {
  await running(["no-agent"]);
  const refused = async (words: string[], change?: Partial<ExecRequest>) => (await f.instances.exec("web", command(words, change), new Gather(), never()))._unsafeUnwrapErr();
  expect(await refused(["true"], { waitForAgentMs: 120 })).toMatchObject({ code: "instance.agent_unreachable", message: expect.stringContaining("the guest refused the connection") });
  expect((await refused(["x".repeat(70_000)])).code).toBe("request.bad");
  expect((await refused(["a\0b"])).code).toBe("request.bad");
  await f.instances.stop("web");
  expect(await refused(["true"])).toMatchObject({ code: "instance.invalid_state", details: { state: "Stopped" } });
});

test("a clock that is set back makes nobody wait longer for an agent", async () => {
  await running(["no-agent"]);
  const refused = f.instances.exec("web", command(["true"], { waitForAgentMs: 120 }), new Gather(), never());
  try {
    setSystemTime(Date.now() - 24 * 3600_000);
    expect((await refused)._unsafeUnwrapErr().code).toBe("instance.agent_unreachable");
  } finally {
    setSystemTime();
  }
});

test("nobody waits for an agent, nor keeps its instance awake, once whoever asked has gone", async () => {
  const activities = new Activities(), gone = new AbortController();
  f = await open(undefined, { activities });
  const { id } = (await f.instances.create(request("web", ["no-agent"])))._unsafeUnwrap();
  await f.instances.wait("web", "Running", 20_000, never());
  const refused = f.instances.exec("web", command(["true"], { waitForAgentMs: 3_600_000 }), new Gather(), gone.signal);
  await until("it to be counted", () => activities.of(id).open === 1);
  gone.abort();
  expect((await refused)._unsafeUnwrapErr().code).toBe("instance.agent_unreachable");
  expect(activities.of(id).open).toBe(0);
});

test("attach() waits for the guest, and ends with the instance's own exit code", async () => {
  f = await open();
  await f.instances.create(request("web", ["boot-slowly", "50"], { tty: true }));
  const gather = new Gather();
  const session = (await f.instances.attach("web", gather, never()))._unsafeUnwrap();
  session.writeStdin(Buffer.from("typed"));
  await until("the echo", () => gather.stdout === "typed");
  await f.instances.stop("web");
  expect(await gather.over).toEqual({ code: 143, message: "killed by signal 15 (SIGTERM)" });
});

test("a session that came to nothing keeps nobody awake, also where a bug is why", async () => {
  const activities = new Activities(), policy = { enabled: false, idleTimeoutMs: 0, ignoreDestinationPorts: [], ignoreSourceCidrs: [], wakeOnPacket: true };
  f = await open(undefined, { activities, onStep: (step) => { if (step === "acknowledged") throw new Error("a bug"); } });
  const { id } = (await f.instances.create(request("web", ["serve"], { autoStandby: policy })))._unsafeUnwrap();
  await f.instances.wait("web", "Running", 20_000, never());
  (await f.instances.standby("web"))._unsafeUnwrap();
  expect((await f.instances.exec("web", command(["echo"]), new Gather(), never()))._unsafeUnwrapErr().message).toBe("Cannot run a command in the instance web: a bug");
  (await f.instances.remove("web", { graceful: false }))._unsafeUnwrap();
  expect((await f.instances.exec("web", command(["echo"]), new Gather(), never()))._unsafeUnwrapErr().code).toBe("instance.not_found");
  expect(activities.of(id).open).toBe(0);
});
