// The daemon's own log of one instance (`dormouse` in `logs`): what it did to it and why, one line each.
// Two files in turn, as a VMM writes its logs.
import { appendFileSync, statSync, truncateSync } from "node:fs";
import { logPaths } from "../vmm/files.ts";

const LOG_FULL = 50 * 2 ** 20;

/** Appends a line with the time. Line breaks inside become spaces. Throws where the folder can't be written. */
export function appendOperation(dir: string, text: string, full = LOG_FULL): void {
  const [first, second] = logPaths(dir, "dormouse");
  const line = `${new Date().toISOString()} ${text.replaceAll(/[\r\n]+/g, " ")}\n`;
  appendFileSync(currentLog(first, second, full), line, { mode: 0o600 });
}

/** The file that is to be written: the one that is not full. Where both are, the older one is emptied. */
function currentLog(first: string, second: string, full: number): string {
  const [a, b] = [first, second].map((path) => statSync(path, { throwIfNoEntry: false }));
  if ((a?.size ?? 0) < full) return first;
  if ((b?.size ?? 0) < full) return second;
  const older = a!.mtimeMs <= b!.mtimeMs ? first : second;
  truncateSync(older);
  return older;
}
