// The command line as a process against the real HTTP layer, over services in memory.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { type Api, startApi, until } from "../routes/harness.ts";
import { runCli, SOURCES, startCli } from "./support.ts";

const NGINX = "docker.io/library/nginx:latest";
let api: Api;
beforeEach(() => {
  api = startApi();
});
afterEach(async () => {
  await api.stop();
});

const cli = (args: readonly string[], input?: string) => runCli(args, { env: { DORMOUSE_HOST: api.url }, ...(input === undefined ? {} : { input }) });
const start = (args: readonly string[], input?: string) => startCli(args, { env: { DORMOUSE_HOST: api.url }, ...(input === undefined ? {} : { input }) });

async function instance(name: string, change: Parameters<typeof api.instances.change>[1] = { state: "Running", startedAt: Date.now() }) {
  api.images.add(NGINX);
  const { id } = await api.client.instances.create({ name, image: NGINX });
  return api.instances.change(id, change);
}

describe("lists", () => {
  test("ps shows what runs, -a the rest, --json all fields, -q ids", async () => {
    const { id } = await instance("web");
    await instance("old", { state: "Stopped", exitCode: 3, exitMessage: "exited with status 3", stoppedAt: Date.now() });
    const running = await cli(["ps"]);
    expect(running).toMatchObject({ status: 0, err: "" });
    expect(running.out.split("\n")).toHaveLength(3);
    expect(running.out).toMatch(/^ID +NAME +IMAGE +CREATED +STATUS +IP +PORTS\n/);
    expect(running.out).toContain("web");
    expect((await cli(["ps", "-a"])).out).toMatch(/old .*Exited \(3\)/);
    expect((await cli(["ps", "-q"])).out).toBe(`${id}\n`);
    const json = JSON.parse((await cli(["ps", "-a", "--json"])).out) as { name: string; exit_code: number | null }[];
    expect(json.map(({ name, exit_code }) => [name, exit_code])).toEqual([["web", null], ["old", 3]]);
  });

  test("an empty list is an empty table, an empty array, and nothing with -q", async () => {
    expect((await cli(["ps"])).out.trim().split("\n")).toHaveLength(1);
    expect(JSON.parse((await cli(["--json", "ps"])).out)).toEqual([]);
    expect((await cli(["images", "-q"])).out).toBe("");
  });

  test("inspect finds by name, id prefix and image, and says what it can't find", async () => {
    const { id } = await instance("web");
    for (const ref of ["web", id, id.slice(0, 8)]) expect(JSON.parse((await cli(["inspect", ref])).out)).toMatchObject([{ id, name: "web" }]);
    expect(JSON.parse((await cli(["inspect", NGINX])).out)).toMatchObject([{ name: NGINX, status: "ready" }]);
    const { status, err, out } = await cli(["inspect", "nobody"]);
    expect([status, out]).toEqual([1, ""]);
    expect(err).toBe("dormouse: Cannot find instance nobody.\n");
    const some = await cli(["inspect", "nobody", "web", "nothing"]);
    expect([some.status, JSON.parse(some.out), some.err]).toEqual([1, [expect.objectContaining({ id })], "dormouse: Cannot find instance nobody.\ndormouse: Cannot find instance nothing.\n"]);
  });

  test("images shows status and size; load passes an absolute path on and waits", async () => {
    api.images.add(NGINX, { sizeBytes: 142_000_000 });
    api.images.add("127.0.0.1:5000/x:1", { status: "failed", error: "no such tag" });
    const { out } = await cli(["images"]);
    expect(out).toMatch(/nginx:latest .* ready .* 142MB\n/);
    expect(out).toContain("failed: no such tag");
    const loading = start(["load", "some/layout.tar", "--name", "mine:1"]);
    await until(() => api.images.list().length === 3);
    const loaded = api.images.list().find(({ status }) => status !== "ready" && status !== "failed");
    if (loaded !== undefined) api.images.add(loaded.name, { status: "ready" });
    expect(await loading.ended).toMatchObject({ status: 0, out: expect.stringContaining("mine:1") });
    expect(await cli(["rmi", "nosuch:1", NGINX])).toMatchObject({ status: 1, out: `${NGINX}\n`, err: expect.stringContaining("nosuch") });
    expect(await cli(["rmi", NGINX])).toMatchObject({ status: 1, err: expect.stringContaining("Cannot") });
  });

  test("df and version show the daemon's figures", async () => {
    expect((await cli(["df"])).out).toMatch(/^images +\d+ +\d[^]*^saved memory +33B/m);
    expect(JSON.parse((await cli(["version", "--json"])).out)).toMatchObject({ client: { version: "development" }, server: { version: "0.1.0-test" } });
  });
});

