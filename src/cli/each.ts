// Verbs that take several names: every one is tried, and the first failure decides the status.
import type { Command } from "commander";
import type { Api } from "./api.ts";
import { apiOf, wantsJson } from "./command.ts";
import { CliError } from "./fail.ts";
import { print, printJson } from "./output.ts";

/** Prints each name once it is done; each failure has its line. */
export async function each<T>(refs: readonly string[], command: Command, verb: (api: Api, ref: string) => Promise<T>): Promise<void> {
  const api = apiOf(command);
  const done: T[] = [], failures: CliError[] = [];
  for (const ref of refs) {
    try {
      done.push(await verb(api, ref));
      if (!wantsJson(command)) print(ref);
    } catch (cause) {
      if (!(cause instanceof CliError)) throw cause;
      failures.push(cause);
    }
  }
  if (wantsJson(command)) printJson(done);
  const [first] = failures;
  if (first !== undefined) throw new CliError(failures.map(({ message }) => message).join("\n"), first.code, first.status);
}
