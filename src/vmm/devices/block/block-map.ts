// Which blocks a layer holds, in memory: one bit a block. Read from the layer's map file (src/block-map.ts), whose memory is
// touched only where bits are set: a map that is nearly empty costs nearly nothing.
import { MAP_BLOCK, mapFault, mapLayout, type MapLayout } from "../../../block-map.ts";
import { E } from "../../../ffi/abi/errno.ts";
import { SYS } from "../../../ffi/abi/syscalls.ts";
import { fileSize } from "../../../ffi/fd.ts";
import { Mapping, PAGE_SIZE } from "../../../ffi/memory.ts";
import { must, syscall } from "../../../ffi/syscall.ts";

const SEEK_DATA = 3, SEEK_HOLE = 4; // linux/fs.h

/** A region of bits of a map file, in memory of its own. */
export class Bits {
  private readonly mapping: Mapping;
  readonly address: number;
  readonly bytes: Uint8Array;

  constructor(length: number) {
    this.mapping = Mapping.anonymous(length);
    this.address = this.mapping.address;
    this.bytes = this.mapping.bytes();
  }

  has(block: number): boolean { return (this.bytes[block >>> 3]! & (1 << (block & 7))) !== 0; }

  /** Sets [first, first + count). */
  set(first: number, count: number): void {
    const end = first + count;
    let block = first;
    for (; block < end && block % 8 !== 0; block++) this.bytes[block >>> 3]! |= 1 << (block & 7);
    const whole = Math.floor((end - block) / 8);
    if (whole > 0) this.bytes.fill(0xff, block / 8, block / 8 + whole);
    for (block += whole * 8; block < end; block++) this.bytes[block >>> 3]! |= 1 << (block & 7);
  }

  /** Reads what the file has at [offset, offset + length of the region); its holes stay untouched. */
  read(fd: number, offset: number): void {
    const end = offset + this.bytes.length;
    for (let at = offset; at < end; ) {
      const data = syscall(SYS.lseek, fd, at, SEEK_DATA);
      if (data === -E.ENXIO || data >= end) return;
      const from = data < 0 ? at : data; // a file system without SEEK_DATA: all of it is data
      const hole = data < 0 ? end : Math.min(end, must("Cannot read a block map", SYS.lseek, fd, data, SEEK_HOLE));
      for (at = from; at < hole; ) {
        const got = must("Cannot read a block map", SYS.pread64, fd, this.address + at - offset, hole - at, at);
        if (got === 0) throw new Error("Cannot read a block map: it is shorter than its header says");
        at += got;
      }
    }
  }

  close(): void { this.mapping.close(); }
}

export class BlockMap {
  readonly layout: MapLayout;
  /** Blocks that are here, and are known to be by the file. */
  readonly here: Bits;

  /** Throws, naming `name`, where the file is no sound map of a disk of `diskBytes`. The descriptor stays the caller's. */
  constructor(name: string, readonly fd: number, diskBytes: number) {
    const header = new Uint8Array(PAGE_SIZE), size = fileSize(fd);
    const got = must(`Cannot read ${name}`, SYS.pread64, fd, header, header.length, 0);
    const fault = mapFault(header.subarray(0, got), size, diskBytes);
    if (fault !== null) throw new Error(`Cannot use ${name}: ${fault}`);
    this.layout = mapLayout(diskBytes);
    this.here = new Bits(this.layout.regionBytes);
    this.here.read(fd, this.layout.nowAt);
    const { blocks, regionBytes } = this.layout;
    for (let block = blocks; block < regionBytes * 8; block = block % 8 === 0 ? block + 8 : block + 1) {
      if (block % 8 === 0 ? this.here.bytes[block / 8] !== 0 : this.here.has(block)) {
        this.close();
        throw new Error(`Cannot use ${name}: it is damaged (it names blocks behind the end of the disk)`);
      }
    }
  }

  has(block: number): boolean { return this.here.has(block); }

  /** Whether any byte of [offset, offset + length) is not here. */
  lacks(offset: number, length: number): boolean {
    const end = (offset + length) / MAP_BLOCK;
    for (let block = offset / MAP_BLOCK; block < end; block++) if (!this.here.has(block)) return true;
    return false;
  }

  close(): void { this.here.close(); }
}
