// Guest physical memory: RAM below and above the 32-bit hole, as host mappings and as views.
// Every access that takes an address from the guest goes through hva() or the accessors here, which check it.
import { Mapping } from "../ffi/memory.ts";
import { HOLE_END, HOLE_START } from "./layout.ts";

/** toArrayBuffer maps at most 4 GiB a buffer; views of 2 GiB keep offsets in 31 bits. */
const VIEW_SHIFT = 31;
const VIEW_SIZE = 2 ** VIEW_SHIFT;
/** RAM that one of GuestMemory.bytes holds, but for the last. */
export const VIEW_BYTES = VIEW_SIZE;

/** RAM [gpa, gpa + size) at host address hva. */
export interface Region { readonly gpa: number; readonly size: number; readonly hva: number }

/** Where RAM of `size` bytes lies, whose host mapping begins at `address`. */
function regionsOf(size: number, address: number): [Region, Region?] {
  const lowSize = Math.min(size, HOLE_START);
  const low = { gpa: 0, size: lowSize, hva: address };
  return size > lowSize ? [low, { gpa: HOLE_END, size: size - lowSize, hva: address + lowSize }] : [low];
}

export class GuestMemory {
  readonly regions: readonly [Region, Region?];
  private readonly low: Region;
  private readonly high: Region | null;
  /** One view each 2 GiB of RAM, in RAM order (the hole takes no place). Each lives as long as the mapping. */
  private readonly views: DataView[];
  readonly bytes: readonly Uint8Array[];

  /** `address` is the host mapping of all RAM, owned by the caller (main thread) and never unmapped while this lives. */
  constructor(readonly size: number, readonly address: number, view: (offset: number, length: number) => ArrayBuffer) {
    [this.low, this.high = null] = this.regions = regionsOf(size, address);
    const buffers: ArrayBuffer[] = [];
    for (let at = 0; at < size; at += VIEW_SIZE) buffers.push(view(at, Math.min(VIEW_SIZE, size - at)));
    this.views = buffers.map((b) => new DataView(b));
    this.bytes = buffers.map((b) => new Uint8Array(b));
  }

  static of(mapping: Mapping): GuestMemory {
    return new GuestMemory(mapping.length, mapping.address, (offset, length) => mapping.buffer(offset, length));
  }

  /** Offset into RAM of [gpa, gpa + length), or -1 unless all of it is RAM in one region. `length` 0 is checked like 1. */
  offset(gpa: number, length: number): number {
    const need = length || 1;
    if (!(gpa >= 0) || !(need > 0)) return -1;
    if (gpa + need <= this.low.size) return gpa;
    const high = this.high;
    if (high !== null && gpa >= high.gpa && gpa + need <= high.gpa + high.size) return gpa - high.gpa + this.low.size;
    return -1;
  }

  /** Host address of [gpa, gpa + length), or -1: for iovecs. */
  hva(gpa: number, length: number): number {
    const offset = this.offset(gpa, length);
    return offset < 0 ? -1 : this.address + offset;
  }

  /**
   * The view that holds [gpa, gpa + length) whole, with the offset in it put into `this.at`; null outside of RAM or across a 2 GiB line.
   * For structures that are set up once (rings); they are page-aligned and small, and never cross a line in a sane guest.
   */
  locate(gpa: number, length: number): DataView | null {
    const offset = this.offset(gpa, length);
    if (offset < 0) return null;
    const index = Math.floor(offset / VIEW_SIZE);
    const at = offset - index * VIEW_SIZE;
    if (at + length > VIEW_SIZE) return null;
    this.at = at;
    return this.views[index]!;
  }
  /** Offset within the view that locate() returned last. */
  at = 0;

  /** Copies of small things (headers). Null where it is not RAM. */
  read(gpa: number, length: number): Uint8Array | null {
    const view = this.locate(gpa, length);
    return view === null ? null : new Uint8Array(view.buffer, view.byteOffset + this.at, length).slice();
  }

  /** False where it is not RAM. */
  write(gpa: number, source: Uint8Array): boolean {
    const view = this.locate(gpa, source.length);
    if (view === null) return false;
    new Uint8Array(view.buffer, view.byteOffset + this.at, source.length).set(source);
    return true;
  }
}
