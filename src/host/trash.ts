// How the daemon deletes what may be large: freeing the blocks of a file takes its time (seconds for GiBs on ext4), and everybody else would
// wait for it. So a name is given up at once, by a move into a folder of the same file system, and the blocks are freed off the event loop.
import { mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { createId } from "./id.ts";
import type { Unheard } from "./background.ts";

export class Trash {
  /** One at a time: file systems gain nothing by more, and the pool of threads that frees them has other work. */
  private last: Promise<void> = Promise.resolve();

  /** Goes on with what an earlier daemon left in `dir`, which is made where it is missing. Throws what the file system does. */
  constructor(private readonly dir: string, private readonly failed: Unheard) {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    for (const name of readdirSync(dir)) this.free(join(dir, name));
  }

  /** Takes a file or folder away: its name is free on return, its room once emptied() resolves. What is not there is as good. Throws where it can't be deleted. */
  drop(path: string): void {
    const aside = join(this.dir, createId());
    try {
      renameSync(path, aside);
    } catch {
      // It is not there, lies on another file system, or there is no room for one more name: then everybody waits.
      return rmSync(path, { recursive: true, force: true });
    }
    this.free(aside);
  }

  /** The same for what came to nothing: what can't be deleted is told, and stays for whoever sweeps that folder next. */
  discard(path: string): void {
    try {
      this.drop(path);
    } catch (error) {
      this.failed(`delete ${path}`, error);
    }
  }

  /** The room of all that was dropped before now is free, as far as it can be. */
  emptied(): Promise<void> { return this.last; }

  private free(path: string): void {
    // What can't be deleted now the next daemon finds.
    this.last = this.last.then(() => rm(path, { recursive: true, force: true })).catch((error: unknown) => this.failed(`delete ${path}`, error));
  }
}