describe("errors", () => {
  test("a daemon that isn't there: one line, what to do, and JSON where asked for", async () => {
    await api.stop();
    const { status, err, out } = await cli(["ps"]);
    expect([status, out]).toEqual([1, ""]);
    expect(err.trim().split("\n")).toHaveLength(1);
    expect(err).toContain("dormouse serve");
    const json = await cli(["ps", "--json"]);
    expect(JSON.parse(json.err)).toMatchObject({ code: "connection" });
    expect((await cli(["exec", "a", "true"])).status).toBe(125);
  });

  test("a proxy of the environment is not asked for the daemon", async () => {
    const { status } = await runCli(["ps"], { env: { DORMOUSE_HOST: api.url, HTTP_PROXY: "http://127.0.0.1:1", http_proxy: "http://127.0.0.1:1" } });
    expect(status).toBe(0);
  });

  test("wrong usage ends with 2, for run and exec with 125", async () => {
    for (const args of [["pull"], ["nothing"], ["ps", "--bad"], ["stop", "-t", "soon", "x"], ["logs", "x", "--source", "guest"], ["update", "x"], ["serve", "--vmm-pool", "65"], ["ps", "--host", "ftp://x"]]) {
      const { status, err } = await cli(args);
      expect([args, status]).toEqual([args, 2]);
      expect(err).toStartWith("dormouse: ");
    }
    for (const args of [["run"], ["run", "-p", "80:web", "nginx"], ["run", "-m", "lots", "nginx"], ["run", "--cpus", "0", "nginx"], ["run", "-d", "--rm", "nginx"], ["run", "-it", "nginx"], ["run", "-e", "=x", "nginx"], ["exec", "x"], ["exec", "-e", "=x", "x", "ls"]]) {
      const { status, err } = await cli(args);
      expect([args, status]).toEqual([args, 125]);
      expect(err).toStartWith("dormouse: ");
    }
  });

  test("help groups the commands, and knows each", async () => {
    const { status, out } = await cli(["help"]);
    expect(status).toBe(0);
    expect(out.match(/^\S.*:$/gm)).toEqual(["Options:", "Instances:", "Sleep, forks and snapshots:", "Images:", "Volumes and ingress:", "Daemon and host:"]);
    expect((await cli(["help", "standby"])).out).toStartWith("Usage: dormouse standby [options] <instance...>\n");
  });

  test("wrong usage says where the right one is told", async () => {
    const hint = async (...args: string[]) => (await cli(args)).err.trimEnd().split("\n").at(-1);
    expect(await hint("nothing")).toBe("See `dormouse --help`.");
    expect(await hint("standby")).toBe("See `dormouse standby --help`.");
    expect(await hint("snapshot", "create", "--kind", "odd", "x")).toBe("See `dormouse snapshot create --help`.");
    expect(await hint("ingress", "create", "x")).toBe("See `dormouse ingress create --help`.");
    expect(await hint("run", "-d", "--rm", "nginx")).toBe("See `dormouse run --help`.");
    expect((await cli(["ingress", "create", "x", "--json"])).err.trimEnd().split("\n")).toHaveLength(1);
  });
});

describe("lifecycle", () => {
  test("stop passes its grace on, start waits, rm refuses what runs", async () => {
    await instance("web");
    expect(await cli(["rm", "web"])).toMatchObject({ status: 1, err: "dormouse: Cannot remove web: it is Running; stop it first, or use rm -f\n" });
    expect(await cli(["stop", "-t", "3", "web"])).toMatchObject({ status: 0, out: "web\n" });
    expect(await cli(["start", "web"])).toMatchObject({ status: 0, out: "web\n" });
    expect(await cli(["start", "web"])).toEqual({ status: 0, out: "web\n", err: "" });
    expect(await cli(["rm", "-f", "web"])).toMatchObject({ status: 0, out: "web\n" });
    expect(api.instances.calls).toContain("remove false");
    expect(api.instances.records.size).toBe(0);
  });

  test("one that is stopped already is stopped, as docker has it; one that sleeps is not started", async () => {
    await instance("old", { state: "Stopped", stoppedAt: Date.now() });
    expect(await cli(["stop", "old"])).toEqual({ status: 0, out: "old\n", err: "" });
    await instance("asleep", { state: "Standby" });
    expect(await cli(["start", "asleep"])).toMatchObject({ status: 1, out: "", err: expect.stringContaining("instance asleep: it is Standby") });
  });

  test("of several, each is tried, and a failure decides the status", async () => {
    await instance("a");
    await instance("b");
    const { status, out, err } = await cli(["stop", "a", "nobody", "b"]);
    expect([status, out]).toEqual([1, "a\nb\n"]);
    expect(err).toContain("nobody");
  });
});

