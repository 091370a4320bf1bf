// How the newest layer's map gets to its file: what to write where, while the transfers do the writing. A bit goes to the file after
// its data (stage), is believed once it is there (settle), and gets into the region `flushed` only by a flush that began after that.
//
// The file's two regions are written from images of their own, never from bits that others are still changing: of two writes of one
// page the later one always holds what the earlier one held, in whatever order their requests end.
import { PAGE_SIZE } from "../../../ffi/memory.ts";
import { Bits, type BlockMap } from "./block-map.ts";

const BLOCKS_A_PAGE = PAGE_SIZE * 8;

export class MapWriter {
  private readonly now: Bits;
  private readonly flushed: Bits;
  /** Pages of the region whose bits `flushed` lacks, and those that the flush under way is writing. */
  private readonly dirty: Uint8Array;
  private readonly flushing: Uint8Array;
  private next = 0;

  // What is to be written: set by stage() and nextRun().
  address = 0;
  length = 0;
  offset = 0;

  constructor(readonly map: BlockMap) {
    const { regionBytes, nowAt, flushedAt } = map.layout;
    this.now = new Bits(regionBytes);
    this.flushed = new Bits(regionBytes);
    this.now.read(map.fd, nowAt);
    this.flushed.read(map.fd, flushedAt);
    this.dirty = new Uint8Array(regionBytes / PAGE_SIZE);
    this.flushing = new Uint8Array(this.dirty.length);
    for (let page = 0; page < this.dirty.length; page++) {
      const part = (bits: Bits) => bits.bytes.subarray(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
      if (Buffer.compare(part(this.now), part(this.flushed)) !== 0) this.dirty[page] = 1; // a monitor before this one was killed
    }
  }

  /** The data of these blocks has been written: says what of `now` is to be written in turn. */
  stage(first: number, count: number): void {
    this.now.set(first, count);
    const from = Math.floor(first / 8);
    this.address = this.now.address + from;
    this.length = Math.floor((first + count - 1) / 8) + 1 - from;
    this.offset = this.map.layout.nowAt + from;
  }

  /** What stage() said is in the file. */
  settle(first: number, count: number): void {
    this.map.here.set(first, count);
    this.dirty.fill(1, Math.floor(first / BLOCKS_A_PAGE), Math.floor((first + count - 1) / BLOCKS_A_PAGE) + 1);
  }

  /** Before the data is synced: what is here now will be what is flushed. Then nextRun() until it is false. */
  beginFlush(): void {
    this.next = 0;
    for (let page = 0; page < this.dirty.length; page++) {
      if (this.dirty[page] === 0) continue;
      this.dirty[page] = 0;
      this.flushing[page] = 1;
      this.flushed.bytes.set(this.map.here.bytes.subarray(page * PAGE_SIZE, (page + 1) * PAGE_SIZE), page * PAGE_SIZE);
    }
  }

  /** The next part of `flushed` to be written. */
  nextRun(): boolean {
    const first = this.flushing.indexOf(1, this.next);
    if (first < 0) return false;
    let end = first + 1;
    while (end < this.flushing.length && this.flushing[end] === 1) end++;
    this.next = end;
    this.address = this.flushed.address + first * PAGE_SIZE;
    this.length = (end - first) * PAGE_SIZE;
    this.offset = this.map.layout.flushedAt + first * PAGE_SIZE;
    return true;
  }

  /** A flush that failed is to be done again, all of it. */
  endFlush(done: boolean): void {
    if (!done) for (let page = 0; page < this.flushing.length; page++) if (this.flushing[page] === 1) this.dirty[page] = 1;
    this.flushing.fill(0);
  }

  /** Only with nothing of it being written. */
  close(): void {
    this.now.close();
    this.flushed.close();
  }
}
