// Which pages of guest RAM must be written into the next generation, asked from /proc/self/pagemap
// (Documentation/admin-guide/mm/pagemap.rst): no dirty log, no cost while the guest runs.
import { must } from "../../ffi/syscall.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { PAGE_SIZE } from "../../ffi/memory.ts";
import { ExtentBuilder, type Content, type Extent } from "../../machine-state/extents.ts";

// The upper half of an entry: bit 63 present, 62 swapped, 61 file page or shared anonymous.
const PRESENT = 1 << 31, SWAPPED = 1 << 30, FILE = 1 << 29;
/** Entries read at once: 64 KiB describe 32 MiB of RAM. */
const BATCH = 8192;
const ENTRY_SIZE = 8;

/**
 * The pages of [address, address + pages × 4 KiB) that are the process's own: touched since they were mapped from the base
 * (or from nothing), swapped out or not. `isZero(page)` is asked of each that is in memory: an owned page of zeroes is a
 * run of "zero". A swapped page is data: looking at it would bring it back. Without a pagemap every page counts as own.
 */
export class PageScan {
  private readonly entries = new Uint32Array(BATCH * 2);
  private readonly out = new ExtentBuilder<Content>();
  private next = 0;

  /** `pagemapFd` is -1 where the host gives none. */
  constructor(private readonly pagemapFd: number, private readonly address: number, private readonly pages: number, private readonly isZero: (page: number) => boolean) {}

  get extents(): readonly Extent[] { return this.out.extents; }

  /** Looks at the next 32 MiB; false after the last. */
  step(): boolean {
    const count = Math.min(BATCH, this.pages - this.next);
    if (this.pagemapFd >= 0) readEntries(this.pagemapFd, this.address / PAGE_SIZE + this.next, count, this.entries);
    else this.entries.fill(PRESENT);
    for (let i = 0; i < count; i++) {
      const entry = this.entries[i * 2 + 1]!;
      if ((entry & (PRESENT | SWAPPED)) === 0 || (entry & FILE) !== 0) continue;
      const page = this.next + i;
      this.out.add(page, 1, (entry & PRESENT) !== 0 && this.isZero(page) ? "zero" : "data");
    }
    this.next += count;
    return this.next < this.pages;
  }
}

function readEntries(fd: number, firstPage: number, count: number, into: Uint32Array): void {
  const bytes = new Uint8Array(into.buffer, 0, count * ENTRY_SIZE);
  for (let done = 0; done < bytes.length; ) {
    const n = must("Cannot read the page map", SYS.pread64, fd, bytes.subarray(done), bytes.length - done, firstPage * ENTRY_SIZE + done);
    if (n === 0) throw new Error("Cannot read the page map: it ends before guest memory does");
    done += n;
  }
}

/** isZero() over RAM in one or several views of `viewPages` pages each: 64-bit loads would need BigInt; memcmp against a page of zeroes does not. */
export function zeroTester(views: readonly Uint8Array[], viewPages: number): (page: number) => boolean {
  const zeroes = Buffer.alloc(PAGE_SIZE);
  const memory = views.map((view) => Buffer.from(view.buffer, view.byteOffset, view.byteLength));
  return (page) => {
    const view = Math.floor(page / viewPages), at = (page - view * viewPages) * PAGE_SIZE;
    return memory[view]!.compare(zeroes, 0, PAGE_SIZE, at, at + PAGE_SIZE) === 0;
  };
}