describe("logs", () => {
  test("they pass through as they are, by source and tail, as JSON lines where asked for", async () => {
    await instance("web");
    api.instances.lines = ["one", 'two "quoted" \u001b[1mbold', "", "four é"];
    expect(await cli(["logs", "web"])).toMatchObject({ status: 0, out: `${api.instances.lines.join("\n")}\n` });
    expect((await cli(["logs", "-n", "1", "--source", "vmm", "web"])).out).toBe("four é\n");
    expect(api.instances.calls).toContain("logs vmm 1 false");
    expect((await cli(["logs", "-n", "2", "--json", "web"])).out).toBe('""\n"four é"\n');
  });

  test("a log that breaks is a failure, not an end", async () => {
    await instance("web");
    api.instances.lines = ["one"];
    api.instances.failLog = new Error("gone");
    const { status, err } = await cli(["logs", "web"]);
    expect(status).toBe(1);
    expect(err).toMatch(/^dormouse: (Cannot read on the log of web|Cannot go on): .*\n$/);
  });

  test("a reader that leaves ends it quietly", async () => {
    await instance("web");
    api.instances.lines = Array.from({ length: 100_000 }, (_, i) => `line ${i}`);
    const piped = Bun.spawn(["bash", "-c", `set -o pipefail; "$@" | head -1`, "-", SOURCES[0], ...SOURCES.slice(1), "logs", "-n", "100000", "web"], {
      env: { ...process.env, DORMOUSE_HOST: api.url }, stdout: "pipe", stderr: "pipe",
    });
    const [out, err, status] = await Promise.all([piped.stdout.text(), piped.stderr.text(), piped.exited]);
    expect([out, err, status]).toEqual(["line 0\n", "", 141]);
  });
});

describe("exec", () => {
  test("input, its end, both outputs and the status go through", async () => {
    await instance("web");
    api.instances.onExec = (exec) => {
      expect(exec.request).toMatchObject({ command: ["cat", "-n", "--json"], env: { A: "1" }, cwd: "/tmp", user: "nobody", tty: false });
      void until(() => exec.calls.includes("end")).then(() => {
        exec.listener.onStdout(Buffer.from(exec.input.join("")));
        exec.listener.onStderr(Buffer.from("warned\n"));
        exec.listener.onEnd({ code: 7, message: null });
      });
    };
    const ended = await cli(["exec", "-i", "-e", "A=1", "-w", "/tmp", "-u", "nobody", "web", "cat", "-n", "--json"], "hello\n");
    expect(ended).toEqual({ status: 7, out: "hello\n", err: "warned\n" });
  });

  test("without -i the command finds the end of input at once", async () => {
    await instance("web");
    api.instances.onExec = (exec) => void until(() => exec.calls.includes("end")).then(() => exec.listener.onEnd({ code: 0, message: null }));
    expect((await cli(["exec", "web", "cat"], "ignored")).status).toBe(0);
    expect(api.instances.execs[0]?.input).toEqual([]);
  });

  test("a program that isn't there is 127, with its reason", async () => {
    await instance("web");
    api.instances.onExec = (exec) => exec.listener.onEnd({ code: 127, message: "nope: command not found" });
    expect(await cli(["exec", "web", "nope"])).toEqual({ status: 127, out: "", err: "dormouse: nope: command not found\n" });
  });

  test("a stopped or unknown instance is 125, with the daemon's words", async () => {
    await instance("web", { state: "Stopped" });
    expect(await cli(["exec", "web", "true"])).toEqual({ status: 125, out: "", err: "dormouse: Cannot run a command in instance web: it is Stopped, not Running; start it\n" });
    expect((await cli(["exec", "nobody", "true"])).err).toBe("dormouse: Cannot find instance nobody.\n");
  });

  test("a guest that goes away is 125, and killing the command line hangs up", async () => {
    await instance("web");
    api.instances.onExec = (exec) => exec.listener.onLost("the guest ended");
    expect(await cli(["exec", "web", "sleep", "9"])).toMatchObject({ status: 125, err: "dormouse: Cannot go on: the guest ended\n" });
    api.instances.onExec = () => {};
    const { child, ended } = start(["exec", "web", "sleep", "9"]);
    await until(() => api.instances.execs.length === 2);
    child.kill("SIGKILL");
    await ended;
    await until(() => api.instances.execs[1]?.calls.includes("close") === true);
  });

  test("a megabyte goes both ways whole", async () => {
    await instance("web");
    const text = "0123456789abcdef".repeat(65_536);
    api.instances.onExec = (exec) => void until(() => exec.calls.includes("end")).then(() => {
      for (const part of exec.input) exec.listener.onStdout(Buffer.from(part));
      exec.listener.onEnd({ code: 0, message: null });
    });
    const { status, out } = await cli(["exec", "-i", "web", "cat"], text);
    expect(status).toBe(0);
    expect(out === text).toBe(true);
  });
});
