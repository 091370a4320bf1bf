// The files of one instance's folder that its VMM and the daemon share (the tree stands in docs/architecture.md).
import { readFileSync, truncateSync } from "node:fs";
import { join } from "node:path";
import type { VmmStatus } from "../../vmm/protocol.ts";
import { parseStatus } from "./parse.ts";

export type LogName = "app" | "vmm" | "dormouse";

export const socketPath = (dir: string): string => join(dir, "vmm.sock");
export const statusPath = (dir: string): string => join(dir, "status.json");
/** Two files in turn: when one is full, the other is emptied and written. */
export const logPaths = (dir: string, name: LogName): readonly [string, string] => [join(dir, `${name}.0.log`), join(dir, `${name}.1.log`)];

/** So that whoever starts the next VMM finds it so, and need not. A VMM's record is of no use to one that sleeps. */
export function emptyStatus(dir: string): void {
  try {
    truncateSync(statusPath(dir));
  } catch {
    // there is none, or it is emptied for the next VMM
  }
}

/** What the VMM wrote down last; null where it wrote nothing that can be read. */
export function readStatusFile(dir: string): VmmStatus | null {
  try {
    // It is rewritten in place: behind the first line there may be a tail of an older record.
    return parseStatus(JSON.parse(readFileSync(statusPath(dir), "utf8").split("\n", 1)[0]!));
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}
