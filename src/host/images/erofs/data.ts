// Where files' bytes go while the layers stream by: whole blocks straight into the image, in order of arrival.
// What is not a whole block (tails, block maps of sparse files) waits in a spool file, because it is written
// beside its inode and inodes come last; so memory does not grow with it.
import { LimitError, type FileSink } from "../layers.ts";
import type { SparseMap } from "../../tar/sparse.ts";
import type { TarEntry } from "../../tar/reader.ts";
import type { File } from "../tree.ts";
import { Appender } from "./append.ts";
import { BLOCK, INODE, NULL_ADDR } from "./layout.ts";

/** A longer tail gets a block of its own: packing it beside an inode would waste as much. */
export const MAX_INLINE = 3072;
/** A sparse file's map holds at most this many chunks; larger files get larger chunks. */
const MAX_CHUNKS = 1 << 18;
/** Linux's largest file on a file system with 4 KiB blocks and 32-bit block addresses, as far as we go. */
const MAX_FILE = 2 ** 43;

export class DataWriter implements FileSink {
  /** True once any file is chunk-based. */
  chunked = false;
  private file: File | null = null;
  /** Bytes of a plain file that go into blocks and are still to come. */
  private wholeLeft = 0;
  private sparse: SparseStream | null = null;

  constructor(private readonly image: Appender, private readonly spool: Appender, private readonly maxBytes: number) {}

  begin(file: File, entry: TarEntry): void {
    if (entry.size > MAX_FILE) throw new LimitError(`a file of ${entry.size} bytes is larger than the image format allows`);
    this.file = file;
    file.size = entry.size;
    if (entry.sparse !== null && entry.size > 0) {
      this.chunked = true;
      this.sparse = new SparseStream(this.image, entry.sparse, (bytes) => this.charge(bytes));
      file.chunkBits = this.sparse.chunkBits;
      return;
    }
    this.charge(entry.size);
    const tail = entry.size % BLOCK;
    const inline = tail <= MAX_INLINE && INODE.size + (file.xattrs?.length ?? 0) + tail <= BLOCK ? tail : 0;
    this.wholeLeft = entry.size - inline;
    if (this.wholeLeft > 0) file.block = this.image.position / BLOCK;
    file.spoolOffset = this.spool.position;
    file.spoolLength = inline;
  }

  data(chunk: Buffer): void {
    if (this.sparse !== null) return this.sparse.data(chunk);
    const whole = Math.min(this.wholeLeft, chunk.length);
    if (whole > 0) this.image.append(whole === chunk.length ? chunk : chunk.subarray(0, whole));
    if (whole < chunk.length) this.spool.append(whole === 0 ? chunk : chunk.subarray(whole));
    this.wholeLeft -= whole;
  }

  end(): void {
    const file = this.file!;
    if (this.sparse !== null) {
      const map = this.sparse.end();
      this.charge(map.length);
      file.spoolOffset = this.spool.position;
      file.spoolLength = map.length;
      this.spool.append(map);
      this.sparse = null;
    } else this.image.align(BLOCK);
    this.file = null;
  }

  private charge(bytes: number): void {
    if (this.image.position + this.spool.position + bytes > this.maxBytes) throw new LimitError(`it unpacks to more than ${this.maxBytes} bytes`);
  }
}

/** One sparse file: its stored bytes go into chunks; chunks that no segment touches get no blocks. */
class SparseStream {
  readonly chunkBits: number;
  private readonly chunkSize: number;
  private readonly map: Uint32Array<ArrayBuffer>;
  private segment = 0;
  private position: number;
  private segmentLeft: number;
  /** Chunk being written (-1: none), and the file offset up to which it is. */
  private chunk = -1;
  private written = 0;

  constructor(private readonly image: Appender, private readonly sparse: SparseMap, private readonly charge: (bytes: number) => void) {
    let bits = 0;
    while (sparse.realSize > MAX_CHUNKS * BLOCK * 2 ** bits) bits++;
    this.chunkBits = bits;
    this.chunkSize = BLOCK * 2 ** bits;
    this.map = new Uint32Array(Math.ceil(sparse.realSize / this.chunkSize)).fill(NULL_ADDR);
    this.position = sparse.segments[0] ?? 0;
    this.segmentLeft = sparse.segments[1] ?? 0;
  }

  data(stored: Buffer): void {
    for (let at = 0; at < stored.length; ) {
      while (this.segmentLeft === 0) this.nextSegment();
      this.reach(this.position);
      const room = (this.chunk + 1) * this.chunkSize - this.position;
      const taken = Math.min(stored.length - at, this.segmentLeft, room);
      this.image.append(stored.subarray(at, at + taken));
      at += taken;
      this.position += taken;
      this.written = this.position;
      this.segmentLeft -= taken;
    }
  }

  private nextSegment(): void {
    this.segment += 2;
    // The map was checked against the number of stored bytes, so there is one.
    this.position = this.sparse.segments[this.segment]!;
    this.segmentLeft = this.sparse.segments[this.segment + 1]!;
  }

  /** Makes `position` the next byte that the image takes. */
  private reach(position: number): void {
    const chunk = Math.floor(position / this.chunkSize);
    if (chunk !== this.chunk) {
      this.closeChunk();
      this.charge(this.chunkSize);
      this.map[chunk] = this.image.position / BLOCK;
      this.chunk = chunk;
      this.written = chunk * this.chunkSize;
    }
    this.image.zeros(position - this.written);
    this.written = position;
  }

  private closeChunk(): void {
    if (this.chunk < 0) return;
    this.image.zeros(Math.min((this.chunk + 1) * this.chunkSize, this.sparse.realSize) - this.written);
    this.image.align(BLOCK);
  }

  /** The block map, as it stands on disk. */
  end(): Uint8Array {
    this.closeChunk();
    return new Uint8Array(this.map.buffer);
  }
}
