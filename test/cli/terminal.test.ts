// The command line on a terminal: raw keys, window size, detaching, the progress bar, a password that isn't shown.
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdir } from "node:fs/promises";
import { ok, okAsync } from "neverthrow";
import { type Api, startApi, until } from "../routes/harness.ts";
import { TempDir } from "../support/paths.ts";
import { Registry } from "../support/registry.ts";
import { SOURCES } from "./support.ts";

const NGINX = "docker.io/library/nginx:latest";
let api: Api;
let folder: TempDir;
beforeEach(() => {
  api = startApi();
  folder = new TempDir("terminal");
});
afterEach(async () => {
  await api.stop();
  folder[Symbol.dispose]();
});

function onTerminal(args: readonly string[]) {
  let screen = "";
  const decoder = new TextDecoder();
  const child = Bun.spawn([...SOURCES, ...args], {
    env: { PATH: process.env["PATH"] ?? "", HOME: folder.path, TERM: "xterm-256color", DORMOUSE_HOST: api.url },
    terminal: { rows: 30, cols: 100, data: (_, bytes) => void (screen += decoder.decode(bytes, { stream: true })) },
  });
  const terminal = child.terminal!;
  return { child, terminal, screen: () => screen, type: (keys: string) => void terminal.write(keys) };
}

async function running(name: string): Promise<string> {
  api.images.add(NGINX);
  const { id } = await api.client.instances.create({ name, image: NGINX });
  api.instances.change(id, { state: "Running", startedAt: Date.now() });
  return id;
}

test("exec -it: keys go through raw, the size at the start and at each change, and the status comes back", async () => {
  await running("web");
  const { child, terminal, screen, type } = onTerminal(["exec", "-it", "web", "/bin/sh"]);
  await until(() => api.instances.execs.length === 1);
  const exec = api.instances.execs[0]!;
  expect(exec.request).toMatchObject({ command: ["/bin/sh"], tty: true, rows: 30, cols: 100, env: { TERM: "xterm-256color" } });
  exec.listener.onStdout(Buffer.from("\x1b[1m# \x1b[0m"));
  await until(() => screen().includes("\x1b[1m# \x1b[0m"));
  type("ls\r\x03\x04");
  await until(() => exec.input.join("") === "ls\r\x03\x04");
  exec.listener.onStdout(Buffer.from("one\r\ntwo\nend"));
  await until(() => screen().includes("end"));
  expect(screen()).toContain("one\r\ntwo\nend");
  // What was typed is the program's to show.
  expect(screen()).not.toContain("ls");
  terminal.resize(120, 40);
  await until(() => exec.calls.includes("resize 40 120"));
  exec.listener.onEnd({ code: 3, message: null });
  expect(await child.exited).toBe(3);
});

test.each(["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const)("exec -it that %s ends leaves the terminal as it was", async (signal) => {
  await running("web");
  const settings = (name: string) => Bun.file(folder.join(name)).text();
  const shell = Bun.spawn(["sh", "-c", `stty -g > before; ${SOURCES.join(" ")} exec -it web /bin/sh; stty -g > after`], {
    cwd: folder.path, env: { PATH: process.env["PATH"] ?? "", HOME: folder.path, TERM: "xterm-256color", DORMOUSE_HOST: api.url }, terminal: { rows: 30, cols: 100 },
  });
  // By then it is raw: that comes before the socket is open.
  await until(() => api.instances.execs.length === 1);
  process.kill(Number(await Bun.file(`/proc/${shell.pid}/task/${shell.pid}/children`).text()), signal);
  await shell.exited;
  expect(await settings("after")).toBe(await settings("before"));
});

test("exec -it whose terminal goes away ends with it", async () => {
  await running("web");
  const { child, terminal } = onTerminal(["exec", "-it", "web", "/bin/sh"]);
  await until(() => api.instances.execs.length === 1);
  terminal.close();
  await child.exited;
  expect(child.signalCode).toBe("SIGHUP");
});

test("run -it: ctrl-p ctrl-q leaves the program running", async () => {
  api.images.add(NGINX);
  api.instances.subscribe((one) => {
    if (one.state === "Created") queueMicrotask(() => void api.instances.change(one.id, { state: "Running" }));
  });
  const { child, screen, type } = onTerminal(["run", "-it", "--rm", "--name", "web", NGINX]);
  await until(() => api.instances.execs.length === 1);
  const exec = api.instances.execs[0]!;
  expect(exec.request).toBeNull();
  exec.listener.onStdout(Buffer.from("# "));
  await until(() => screen().includes("# "));
  type("a\x10");
  type("\x11");
  expect(await child.exited).toBe(0);
  expect(exec.input.join("")).toBe("a");
  expect(screen()).toContain("web runs on\r\n");
  expect([...api.instances.records.values()]).toMatchObject([{ name: "web", state: "Running", tty: true, openStdin: true }]);
});

test("run -it of a program that is gone before we are there: its log, and its status", async () => {
  api.images.add(NGINX);
  api.instances.logs = () => ok((async function* () { yield "hello from the log"; })());
  api.instances.wait = (ref) => {
    const { id } = api.instances.get(ref)._unsafeUnwrap();
    return okAsync({ instance: api.instances.change(id, { state: "Stopped", exitCode: 4 }), timedOut: false });
  };
  const { child, screen } = onTerminal(["run", "-it", NGINX]);
  expect(await child.exited).toBe(4);
  expect(screen()).toContain("hello from the log");
});

test("pull draws one line that grows", async () => {
  const { child, screen } = onTerminal(["pull", NGINX]);
  await until(() => api.images.list().length === 1);
  api.images.add(NGINX, { status: "pulling", progress: { doneBytes: 50, totalBytes: 100 } });
  await until(() => screen().includes("50% of 100B"));
  api.images.add(NGINX, { status: "ready", sizeBytes: 142_000_000 });
  expect(await child.exited).toBe(0);
  expect(screen()).toContain(`\r\x1b[K${NGINX}: ready (142MB)\r\n`);
  expect(screen().match(/\n/g)).toHaveLength(2);
});

test("login asks, and never shows the password", async () => {
  const registry = await Registry.start({ credentials: { username: "ada", password: "secret" } });
  try {
    await mkdir(folder.join(".config"));
    const { child, screen, type } = onTerminal(["login", registry.host]);
    await until(() => screen().includes("User: "));
    type("ada\r");
    await until(() => screen().includes("Password: "));
    type("secrex\x7ft\r");
    expect(await child.exited).toBe(0);
    expect(screen()).not.toContain("secre");
    expect(screen()).toContain(`Logged in to ${registry.host} as ada`);
  } finally {
    await registry.stop();
  }
});
