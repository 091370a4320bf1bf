// `dormouse run` as a process against the real HTTP layer, over services in memory.
import { afterEach, beforeEach, expect, test } from "bun:test";
import { ok, okAsync, ResultAsync } from "neverthrow";
import { DormouseError, fail } from "../../src/errors.ts";
import { type Api, startApi, until } from "../routes/harness.ts";
import { runCli, startCli } from "./support.ts";

const NGINX = "docker.io/library/nginx:latest";
let api: Api;
beforeEach(() => {
  api = startApi();
  api.images.add(NGINX);
  // A machine that is up as soon as it was asked for, whose log ends when it stops.
  api.instances.subscribe((one) => {
    if (one.state === "Created") queueMicrotask(() => void api.instances.change(one.id, { state: "Running", startedAt: Date.now() }));
  });
  api.instances.logs = (ref) => ok(logUntilStopped(ref));
});
afterEach(() => api.stop());

const cli = (args: readonly string[], input?: string) => runCli(args, { env: { DORMOUSE_HOST: api.url }, ...(input === undefined ? {} : { input }) });
const start = (args: readonly string[], input?: string) => startCli(args, { env: { DORMOUSE_HOST: api.url }, ...(input === undefined ? {} : { input }) });
async function* logUntilStopped(ref: string): AsyncGenerator<string> {
  api.instances.calls.push("logs");
  yield* api.instances.lines;
  await until(() => api.instances.get(ref)._unsafeUnwrap().state === "Stopped");
}
const only = () => [...api.instances.records.values()][0]!;

test("-d prints the id, and all flags reach the daemon", async () => {
  const { status, out, err } = await cli(["run", "-d", "--name", "web", "-e", "A=1", "-m", "512m", "--cpus", "4", "--entrypoint", "/bin/sh", "-p", "8080:80", "-p", "53:53/udp", "-v", "data:/data", "--volume", "models:/m:ro", NGINX, "-c", "echo --json"]);
  expect([status, err]).toEqual([0, ""]);
  expect(api.instances.records.get(out.trim())).toMatchObject({
    name: "web", image: NGINX, env: { A: "1" }, memoryBytes: 512 * 2 ** 20, vcpus: 4, entrypoint: ["/bin/sh"], cmd: ["-c", "echo --json"],
    volumes: [{ volumeId: "data", mountPath: "/data", readonly: false, overlayBytes: null }, { volumeId: "models", mountPath: "/m", readonly: true, overlayBytes: null }],
    ports: [{ hostPort: 8080, guestPort: 80, protocol: "tcp" }, { hostPort: 53, guestPort: 53, protocol: "udp" }],
  });
});

test("a folder of this host in a volume's place is refused with what to do instead", async () => {
  for (const place of ["/srv/data:/data", "./data:/data", "~/data:/data"])
    expect(await cli(["run", "-d", "-v", place, NGINX])).toMatchObject({ status: 125, out: "", err: expect.stringContaining("Make a volume (dormouse volume create NAME)") });
});

test("what the daemon refuses is 125 with its words", async () => {
  api.instances.failNext = new DormouseError("resources.insufficient", "Cannot create it: the host has 2 GiB.");
  expect(await cli(["run", "-d", NGINX])).toEqual({ status: 125, out: "", err: "dormouse: Cannot create it: the host has 2 GiB.\n" });
});

test("an image that isn't there is pulled first, with its steps; a failed pull is 125", async () => {
  const other = "127.0.0.1:1/other:latest";
  const waiting = start(["run", "-d", other]);
  await until(() => api.images.list().some(({ name }) => name === other));
  api.images.add(other, { status: "failed", error: "Cannot pull it: the registry refused" });
  const { status, out, err } = await waiting.ended;
  expect([status, out]).toEqual([125, ""]);
  expect(err).toEndWith("dormouse: Cannot pull it: the registry refused\n");
  expect(api.instances.records.size).toBe(0);
  expect((await cli(["run", "--pull", "never", "-d", NGINX])).status).toBe(0);
});

test("attached: all of its output, and its status; with --rm nothing stays", async () => {
  api.instances.lines = ["hello", "world"];
  const attached = start(["run", "--rm", NGINX]);
  await until(() => api.instances.calls.includes("logs"));
  api.instances.change(only().id, { state: "Stopped", exitCode: 42 });
  expect(await attached.ended).toEqual({ status: 42, out: "hello\nworld\n", err: "" });
  expect(api.instances.records.size).toBe(0);
  expect(api.instances.calls).toContain("remove false");
});

