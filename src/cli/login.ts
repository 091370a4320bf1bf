// login: asks the registry whether it knows the credentials, then keeps them (credentials.ts).
import type { Command } from "commander";
import { wantsJson } from "./command.ts";
import { normalize, saveCredentials } from "./credentials.ts";
import { CliError, usage } from "./fail.ts";
import { print, printJson, writeAll } from "./output.ts";
import { rawInput } from "./terminal.ts";

export function addLoginCommand(program: Command): void {
  program
    .command("login [registry]")
    .description("Keep credentials for a registry (default docker.io); pull and run send them along")
    .option("-u, --username <name>", "user")
    .option("--password-stdin", "read the password from standard input")
    .option("--json", "print JSON, for programs")
    .action((registry: string | undefined, flags: { username?: string; passwordStdin?: boolean }, command: Command) => login(registry ?? "docker.io", flags, command));
}

async function login(registry: string, flags: { username?: string; passwordStdin?: boolean }, command: Command): Promise<void> {
  const host = normalize(registry);
  if (flags.passwordStdin && flags.username === undefined) throw usage("Cannot read a password without its user: give --username");
  if (!flags.passwordStdin && !process.stdin.isTTY) throw usage("Cannot ask for a password: standard input is not a terminal; use --password-stdin");
  const username = flags.username ?? (await ask("User: ", true));
  const password = flags.passwordStdin ? (await Bun.stdin.text()).replace(/\r?\n$/, "") : await ask("Password: ", false);
  if (username === "" || username.includes(":")) throw usage("Cannot use this user name: it is empty or has a colon in it");
  if (password === "") throw usage("Cannot use an empty password");
  await verify(host, username, password);
  const path = await saveCredentials(host, username, password);
  if (wantsJson(command)) printJson({ registry: host, username, path });
  else print(`Logged in to ${host} as ${username}; kept in ${path}`);
}

/** One line from the terminal; `echo` false shows nothing of it. */
async function ask(question: string, echo: boolean): Promise<string> {
  const restore = echo ? () => {} : rawInput(); // before it is asked for: who is quick would see it
  try {
    writeAll(2, question);
    return await readLine(echo);
  } finally {
    restore();
    if (!echo) writeAll(2, "\n");
  }
}

const CTRL_C = 3, CTRL_D = 4, BACKSPACE = 0x7f, STATUS_INTERRUPTED = 130;

/** In raw mode the terminal edits nothing for us: backspace, ctrl-c and ctrl-d are ours. */
function readLine(cooked: boolean): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const line: number[] = [];
  const finish = () => resolve(Buffer.from(line).toString());
  const onData = (chunk: Buffer) => {
    for (const byte of chunk) {
      if (byte === 0x0a || byte === 0x0d) return finish();
      if (!cooked && (byte === CTRL_C || byte === CTRL_D)) return reject(new CliError("Interrupted", "interrupted", STATUS_INTERRUPTED));
      if (!cooked && byte === BACKSPACE) line.pop();
      else line.push(byte);
    }
  };
  // Not `for await`: leaving it would close standard input, and there is a second question.
  process.stdin.on("data", onData).on("end", finish).resume();
  return promise.finally(() => process.stdin.off("data", onData).off("end", finish).pause());
}

/** The registry API's own check (distribution-spec, "Determining Support"): `/v2/` answers 200 to who may come in. */
async function verify(host: string, username: string, password: string): Promise<void> {
  const authority = host === "docker.io" ? "registry-1.docker.io" : host;
  const loopback = /^(localhost|127\.[\d.]+|\[::1\])(:\d+)?$/.test(authority);
  const base = `${loopback ? "http" : "https"}://${authority}/v2/`;
  const basic = `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
  const first = await get(base, host);
  if (first.ok) return;
  const challenge = first.headers.get("www-authenticate") ?? "";
  const answer = /^bearer /i.test(challenge) ? await get(tokenUrl(challenge, username, host), host, basic) : await get(base, host, basic);
  if (answer.ok) return;
  if (answer.status === 401 || answer.status === 403) throw new CliError(`Cannot log in to ${host}: it refused this user and password`, "unauthorized");
  throw new CliError(`Cannot log in to ${host}: it answered ${answer.status} ${answer.statusText}`, "registry");
}

function tokenUrl(challenge: string, username: string, host: string): string {
  const field = (name: string) => new RegExp(`${name}="([^"]*)"`, "i").exec(challenge)?.[1];
  const url = URL.parse(field("realm") ?? "");
  if (url === null) throw new CliError(`Cannot log in to ${host}: it names no place to get a token (${challenge})`, "registry");
  const service = field("service");
  if (service !== undefined) url.searchParams.set("service", service);
  url.searchParams.set("account", username);
  return url.href;
}

async function get(url: string, host: string, authorization?: string): Promise<Response> {
  try {
    return await fetch(url, authorization === undefined ? {} : { headers: { authorization } });
  } catch (cause) {
    throw new CliError(`Cannot reach the registry ${host}: ${cause instanceof Error ? cause.message : String(cause)}`, "connection");
  }
}
