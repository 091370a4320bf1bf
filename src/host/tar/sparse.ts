// Sparse files in tar: old GNU (type S, tar(5)), and GNU's PAX formats 0.0, 0.1 and 1.0 (GNU tar manual, "Sparse Formats").
// All become one map: data segments in ascending order of a file of `realSize` bytes.
import { TarError } from "./error.ts";
import { numberField } from "./header.ts";
import { paxInteger, type PaxRecords } from "./pax.ts";

/** `segments` is offset, length, offset, length, …; the stored bytes are the segments' bytes, one after the other. */
export interface SparseMap { readonly segments: readonly number[]; readonly realSize: number }

/** A map of more segments is refused: each costs memory before a byte of data was seen. */
const MAX_SEGMENTS = 1 << 20;

/** Old GNU: four segments in the header at 386, "is extended" at 482, the real size at 483. */
export function oldGnuSegments(block: Buffer, segments: number[]): { extended: boolean; realSize: number } {
  readSegments(block, 386, 4, segments);
  return { extended: block[482] !== 0, realSize: numberField(block, 483, 12, "real size") };
}

/** An extension block: 21 segments, "is extended" at 504. */
export function oldGnuExtension(block: Buffer, segments: number[]): boolean {
  readSegments(block, 0, 21, segments);
  return block[504] !== 0;
}

function readSegments(block: Buffer, start: number, count: number, segments: number[]): void {
  if (segments.length > 2 * MAX_SEGMENTS) throw new TarError("a sparse file has too many segments");
  for (let at = start; at < start + count * 24; at += 24) {
    // An unused slot has an empty length.
    if (block[at + 12] === 0) return;
    segments.push(numberField(block, at, 12, "segment offset"), numberField(block, at + 12, 12, "segment length"));
  }
}

/** The map of formats 0.0 and 0.1, null where the records describe none. */
export function paxSparse(pax: PaxRecords): number[] | null {
  const map = pax.values.get("GNU.sparse.map");
  if (map !== undefined) return map.toString("latin1").split(",", 2 * MAX_SEGMENTS + 1).map((text) => paxInteger(text, "GNU.sparse.map"));
  return pax.sparse00.length > 0 ? pax.sparse00 : null;
}

/**
 * The map of format 1.0: it precedes the data, decimal lines (count, then offset and length of each), padded to a block.
 * Bytes are pushed as they come.
 */
export class SparseMapReader {
  readonly segments: number[] = [];
  private wanted = -1;
  private value = 0;
  private digits = 0;

  /** Reads one block; true once the map is complete (what is left of that block is padding). */
  pushBlock(block: Buffer): boolean {
    for (const byte of block) {
      if (byte === 0x0a) {
        if (this.line()) return true;
      } else if (byte >= 0x30 && byte <= 0x39 && this.digits < 15) {
        this.value = this.value * 10 + byte - 0x30;
        this.digits++;
      } else throw new TarError("a sparse map is malformed");
    }
    return false;
  }

  private line(): boolean {
    if (this.digits === 0) throw new TarError("a sparse map is malformed");
    if (this.wanted < 0) {
      if (this.value > MAX_SEGMENTS) throw new TarError("a sparse file has too many segments");
      this.wanted = 2 * this.value;
    } else this.segments.push(this.value);
    this.value = this.digits = 0;
    return this.segments.length === this.wanted;
  }
}

/** Checks that the segments ascend inside the file and that `stored` bytes are what they need. */
export function checkedMap(segments: readonly number[], realSize: number, stored: number): SparseMap {
  let end = 0;
  let sum = 0;
  if (segments.length > 2 * MAX_SEGMENTS) throw new TarError("a sparse file has too many segments");
  if (segments.length % 2 !== 0) throw new TarError("a sparse map is malformed");
  for (let i = 0; i < segments.length; i += 2) {
    const offset = segments[i]!, length = segments[i + 1]!;
    if (offset < end || !Number.isSafeInteger(offset + length)) throw new TarError("the segments of a sparse file overlap");
    end = offset + length;
    sum += length;
  }
  if (end > realSize) throw new TarError("a sparse file's segments reach beyond its end");
  if (sum !== stored) throw new TarError("a sparse file's data is not as long as its map says");
  return { segments, realSize };
}
