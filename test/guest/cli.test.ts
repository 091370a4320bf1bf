// The command line of the built executable against a real daemon, a real registry and real guests.
import { afterAll, beforeAll, expect, test } from "bun:test";
import { Daemon, executable } from "../support/daemon.ts";
import { image } from "../support/images.ts";
import { Registry } from "../support/registry.ts";
import { served, until } from "../support/until.ts";

let registry: Registry;
let daemon: Daemon;
let busybox: string;
beforeAll(async () => {
  registry = await Registry.start();
  await (await image("busybox")).push(registry.host, "busybox");
  busybox = `${registry.host}/busybox`;
  daemon = await Daemon.start();
}, 300_000);
afterAll(async () => {
  await daemon?.[Symbol.asyncDispose]();
  await registry?.stop();
}, 300_000);

const SMALL = ["-m", "256m", "--cpus", "1"];
const SHELL = [...SMALL, "--entrypoint", "/bin/busybox"];

test("run -d publishes a port, and the instance is there to read, enter, stop, start and remove", async () => {
  const id = (await daemon.run(["run", "-d", "--name", "web", "-p", "18080:80", ...SMALL, busybox])).trim();
  const [found] = JSON.parse(await daemon.run(["inspect", "web"])) as [{ id: string; state: string; network: { ip: string } }];
  expect(found).toMatchObject({ id, state: "Running" });
  expect(await served(`http://${found.network.ip}/`)).toContain("busybox");
  expect(await daemon.run(["exec", "-i", "web", "/bin/busybox", "cat"], { input: "x\n" })).toBe("x\n");
  const split = await daemon.try(["exec", "-e", "A=1", "web", "/bin/busybox", "sh", "-c", "echo out $A; echo err >&2; exit 9"]);
  expect(split).toEqual({ status: 9, stdout: "out 1\n", stderr: "err\n" });
  expect((await daemon.try(["exec", "web", "/bin/nope"])).status).toBe(127);
  expect(await daemon.run(["ps"])).toMatch(/web .*Up .*18080->80\/tcp/);
  expect(await daemon.run(["stop", "-t", "3", id.slice(0, 8)])).toBe(`${id.slice(0, 8)}\n`);
  expect((await daemon.try(["exec", "web", "true"])).status).toBe(125);
  expect(await daemon.run(["start", "web"])).toBe("web\n");
  expect((await daemon.try(["rm", "web"])).status).toBe(1);
  expect(await daemon.run(["rm", "-f", "web"])).toBe("web\n");
  expect(JSON.parse(await daemon.run(["ps", "-a", "--json"]))).toEqual([]);
});

test("run shows the program's output and ends with its status; --rm leaves nothing", async () => {
  const done = await daemon.try(["run", "--rm", ...SHELL, busybox, "sh", "-c", "for i in 1 2 3; do echo line $i; done; exit 7"]);
  expect(done).toEqual({ status: 7, stdout: "line 1\nline 2\nline 3\n", stderr: "" });
  const missing = await daemon.try(["run", "--rm", ...SMALL, "--entrypoint", "/bin/nope", busybox]);
  expect(missing.status).toBe(127);
  expect(missing.stderr).toContain("/bin/nope");
  expect(JSON.parse(await daemon.run(["ps", "-a", "--json"]))).toEqual([]);
});

test("run -i passes standard input on to its end", async () => {
  const done = await daemon.try(["run", "-i", "--rm", ...SHELL, busybox, "sh", "-c", "tr a-z A-Z"], { input: "hello\nworld\n" });
  expect(done).toEqual({ status: 0, stdout: "HELLO\nWORLD\n", stderr: "" });
});

test("ctrl-c on an attached run stops it gracefully", async () => {
  const child = Bun.spawn([executable, "run", "--name", "graceful", ...SHELL, busybox, "sh", "-c", "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 1; done"], {
    stdin: "ignore", stdout: "pipe", stderr: "pipe", env: { ...process.env, DORMOUSE_HOST: daemon.url },
  });
  let said = "";
  const reading = (async () => {
    for await (const part of child.stdout) said += Buffer.from(part).toString();
  })();
  await until("the program's first line", () => said.includes("ready\n"));
  child.kill("SIGINT");
  expect(await child.exited).toBe(5);
  await reading;
  expect(said).toBe("ready\nbye\n");
  await daemon.run(["rm", "graceful"]);
});

test("run -it is a terminal of its size; its shell ends it", async () => {
  let screen = "";
  const child = Bun.spawn([executable, "run", "-it", "--rm", ...SHELL, busybox, "sh"], {
    env: { ...process.env, DORMOUSE_HOST: daemon.url },
    terminal: { rows: 33, cols: 111, data: (_, bytes) => void (screen += Buffer.from(bytes).toString()) },
  });
  // Its editor asks the terminal where the cursor is, right after the prompt.
  await until("a prompt", () => screen.includes("# "));
  child.terminal?.write("stty size; tty; exit 6\r");
  expect(await child.exited).toBe(6);
  // The runtime's raw mode leaves ONLCR on: the guest's line ends gain a carriage return, which a screen doesn't show.
  expect(screen.replaceAll(/\r+\n/g, "\n").split("\n")).toContain("33 111");
  expect(screen).toContain("/dev/pts/");
});

test("restarting the daemon leaves the guest running", async () => {
  await daemon.run(["run", "-d", "--name", "stays", ...SMALL, busybox]);
  const before = await daemon.run(["exec", "stays", "/bin/busybox", "cat", "/proc/sys/kernel/random/boot_id"]);
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    await daemon.stop(signal);
    await daemon.start();
    expect(await daemon.run(["exec", "stays", "/bin/busybox", "cat", "/proc/sys/kernel/random/boot_id"])).toBe(before);
  }
  await daemon.run(["rm", "-f", "stays"]);
});

test("by command it sleeps, wakes, forks, and goes back to what it was", async () => {
  const shell = (name: string, script: string) => daemon.run(["exec", name, "/bin/busybox", "sh", "-c", script]);
  await daemon.run(["run", "-d", "--name", "nap", "--auto-standby", "1h", ...SMALL, busybox]);
  await shell("nap", "echo kept > /kept; sync");
  expect(await daemon.run(["standby", "nap"])).toBe("nap\n");
  expect(await daemon.run(["ps"])).toMatch(/nap .*Standby/);
  expect(await daemon.run(["restore", "nap"])).toBe("nap\n");
  await daemon.run(["standby", "nap"]);
  // A request wakes it.
  expect(await shell("nap", "cat /kept; hostname")).toBe("kept\nnap\n");
  await daemon.run(["snapshot", "create", "--name", "before", "nap"]);
  await daemon.run(["fork", "--from-running", "nap", "nap-2"]);
  await shell("nap", "rm /kept; sync");
  expect(await shell("nap-2", "cat /kept; hostname")).toBe("kept\nnap-2\n");
  expect(await daemon.run(["snapshot", "restore", "nap", "before"])).toBe("nap\n");
  expect(await shell("nap", "cat /kept; hostname")).toBe("kept\nnap\n");
  await daemon.run(["rm", "-f", "nap"]);
  await daemon.run(["fork", "--snapshot", "before", "nap-3"]);
  const [{ network }] = JSON.parse(await daemon.run(["inspect", "nap-3"])) as [{ network: { ip: string } }];
  expect(await served(`http://${network.ip}/`)).toContain("busybox");
  await daemon.run(["snapshot", "rm", "before"]);
  await daemon.run(["rm", "-f", "nap-2", "nap-3"]);
});
