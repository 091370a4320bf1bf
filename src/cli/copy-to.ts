// Files here to a guest: a walk, folders before what is in them.
import { closeSync, fstatSync, lstatSync, openSync, constants, readdirSync, readlinkSync, readSync, type Stats } from "node:fs";
import { join } from "node:path";
import type { CpHeader } from "../routes/cp-protocol.ts";
import type { CopySender } from "./copy-connection.ts";
import { CliError, systemReason } from "./fail.ts";

const CHUNK = 128 * 1024;

/** The name of what is neither file, folder nor symlink. */
export const specialName = (stats: Stats): string => (stats.isFIFO() ? "a FIFO" : stats.isSocket() ? "a socket" : "a device");

/** Sends `source` and all below it. What can't be copied is told to `skipped` and left out; the source itself is an error. */
export async function sendTree(source: string, sender: CopySender, skipped: (path: string, why: string) => void): Promise<void> {
  const tree = new Tree(source, sender, skipped);
  await tree.entry("");
}

class Tree {
  private readonly chunk = new Uint8Array(CHUNK);

  constructor(private readonly source: string, private readonly sender: CopySender, private readonly skipped: (path: string, why: string) => void) {}

  async entry(path: string): Promise<void> {
    const local = path === "" ? this.source : join(this.source, path);
    const stats = reading(local, () => lstatSync(local));
    if (stats.isFile()) await this.file(path, local);
    else if (stats.isDirectory()) await this.folder(path, local, stats);
    else if (stats.isSymbolicLink()) await this.sender.send({ ...headerOf(path, stats), is_symlink: true, link_target: reading(local, () => readlinkSync(local)) });
    else if (path === "") throw new CliError(`Cannot copy ${local}: it is ${specialName(stats)}`, "copy_failed");
    else this.skipped(path, `it is ${specialName(stats)}`);
  }

  private async folder(path: string, local: string, stats: Stats): Promise<void> {
    await this.sender.send({ ...headerOf(path, stats), is_dir: true });
    for (const name of reading(local, () => readdirSync(local))) await this.entry(path === "" ? name : `${path}/${name}`);
  }

  private async file(path: string, local: string): Promise<void> {
    // Not blocked by a FIFO, nor led elsewhere, that has just taken its place.
    const fd = reading(local, () => openSync(local, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK));
    try {
      const stats = reading(local, () => fstatSync(fd));
      if (!stats.isFile()) throw new CliError(`Cannot read ${local}: it has just become something else`, "copy_failed");
      await this.sender.send({ ...headerOf(path, stats), size: stats.size });
      for (let n; (n = reading(local, () => readSync(fd, this.chunk))) > 0; ) await this.sender.send(this.chunk.slice(0, n));
      await this.sender.send({ type: "end" });
    } finally {
      closeSync(fd);
    }
  }
}

const headerOf = (path: string, stats: Stats): CpHeader => ({ type: "header", path, mode: stats.mode & 0o7777, mtime: Math.max(0, Math.floor(stats.mtimeMs / 1000)) });

function reading<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw new CliError(`Cannot read ${path}: ${systemReason(cause)}`, "copy_failed");
  }
}
