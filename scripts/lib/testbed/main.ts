// Boots the testbed under QEMU and runs one command in it; started by scripts/testbed, which made what is passed in.
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { prepareMachine, TestbedError } from "./machine.ts";
import { Session } from "./session.ts";

const BOOT_LIMIT_MS = 120_000;
const CONSOLE_TAIL = 6000;
/** The agent speaks every 5 s: a machine that is silent for so many checks hangs. Checks, not time: we may have been stopped ourselves. */
const SILENT_CHECKS = 24, CHECK_MS = 5000;
/** As timeout(1) has it. */
const TIMED_OUT = 124;
const MACHINE_LOST = 125;

const { values: options, positionals: argv } = parseArgs({
  allowPositionals: true,
  options: {
    kernel: { type: "string" }, agent: { type: "string" }, init: { type: "string" }, visible: { type: "string", multiple: true },
    out: { type: "string" }, timeout: { type: "string" },
  },
});

const say = (text: string): void => void process.stderr.write(`\x1b[2m[testbed]\x1b[0m ${text}\n`);

function need(name: "kernel" | "agent" | "init"): string {
  const value = options[name];
  if (value === undefined) throw new TestbedError(`--${name} is missing; use scripts/testbed`);
  return value;
}

/** The first connection to a new socket at `path`; `listening` comes before. */
function acceptOne(path: string): { listening: Promise<void>; connected: Promise<Socket> } {
  const server = createServer();
  const connected = new Promise<Socket>((done) => server.once("connection", (socket) => { server.close(); done(socket); }));
  const listening = new Promise<void>((done, refuse) => server.once("error", refuse).listen(path, done));
  return { listening, connected };
}

/** What the testbed's kernel and init said last. */
function complain(what: string, consoleFd: number): void {
  const text = readFileSync(consoleFd, "utf8");
  say(`${what}; the end of its console:\n${text.slice(-CONSOLE_TAIL).trimEnd()}`);
}

const after = <T>(ms: number, value: T): Promise<T> => new Promise((done) => setTimeout(done, ms, value).unref());

/** Resolves once the machine's agent has long been silent. */
const silence = (session: Session): Promise<"silent"> => new Promise((done) => {
  let silent = 0;
  const timer = setInterval(() => {
    silent = session.takeHeard() ? 0 : silent + 1;
    if (silent < SILENT_CHECKS) return;
    clearInterval(timer);
    done("silent");
  }, CHECK_MS).unref();
});

async function run(folder: string): Promise<number> {
  const started = performance.now();
  const out = options.out === undefined ? "" : resolve(options.out);
  if (out !== "") mkdirSync(out, { recursive: true });
  const qemu = prepareMachine({ folder, kernel: need("kernel"), agent: need("agent"), init: need("init"), visible: options.visible ?? [], out });
  const { listening, connected } = acceptOne(join(folder, "agent.sock"));
  await listening;
  const consolePath = join(folder, "console");
  closeSync(openSync(consolePath, "w"));
  const consoleFd = openSync(consolePath, "r");
  // A process group of its own: Ctrl-C is for the command, not for QEMU.
  const machine = Bun.spawn(["setsid", ...qemu], { stdin: "ignore", stdout: "ignore", stderr: "inherit" });
  const lost = machine.exited.then(() => null);

  const socket = await Promise.race([connected, lost]);
  if (socket === null) throw new TestbedError("QEMU did not start");
  let booted: () => void = () => {};
  const boot = new Promise<"ready">((done) => (booted = () => done("ready")));
  const session = new Session(socket, { argv, directory: realpathSync("."), out, env: { ...process.env, DORMOUSE_TESTBED: "1" } }, () => {
    rmSync(folder, { recursive: true }); // all of it is open in QEMU: nothing stays behind, whatever ends us
    say(`up after ${((performance.now() - started) / 1000).toFixed(1)} s`);
    booted();
  });
  try {
    const state = await Promise.race([boot, lost, after(BOOT_LIMIT_MS, "slow" as const)]);
    if (state !== "ready") {
      complain(state === "slow" ? `the machine did not boot within ${BOOT_LIMIT_MS / 1000} s` : "the machine ended while it booted", consoleFd);
      return MACHINE_LOST;
    }
    const limit = options.timeout === undefined ? new Promise<never>(() => {}) : after(Number(options.timeout) * 1000, "timeout" as const);
    const status = await Promise.race([session.ended, limit, silence(session)]);
    if (status === "timeout") complain(`the command did not end within ${options.timeout} s`, consoleFd);
    else if (status === "silent") complain(`the machine hangs: nothing was heard of it for ${(SILENT_CHECKS * CHECK_MS) / 1000} s`, consoleFd);
    else if (status === null) complain("the machine ended before its command", consoleFd);
    return status === "timeout" ? TIMED_OUT : typeof status === "number" ? status : MACHINE_LOST;
  } finally {
    machine.kill("SIGKILL");
    await machine.exited;
    await session.close();
  }
}

// Not under a tmpfs where there is a choice: the disks grow with what is written to them.
const folder = mkdtempSync(join(process.env["TMPDIR"] ?? "/var/tmp", "dormouse-testbed-"));
try {
  process.exitCode = await run(folder);
} catch (error) {
  if (!(error instanceof TestbedError)) throw error;
  say(error.message);
  process.exitCode = MACHINE_LOST;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exit();
