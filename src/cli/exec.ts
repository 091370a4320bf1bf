// exec: a command in a running instance.
import type { Command } from "commander";
import { apiCommand, apiOf, collect, environment, outcome } from "./command.ts";
import { usage } from "./fail.ts";
import { note, plain } from "./output.ts";
import { runSession } from "./session.ts";
import { terminalSize } from "./terminal.ts";

interface ExecFlags { interactive?: boolean; tty?: boolean; env?: string[]; workdir?: string; user?: string; timeout?: number }

export function addExecCommand(program: Command): void {
  apiCommand(program, "exec <instance> <command...>", "Run a command in a running instance; ends with its status")
    .passThroughOptions()
    .option("-i, --interactive", "pass standard input on")
    .option("-t, --tty", "give it a terminal")
    .option("-e, --env <name[=value]>", "set a variable; repeats", collect)
    .option("-w, --workdir <path>", "working directory")
    .option("-u, --user <user[:group]>", "user to run as")
    .action((ref: string, command: string[], flags: ExecFlags, self: Command) => exec(ref, command, flags, self));
}

/** A terminal needs a terminal at our end, as Docker says it. */
export function requireTerminal(): void {
  if (!process.stdin.isTTY) throw usage("Cannot give it a terminal: standard input is not one; leave out -t");
}

async function exec(ref: string, command: readonly string[], flags: ExecFlags, self: Command): Promise<void> {
  const tty = flags.tty === true;
  if (tty && flags.interactive) requireTerminal();
  const end = await runSession({
    api: apiOf(self),
    path: `/instances/${encodeURIComponent(ref)}/exec`,
    start: { command, tty, env: execEnvironment(flags, tty), cwd: flags.workdir, user: flags.user, ...(tty ? terminalSize() : {}) },
    interactive: flags.interactive === true,
    tty,
    detachable: false,
  });
  if (end.how !== "exited") return;
  if (end.message !== null && end.code >= 125) note(`dormouse: ${plain(end.message)}`);
  outcome.status = end.code;
}

function execEnvironment({ env }: ExecFlags, tty: boolean): Record<string, string> {
  const term = process.env["TERM"];
  return { ...(tty && term ? { TERM: term } : {}), ...environment(env) };
}