test("attached: a log that isn't there yet is waited for, and one that never comes is no failure of its own", async () => {
  api.instances.lines = ["hello"];
  const real = api.instances.logs;
  let asked = 0;
  api.instances.logs = (ref, options) => (asked++ === 0 ? fail("log.not_found", "Cannot read the app log: nothing was written yet") : real(ref, options));
  const attached = start(["run", NGINX]);
  await until(() => api.instances.calls.includes("logs"));
  api.instances.change(only().id, { state: "Stopped", exitCode: 0 });
  expect(await attached.ended).toEqual({ status: 0, out: "hello\n", err: "" });
  api.instances.logs = () => fail("log.not_found", "Cannot read the app log: nothing was written yet");
  api.instances.wait = (ref) => {
    const { id } = api.instances.get(ref)._unsafeUnwrap();
    return okAsync({ instance: api.instances.change(id, { state: "Stopped", exitCode: null, exitMessage: "no monitor" }), timedOut: false });
  };
  expect(await cli(["run", "--name", "never", NGINX])).toEqual({ status: 125, out: "", err: "dormouse: Cannot run never: no monitor\n" });
});

test("attached: one that never started is 125 with the reason, and stays to be looked at", async () => {
  const attached = start(["run", "--name", "web", NGINX]);
  await until(() => api.instances.calls.includes("logs"));
  api.instances.change(only().id, { state: "Stopped", exitCode: null, exitMessage: "the disk is full" });
  expect(await attached.ended).toEqual({ status: 125, out: "", err: "dormouse: Cannot run web: the disk is full\n" });
  expect(api.instances.records.size).toBe(1);
});

test("ctrl-c asks it to stop, and its end is ours", async () => {
  api.instances.stop = (ref) => {
    const { id } = api.instances.get(ref)._unsafeUnwrap();
    return okAsync(api.instances.change(id, { state: "Stopped", exitCode: 143, exitMessage: "killed by signal 15 (SIGTERM)" }));
  };
  const attached = start(["run", "--name", "web", NGINX]);
  await until(() => api.instances.calls.includes("logs"));
  attached.child.kill("SIGINT");
  expect(await attached.ended).toEqual({ status: 143, out: "", err: "stopping web (once more to kill it)\ndormouse: web: killed by signal 15 (SIGTERM)\n" });
});

test("ctrl-c while it is being made stops it, and with --rm nothing stays", async () => {
  const { promise: asked, resolve: ask } = Promise.withResolvers<void>(), { promise: mayBe, resolve: allow } = Promise.withResolvers<void>();
  const create = api.instances.create.bind(api.instances);
  api.instances.create = (wanted) => (ask(), ResultAsync.fromSafePromise(mayBe).andThen(() => create(wanted)));
  api.instances.stop = (ref) => okAsync(api.instances.change(api.instances.get(ref)._unsafeUnwrap().id, { state: "Stopped", exitCode: 143 }));
  const attached = start(["run", "--rm", "--name", "web", NGINX]);
  await asked;
  attached.child.kill("SIGINT");
  allow();
  expect(await attached.ended).toMatchObject({ status: 143, err: expect.stringContaining("stopping web (once more to kill it)") });
  expect(api.instances.records.size).toBe(0);
});

test("-i passes standard input on, and its output comes once", async () => {
  api.instances.lines = ["HELLO"];
  api.instances.onExec = (exec) => {
    exec.listener.onStdout(Buffer.from("shown by the log already"));
    void until(() => exec.calls.includes("end")).then(() => {
      api.instances.change(only().id, { state: "Stopped", exitCode: 0 });
      exec.listener.onLost("the guest ended");
    });
  };
  expect(await cli(["run", "-i", NGINX], "hello\n")).toEqual({ status: 0, out: "HELLO\n", err: "" });
  expect(only().openStdin).toBe(true);
  expect(api.instances.execs[0]?.input.join("")).toBe("hello\n");
});

test("-i whose input goes no further, and whose program runs on, is 125 with the reason", async () => {
  api.instances.onExec = (exec) => exec.listener.onLost("the guest's agent has gone");
  const { status, err } = await cli(["run", "-i", NGINX], "x");
  expect([status, err]).toEqual([125, expect.stringMatching(/^dormouse: Cannot go on: .*the guest's agent has gone\n$/)]);
  expect(only().state).toBe("Running");
});
