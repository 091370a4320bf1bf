// Where the bytes of an entry go that come one after the other: a sparse file's are pieces of it.
import type { TarEntry } from "../../tar/reader.ts";

export class Extents {
  /** Offset, length, offset, length, … */
  private readonly segments: readonly number[];
  private index = 0;
  private done = 0;

  constructor({ sparse, size }: TarEntry) {
    this.segments = sparse?.segments ?? [0, size];
  }

  /** `chunk` in pieces, and where in the file each belongs. */
  *take(chunk: Buffer): Generator<{ readonly at: number; readonly part: Buffer }> {
    for (let taken = 0; taken < chunk.length && this.index < this.segments.length; ) {
      const at = this.segments[this.index]!, length = this.segments[this.index + 1]!, count = Math.min(chunk.length - taken, length - this.done);
      if (count > 0) yield { at: at + this.done, part: count === chunk.length ? chunk : chunk.subarray(taken, taken + count) };
      taken += count;
      this.done += count;
      if (this.done < length) continue;
      this.index += 2;
      this.done = 0;
    }
  }
}
