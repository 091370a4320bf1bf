// Memory mappings with an owner. toArrayBuffer maps without copying, up to 4 GiB a buffer.
import { toArrayBuffer, type Pointer } from "bun:ffi";
import { must, syscall } from "./syscall.ts";
import { SYS } from "./abi/syscalls.ts";

export const PROT_NONE = 0, PROT_READ = 1, PROT_WRITE = 2, PROT_EXEC = 4;
export const MAP_SHARED = 0x01, MAP_PRIVATE = 0x02, MAP_FIXED = 0x10, MAP_ANONYMOUS = 0x20, MAP_NORESERVE = 0x4000, MAP_POPULATE = 0x8000;
const MADV_DONTNEED = 4;
export const PAGE_SIZE = 4096;
/** A page-table entry of the second level maps this much (x86-64). */
export const HUGE_PAGE_SIZE = 2 ** 21;

/**
 * One mapping: owns `length` bytes at `address` until close(). No view of it may be touched after close():
 * the views don't own the memory, and the process would fault.
 */
export class Mapping {
  private constructor(readonly address: number, readonly length: number) {}

  static anonymous(length: number, flags = MAP_PRIVATE | MAP_NORESERVE): Mapping {
    return Mapping.map(length, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
  }

  /** Like anonymous(), at an address that is a multiple of HUGE_PAGE_SIZE; `length` is whole pages. */
  static aligned(length: number): Mapping {
    const whole = Mapping.anonymous(length + HUGE_PAGE_SIZE);
    const address = Math.ceil(whole.address / HUGE_PAGE_SIZE) * HUGE_PAGE_SIZE;
    const before = address - whole.address, behind = HUGE_PAGE_SIZE - before;
    if (before > 0) syscall(SYS.munmap, whole.address, before);
    if (behind > 0) syscall(SYS.munmap, address + length, behind);
    return new Mapping(address, length);
  }

  static file(fd: number, length: number, prot: number, flags: number, offset = 0): Mapping {
    return Mapping.map(length, prot, flags, fd, offset);
  }

  /** Puts pages of a file in the place of [offset, offset + length): read when they are touched, private once they are written. */
  replace(offset: number, length: number, fd: number, fileOffset: number): void {
    this.check(offset, length);
    must(`Cannot map ${length} bytes of a file`, SYS.mmap, this.address + offset, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, fileOffset);
  }

  /** Puts new, empty pages in the place of [offset, offset + length). */
  empty(offset: number, length: number): void {
    this.check(offset, length);
    must(`Cannot map ${length} bytes`, SYS.mmap, this.address + offset, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE | MAP_ANONYMOUS, -1 >>> 0, 0);
  }

  /** Frees what the process has written to [offset, offset + length): it reads as the file does again, or as zeroes. */
  forget(offset: number, length: number): void {
    this.check(offset, length);
    must(`Cannot free ${length} bytes`, SYS.madvise, this.address + offset, length, MADV_DONTNEED);
  }

  private check(offset: number, length: number): void {
    if (offset < 0 || length <= 0 || offset + length > this.length) throw new RangeError("Cannot map outside of the mapping");
  }

  private static map(length: number, prot: number, flags: number, fd: number, offset: number): Mapping {
    const address = must(`Cannot map ${length} bytes`, SYS.mmap, 0, length, prot, flags, fd >>> 0, offset);
    return new Mapping(address, length);
  }

  /** A buffer over [offset, offset + length), at most 4 GiB; the caller's own bounds are the mapping's. */
  buffer(offset = 0, length = this.length - offset): ArrayBuffer {
    if (offset < 0 || length <= 0 || offset + length > this.length) throw new RangeError("Cannot view outside of the mapping");
    return toArrayBuffer((this.address + offset) as Pointer, 0, length);
  }

  bytes(): Uint8Array {
    return new Uint8Array(this.buffer());
  }

  close(): void {
    syscall(SYS.munmap, this.address, this.length);
  }
}

/** A view of memory that someone else owns (a Worker's view of the main thread's mapping): same lifetime rules. */
export const foreignBuffer = (address: number, length: number): ArrayBuffer => toArrayBuffer(address as Pointer, 0, length);
