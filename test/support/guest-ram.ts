// Where guest RAM lies in a monitor's process, for tests that look at it from outside.
import { readFileSync, readSync } from "node:fs";

const HUGE = 2 * 2 ** 20;
/** Larger mappings are address space that the JavaScript engine keeps free. */
const LARGEST = 8 * 2 ** 30;

/**
 * The address at which guest RAM begins in process `pid`, whose /proc/PID/mem is open as `fd`: on a 2 MiB line, maybe amid a line of maps,
 * since the kernel shows neighbours as one. It is told by `signature`, which stands at `offset` of it; -1 where that is not there (yet).
 */
export function findGuestRam(pid: number, fd: number, offset: number, signature: string): number {
  const text = Buffer.alloc(signature.length);
  for (const line of readFileSync(`/proc/${pid}/maps`, "latin1").split("\n")) {
    const [, from, to] = /^([0-9a-f]+)-([0-9a-f]+) rw-p/.exec(line) ?? [];
    if (from === undefined || to === undefined || parseInt(to, 16) - parseInt(from, 16) > LARGEST) continue;
    for (let at = Math.ceil(parseInt(from, 16) / HUGE) * HUGE; at < parseInt(to, 16); at += HUGE)
      if (reads(fd, at + offset, text) && text.toString("latin1") === signature) return at;
  }
  return -1;
}

function reads(fd: number, at: number, into: Buffer): boolean {
  try {
    return readSync(fd, into, 0, into.length, at) === into.length;
  } catch {
    return false; // nothing is mapped there
  }
}
