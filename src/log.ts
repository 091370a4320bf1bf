// The daemon's log: one JSON object a line on standard error, where systemd's journal takes it.
import { LOG_LEVELS, type LogLevel } from "./serve-options.ts";

export type LogFields = Readonly<Record<string, string | number | boolean | null | undefined>>;

export interface Logger {
  debug(event: string, fields?: LogFields): void;
  info(event: string, fields?: LogFields): void;
  warn(event: string, fields?: LogFields): void;
  error(event: string, fields?: LogFields): void;
}

/** Logs `level` and worse. `write` takes one whole line with its newline. */
export function createLogger(level: LogLevel, write: (line: string) => void = (line) => void process.stderr.write(line)): Logger {
  const at = (one: LogLevel) => {
    if (LOG_LEVELS.indexOf(one) < LOG_LEVELS.indexOf(level)) return () => {};
    return (event: string, fields: LogFields = {}) => write(`${JSON.stringify({ time: new Date().toISOString(), level: one, event, ...fields })}\n`);
  };
  return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}

/** An error and its causes in one line, for a log field. Stacks only where asked for. */
export function describeError(error: unknown, withStack = false): string {
  const parts: string[] = [];
  for (let cause: unknown = error, depth = 0; cause !== undefined && depth < 5; depth += 1) {
    if (!(cause instanceof Error)) {
      parts.push(String(cause));
      break;
    }
    parts.push(withStack && cause.stack !== undefined ? cause.stack : cause.message);
    cause = cause.cause;
  }
  return parts.join(" <- ");
}
