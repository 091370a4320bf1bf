// Which pages of guest RAM must be written into the next generation, asked from /proc/self/pagemap
// (Documentation/admin-guide/mm/pagemap.rst): no dirty log, no cost while the guest runs.
import { must } from "../../ffi/syscall.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { PAGE_SIZE } from "../../ffi/memory.ts";
import { ExtentBuilder, type Extent } from "./extents.ts";

// The upper half of an entry: bit 63 present, 62 swapped, 61 file page or shared anonymous.
const PRESENT = 1 << 31, SWAPPED = 1 << 30, FILE = 1 << 29;
/** Entries read at once: 64 KiB describe 32 MiB of RAM. */
const BATCH = 8192;
const ENTRY_SIZE = 8;

/**
 * The pages of [address, address + pages × 4 KiB) that are the process's own: touched since they were mapped from the base
 * (or from nothing), swapped out or not. `isZero(page)` is asked of each that is in memory: an owned page of zeroes is a
 * run of "zero". A swapped page is data: looking at it would bring it back.
 */
export function ownPages(pagemapFd: number, address: number, pages: number, isZero: (page: number) => boolean): Extent[] {
  const entries = new Uint32Array(BATCH * 2);
  const out = new ExtentBuilder<"data" | "zero">();
  for (let first = 0; first < pages; first += BATCH) {
    const count = Math.min(BATCH, pages - first);
    readEntries(pagemapFd, address / PAGE_SIZE + first, count, entries);
    for (let i = 0; i < count; i++) {
      const entry = entries[i * 2 + 1]!;
      if ((entry & (PRESENT | SWAPPED)) === 0 || (entry & FILE) !== 0) continue;
      const page = first + i;
      out.add(page, 1, (entry & PRESENT) !== 0 && isZero(page) ? "zero" : "data");
    }
  }
  return out.extents;
}

function readEntries(fd: number, firstPage: number, count: number, into: Uint32Array): void {
  const bytes = new Uint8Array(into.buffer, 0, count * ENTRY_SIZE);
  for (let done = 0; done < bytes.length; ) {
    const n = must("Cannot read the page map", SYS.pread64, fd, bytes.subarray(done), bytes.length - done, firstPage * ENTRY_SIZE + done);
    if (n === 0) throw new Error("Cannot read the page map: it ends before guest memory does");
    done += n;
  }
}

/** isZero() over RAM: 64-bit loads would need BigInt; memcmp against a page of zeroes does not. */
export function zeroTester(ram: Uint8Array): (page: number) => boolean {
  const zeroes = Buffer.alloc(PAGE_SIZE);
  const memory = Buffer.from(ram.buffer, ram.byteOffset, ram.length);
  return (page) => memory.compare(zeroes, 0, PAGE_SIZE, page * PAGE_SIZE, (page + 1) * PAGE_SIZE) === 0;
}
