// What a guest's kernel has logged, read from the guest's memory: also what is not important enough for its serial port, and also of
// a guest whose vCPUs do nothing any more.
import { closeSync, openSync, readSync } from "node:fs";
import { MP_TABLE_ADDRESS } from "../../src/vmm/layout.ts";
import { findGuestRam } from "./guest-ram.ts";

const MIB = 2 ** 20;
/** The table by which the guest finds its CPUs stays where the monitor put it. */
const MP_SIGNATURE = "_MP_";
/** The kernel lies at 16 MiB and its log behind its text, in its zeroed data. */
const SEARCHED = 96 * MIB;
const FIRST_LINE = "Linux version ", SECOND_LINE = "Command line: ", APART = 1024;
/** The ring of the log's texts at its smallest (CONFIG_LOG_BUF_SHIFT). */
const RING = 128 * 1024;
const SHORTEST_TEXT = 6;

function ramOf(pid: number): Buffer {
  const fd = openSync(`/proc/${pid}/mem`, "r");
  try {
    const from = findGuestRam(pid, fd, MP_TABLE_ADDRESS, MP_SIGNATURE), memory = Buffer.alloc(from < 0 ? 0 : SEARCHED);
    return memory.subarray(0, from < 0 ? 0 : readSync(fd, memory, 0, memory.length, from));
  } finally {
    closeSync(fd);
  }
}

/** The last `lines` texts of the log of the guest that process `pid` runs; none where it has none yet, or none can be found. */
export function guestLog(pid: number, lines: number): string[] {
  const ram = ramOf(pid);
  for (let at = ram.indexOf(FIRST_LINE); at >= 0; at = ram.indexOf(FIRST_LINE, at + 1)) {
    const next = ram.indexOf(SECOND_LINE, at);
    if (next < 0) return [];
    if (next - at > APART) continue; // the kernel's own copy of its first line
    // Texts stand one behind the other, with a few bytes that say whose they are in between.
    return ram.subarray(at, at + RING).toString("latin1").split(/[^\t\x20-\x7e]+/).filter((text) => text.length >= SHORTEST_TEXT).slice(-lines);
  }
  return [];
}
