// What the buffers of a chain hold, for the little that a device reads or writes itself: headers, status bytes, short answers. Payloads
// proper are moved by system calls, which take the arena's entries as they are. Entries are trusted: the queue has checked them.
import type { GuestMemory } from "../memory.ts";
import type { Iovecs } from "./iovecs.ts";

const VIEW_SIZE = 2 ** 31; // GuestMemory's views
/** Up to here (headers) a loop is faster than subarray() and set(), which allocate. */
const SMALL_COPY = 64;

export class Payload {
  private readonly views: readonly DataView[];
  private readonly ramAddress: number;

  constructor(private readonly memory: GuestMemory, private readonly arena: Iovecs) {
    this.ramAddress = memory.address;
    this.views = memory.bytes.map((b) => new DataView(b.buffer, b.byteOffset, b.byteLength));
  }

  /** A view with the `length` bytes of entry `entry` in it, their offset in `viewAt`; null where a 2 GiB line cuts them or they are fewer. */
  viewOf(entry: number, length: number): DataView | null {
    if (this.arena.length(entry) < length) return null;
    const offset = this.arena.hva(entry) - this.ramAddress;
    const index = Math.floor(offset / VIEW_SIZE);
    this.viewAt = (offset - index * VIEW_SIZE) | 0; // an int for the compiler
    return this.viewAt + length <= VIEW_SIZE ? this.views[index]! : null;
  }
  viewAt = 0;

  /** Copies the first bytes of a list of entries out, as many as `target` takes; returns how many there were. */
  gather(first: number, count: number, target: Uint8Array): number {
    let done = 0;
    for (let i = 0; i < count && done < target.length; i++) {
      const n = Math.min(this.arena.length(first + i), target.length - done);
      this.copy(this.arena.hva(first + i) - this.ramAddress, n, target, done, false);
      done += n;
    }
    return done;
  }

  /** Copies `source` into a list of entries, `skip` bytes from its start; returns how many bytes had room. */
  scatter(first: number, count: number, source: Uint8Array, skip = 0): number {
    let done = 0, over = skip;
    for (let i = 0; i < count && done < source.length; i++) {
      const length = this.arena.length(first + i);
      if (over >= length) {
        over -= length;
        continue;
      }
      const n = Math.min(length - over, source.length - done);
      this.copy(this.arena.hva(first + i) - this.ramAddress + over, n, source, done, true);
      over = 0;
      done += n;
    }
    return done;
  }

  /** Writes one byte of guest memory, at a host address that came out of the arena. */
  poke(hva: number, value: number): void {
    const offset = hva - this.ramAddress;
    const index = Math.floor(offset / VIEW_SIZE);
    this.views[index]!.setUint8((offset - index * VIEW_SIZE) | 0, value);
  }

  private copy(ramOffset: number, length: number, bytes: Uint8Array, at: number, toGuest: boolean): void {
    let offset = ramOffset, done = 0;
    while (done < length) {
      const index = Math.floor(offset / VIEW_SIZE), start = offset - index * VIEW_SIZE;
      const n = Math.min(length - done, VIEW_SIZE - start);
      const ram = this.memory.bytes[index]!;
      if (n <= SMALL_COPY) copySmall(ram, start | 0, bytes, at + done, n, toGuest);
      else if (toGuest) ram.set(bytes.subarray(at + done, at + done + n), start);
      else bytes.set(ram.subarray(start, start + n), at + done);
      done += n;
      offset += n;
    }
  }
}

function copySmall(ram: Uint8Array, start: number, bytes: Uint8Array, at: number, length: number, toGuest: boolean): void {
  if (toGuest) for (let i = 0; i < length; i++) ram[start + i] = bytes[at + i]!;
  else for (let i = 0; i < length; i++) bytes[at + i] = ram[start + i]!;
}
