// The device's side of one split virtqueue (virtio 1.2, 2.7): available ring in, used ring out, event index, indirect tables.
// All that a guest may get wrong in a ring is checked here and nowhere else; a bad ring makes the device ask for a reset.
// Indices that both sides publish go through Atomics, the rest of a ring is plain: it is published by them.
import { VRING } from "../../ffi/abi/virtio_ring.ts";
import type { GuestMemory } from "../memory.ts";
import { IOV_MAX, type Iovecs } from "./iovecs.ts";
import { Payload } from "./payload.ts";

const { VRING_DESC_F_NEXT, VRING_DESC_F_WRITE, VRING_DESC_F_INDIRECT, VRING_AVAIL_F_NO_INTERRUPT } = VRING;
const DESC_SIZE = 16, USED_ELEM_SIZE = 8, RING_HEADER = 4;
/** Most bytes of one chain: what one readv or writev moves (MAX_RW_COUNT, linux/fs.h). */
const MAX_CHAIN_BYTES = 0x7fff_f000;

/** What the driver set, and where the device is. For snapshots. */
export interface QueueState {
  readonly size: number;
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
  readonly lastAvail: number;
  readonly usedIndex: number;
}

export interface QueueOwner {
  /** Tell the driver that this queue's used ring has moved. */
  interrupt(queue: number): void;
  /** The driver broke the rules: NEEDS_RESET. */
  broken(queue: number, reason: string): void;
}

export class Queue {
  // Set by the driver through the transport.
  size: number;
  desc = 0;
  avail = 0;
  used = 0;

  // The chain that pop() took last. Readable entries come first in the arena, writable ones after them.
  head = 0;
  firstRead = 0;
  readCount = 0;
  readBytes = 0;
  firstWrite = 0;
  writeCount = 0;
  writeBytes = 0;

  readonly payload: Payload;
  /** Rings are mapped, the device may use them. False again after a violation or a reset. */
  live = false;
  private mask = 0;
  private eventIndex = false;
  private indirect = false;
  private descView: DataView = EMPTY_VIEW;
  private descAt = 0;
  private availRing: Uint16Array = EMPTY_U16;
  private usedRing: Uint16Array = EMPTY_U16;
  private usedWords: Uint32Array = EMPTY_U32;
  /** Next entry of the available ring, and how far the driver had published when last asked. */
  private lastAvail = 0;
  private seenAvail = 0;
  /** Next entry of the used ring, and how far it has been published. */
  private usedIndex = 0;
  private published = 0;
  private readonly ramAddress: number;

  /** `arena` is shared with whoever reads the chain; pop() writes to it from the entry that it is given. */
  constructor(readonly index: number, readonly maxSize: number, private readonly memory: GuestMemory, readonly arena: Iovecs, private readonly owner: QueueOwner) {
    this.size = maxSize;
    this.ramAddress = memory.address;
    this.payload = new Payload(memory, arena);
  }

  /** Maps the rings where the driver put them. Null, or what is wrong with them. */
  activate(eventIndex: boolean, indirect: boolean): string | null {
    const { size, memory } = this;
    if (size < 1 || size > this.maxSize || (size & (size - 1)) !== 0) return `queue ${this.index} has size ${size}`;
    const desc = memory.locate(this.desc, size * DESC_SIZE);
    if (desc === null || this.desc % 16 !== 0) return `queue ${this.index} has its descriptors at ${hex(this.desc)}`;
    this.descView = desc;
    this.descAt = memory.at | 0; // an int for the compiler: below 2^31
    const avail = memory.locate(this.avail, RING_HEADER + size * 2 + 2);
    if (avail === null || this.avail % 2 !== 0) return `queue ${this.index} has its available ring at ${hex(this.avail)}`;
    this.availRing = new Uint16Array(avail.buffer, avail.byteOffset + memory.at, 2 + size + 1);
    const used = memory.locate(this.used, RING_HEADER + size * USED_ELEM_SIZE + 2);
    if (used === null || this.used % 4 !== 0) return `queue ${this.index} has its used ring at ${hex(this.used)}`;
    this.usedRing = new Uint16Array(used.buffer, used.byteOffset + memory.at, 2 + size * 4 + 1);
    this.usedWords = new Uint32Array(used.buffer, used.byteOffset + memory.at, 1 + size * 2);
    this.mask = size - 1;
    this.eventIndex = eventIndex;
    this.indirect = indirect;
    this.live = true;
    return null;
  }

  /** Back to the state before any driver. */
  reset(): void {
    this.live = false;
    this.size = this.maxSize;
    this.desc = this.avail = this.used = 0;
    this.lastAvail = this.seenAvail = this.usedIndex = this.published = 0;
    this.availRing = this.usedRing = EMPTY_U16;
    this.usedWords = EMPTY_U32;
    this.descView = EMPTY_VIEW;
  }

  /** Takes the next available chain into the fields above, its iovecs at arena entry `at` and on, at most `room`. False if there is none. */
  pop(at = 0, room = IOV_MAX): boolean {
    if (!this.live) return false;
    const next = this.lastAvail;
    if (next === this.seenAvail) {
      const published = Atomics.load(this.availRing, 1); // orders the reads of the ring and of descriptors after it
      if (published === next) return false;
      if (((published - next) & 0xffff) > this.size) return this.fail("its available index jumped");
      this.seenAvail = published;
    }
    const head = this.availRing[2 + (next & this.mask)]!;
    if (head >= this.size) return this.fail(`available head ${head} is out of range`);
    this.lastAvail = (next + 1) & 0xffff;
    this.head = head;
    return this.walk(head, at, Math.min(room, this.arena.capacity - at));
  }

