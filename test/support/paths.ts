// Where tests and scripts keep what is built once and used again, and folders that go away.
import { mkdtempSync, rmSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join, resolve } from "node:path";

export const repo = resolve(import.meta.dir, "../..");

/** The same folder as scripts/lib/common.sh has: what is built is cached by the hash of its inputs. */
export const cacheFolder = process.env["DORMOUSE_CACHE"] ?? join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "dormouse");

/** A new folder, removed with everything in it by `using` or [Symbol.dispose](). */
export class TempDir {
  readonly path: string;
  constructor(name = "test", parent = tmpdir()) { this.path = mkdtempSync(join(parent, `dormouse-${name}-`)); }
  join(...parts: string[]): string { return join(this.path, ...parts); }
  [Symbol.dispose](): void { rmSync(this.path, { recursive: true, force: true }); }
}
