// logs.
import { type Command, Option } from "commander";
import type { LogSource } from "./api.ts";
import { apiCommand, apiOf, wantsJson, wholeNumber } from "./command.ts";
import { print } from "./output.ts";

const MAX_TAIL = 1_000_000;

interface LogFlags { follow?: boolean; tail?: number; source: LogSource }

export function addLogsCommand(program: Command): void {
  apiCommand(program, "logs <instance>", "Print what an instance has said")
    .option("-f, --follow", "go on until it stops")
    .option("-n, --tail <lines>", "how many of the last lines (default 100)", wholeNumber(0, MAX_TAIL))
    .addOption(new Option("--source <which>", "its program, its monitor and kernel, or what the daemon did to it").choices(["app", "vmm", "dormouse"]).default("app"))
    .action(async (ref: string, { follow, tail, source }: LogFlags, command: Command) => {
      const json = wantsJson(command);
      for await (const line of apiOf(command).logs(ref, { source, tail, follow })) print(json ? JSON.stringify(line) : line);
    });
}