  /** Gives back the last `count` chains: they come again. Only chains of which nothing was pushed, in order. */
  unpop(count = 1): void {
    this.lastAvail = (this.lastAvail - count) & 0xffff;
  }

  private walk(head: number, at: number, room: number): boolean {
    const { memory, arena } = this;
    let view = this.descView, base = this.descAt, count = this.size;
    let index = head, hops = 0, inTable = false, entries = 0, readable = 0, bytes = 0, readBytes = 0;
    for (;;) {
      // Each field is read once: the guest may change it meanwhile.
      const d = base + index * DESC_SIZE;
      const gpa = view.getUint32(d + 4, true) * 0x1_0000_0000 + view.getUint32(d, true);
      const length = view.getUint32(d + 8, true);
      const flags = view.getUint16(d + 12, true);
      const next = view.getUint16(d + 14, true);
      if (++hops > count) return this.fail("its descriptors form a loop");
      if ((flags & VRING_DESC_F_INDIRECT) !== 0) {
        if (!this.indirect || inTable || (flags & VRING_DESC_F_NEXT) !== 0) return this.fail("it has an indirect descriptor where none may be");
        const table = length === 0 || length % DESC_SIZE !== 0 || length > 0xffff * DESC_SIZE ? null : memory.locate(gpa, length);
        if (table === null) return this.fail(`its indirect table of ${length} bytes at ${hex(gpa)} is not one`);
        view = table;
        base = memory.at | 0;
        count = length / DESC_SIZE;
        index = hops = 0;
        inTable = true;
        continue;
      }
      const offset = memory.offset(gpa, length);
      if (offset < 0 || length === 0) return this.fail(`its buffer of ${length} bytes at ${hex(gpa)} is not in memory`);
      if (entries === room) return this.fail(`its chain has more than ${room} buffers`);
      bytes += length;
      if (bytes > MAX_CHAIN_BYTES) return this.fail("its chain is longer than 2 GiB");
      arena.set(at + entries, this.ramAddress + offset, length);
      entries++;
      if ((flags & VRING_DESC_F_WRITE) === 0) {
        if (readable !== entries - 1) return this.fail("a readable buffer follows a writable one");
        readable = entries;
        readBytes = bytes;
      }
      if ((flags & VRING_DESC_F_NEXT) === 0) break;
      if (next >= count) return this.fail(`its descriptor names ${next} of ${count} as next`);
      index = next;
    }
    this.firstRead = at;
    this.readCount = readable;
    this.readBytes = readBytes;
    this.firstWrite = at + readable;
    this.writeCount = entries - readable;
    this.writeBytes = bytes - readBytes;
    return true;
  }

  /** Returns a chain to the driver with `length` bytes written to it. Seen by the driver at flush(). */
  push(head: number, length: number): void {
    if (!this.live) return;
    const at = 1 + (this.usedIndex & this.mask) * 2;
    this.usedWords[at] = head;
    this.usedWords[at + 1] = length;
    this.usedIndex = (this.usedIndex + 1) & 0xffff;
  }

  /** Publishes what was pushed, and interrupts the driver if it wants to know. */
  flush(): void {
    const now = this.usedIndex, before = this.published;
    if (now === before || !this.live) return;
    this.published = now;
    Atomics.exchange(this.usedRing, 1, now); // a full barrier: the read of the driver's wish below must come after it
    if (this.eventIndex) {
      const event = Atomics.load(this.availRing, 2 + this.size);
      if (((now - event - 1) & 0xffff) >= ((now - before) & 0xffff)) return;
    } else if ((Atomics.load(this.availRing, 0) & VRING_AVAIL_F_NO_INTERRUPT) !== 0) return;
    this.owner.interrupt(this.index);
  }

  /** Asks for a notification of the next chain. True if one has come meanwhile: then nothing will notify, go on popping. */
  enableNotify(): boolean {
    if (!this.live) return false;
    if (this.eventIndex) Atomics.exchange(this.usedRing, 2 + this.size * 4, this.lastAvail);
    return Atomics.load(this.availRing, 1) !== this.lastAvail;
  }

  /** Chains waiting, as far as the driver has published. Never more than the size in a sound ring. */
  get waiting(): number {
    return this.live ? (Atomics.load(this.availRing, 1) - this.lastAvail) & 0xffff : 0;
  }

  /** The driver broke the rules: no chain comes any more before a reset. */
  fail(reason: string): false {
    this.live = false;
    this.owner.broken(this.index, reason);
    return false;
  }

  /** Only between chains: everything popped has been pushed and flushed, or given back. */
  save(): QueueState {
    const { size, desc, avail, used, lastAvail, usedIndex } = this;
    return { size, desc, avail, used, lastAvail, usedIndex };
  }

  /** Before activate(). */
  restore(state: QueueState): void {
    this.size = state.size;
    this.desc = state.desc;
    this.avail = state.avail;
    this.used = state.used;
    this.lastAvail = this.seenAvail = state.lastAvail & 0xffff;
    this.usedIndex = this.published = state.usedIndex & 0xffff;
  }
}

const EMPTY_VIEW = new DataView(new ArrayBuffer(0));
const EMPTY_U16 = new Uint16Array(0);
const EMPTY_U32 = new Uint32Array(0);
const hex = (value: number): string => `0x${value.toString(16)}`;
