// Verbs that take several names: every one is tried, and the first failure decides the status.
import type { Command } from "commander";
import type { Api } from "./api.ts";
import { apiOf, wantsJson } from "./command.ts";
import { CliError } from "./fail.ts";
import { print, printJson } from "./output.ts";

/** Prints each name once it is done; each failure has its line. */
export async function each<T>(refs: readonly string[], command: Command, verb: (api: Api, ref: string) => Promise<T>): Promise<void> {
  const { done, failed } = await tryEach(refs, command, async (api, ref) => {
    const one = await verb(api, ref);
    if (!wantsJson(command)) print(ref);
    return one;
  });
  if (wantsJson(command)) printJson(done);
  if (failed !== null) throw failed;
}

/** Prints what was found of each, as JSON; nothing where nothing was. */
export async function inspectEach<T>(refs: readonly string[], command: Command, find: (api: Api, ref: string) => Promise<T>): Promise<void> {
  const { done, failed } = await tryEach(refs, command, find);
  if (done.length > 0) printJson(done);
  if (failed !== null) throw failed;
}

/** One after the other; all failures in one, with the code and status of the first. */
async function tryEach<T>(refs: readonly string[], command: Command, verb: (api: Api, ref: string) => Promise<T>): Promise<{ done: T[]; failed: CliError | null }> {
  const api = apiOf(command);
  const done: T[] = [], failures: CliError[] = [];
  for (const ref of refs) {
    try {
      done.push(await verb(api, ref));
    } catch (cause) {
      if (!(cause instanceof CliError)) throw cause;
      failures.push(cause);
    }
  }
  const [first] = failures;
  return { done, failed: first === undefined ? null : new CliError(failures.map(({ message }) => message).join("\n"), first.code, first.status) };
}
