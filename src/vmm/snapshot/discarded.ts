// Guest memory that the guest has given up: freed on the host, and zero in the next generation. Over a page of a restored guest's files
// MADV_DONTNEED would bring the file's old bytes back and free nothing on disk: there an empty mapping takes their place.
import { PAGE_SIZE, type Mapping } from "../../ffi/memory.ts";
import { ExtentBuilder, type Extent } from "../../machine-state/extents.ts";

/**
 * Empty mappings put between those of files, at most: each may split one in two, and the kernel's max_map_count is 65,530. Beyond it
 * old bytes come back, which is as good for a page that nobody uses.
 */
const MAX_REPLACED = 12_288;

export class Discarded {
  /** A bit a page whose file mapping was replaced; none where memory never was a file's. */
  private readonly replaced: Uint8Array | null;
  private replacements = 0;

  /** `mapped`: files lie in `ram`. */
  constructor(private readonly ram: Mapping, mapped: boolean) {
    this.replaced = mapped ? new Uint8Array(Math.ceil(ram.length / PAGE_SIZE / 8)) : null;
  }

  /** Whole pages of RAM, by host address. The guest reads zeroes there from now on, or anything older. */
  discard(hva: number, length: number): void {
    const offset = hva - this.ram.address, page = offset / PAGE_SIZE, pages = length / PAGE_SIZE;
    if (this.replaced === null || this.replacements >= MAX_REPLACED || this.isReplaced(this.replaced, page, pages)) return this.ram.forget(offset, length);
    this.ram.empty(offset, length);
    this.replacements++;
    for (let i = page; i < page + pages; i++) this.replaced[i >>> 3]! |= 1 << (i & 7);
  }

  /** Pages that are zero unless they have been touched since, whatever the files say. */
  get extents(): Extent[] {
    const out = new ExtentBuilder<"zero">(), bits = this.replaced ?? [];
    for (let byte = 0; byte < bits.length; byte++)
      for (let bit = 0; bits[byte] !== 0 && bit < 8; bit++) if (((bits[byte]! >>> bit) & 1) === 1) out.add(byte * 8 + bit, 1, "zero");
    return out.extents;
  }

  private isReplaced(bits: Uint8Array, page: number, pages: number): boolean {
    for (let i = page; i < page + pages; i++) if (((bits[i >>> 3]! >>> (i & 7)) & 1) === 0) return false;
    return true;
  }
}
