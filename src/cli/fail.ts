// How a command ends in failure: one line on stderr and a status. Commands throw; cli() in main.ts is the only catch.
import { messageOf } from "../errors.ts";

/** Status of `run` and `exec` where Dormouse failed and not the program, as Docker's: 126 and 127 are the program's. */
export const STATUS_DORMOUSE = 125;
export const STATUS_FAILED = 1;
export const STATUS_USAGE = 2;
/** A reader that left (`dormouse logs | head`): what a shell shows for SIGPIPE. */
export const STATUS_BROKEN_PIPE = 141;

/** What could not be done, to what, why, and what to do: one line. */
export class CliError extends Error {
  override readonly name = "CliError";
  constructor(
    message: string,
    /** Snake_case, for programs: the API's code where the API refused. */
    readonly code = "failed",
    /** Overrides the command's own status for failures. */
    readonly status?: number,
  ) {
    super(message);
  }
}

/** Why a call of the system failed: `no such file or directory`, without the call and path that the runtime puts around it. */
export const systemReason = (cause: unknown): string => messageOf(cause).replace(/^E[A-Z0-9]+: (.*?), \w+(?: '.*)?$/s, "$1");

export const usage = (message: string): CliError => new CliError(message, "usage", STATUS_USAGE);
