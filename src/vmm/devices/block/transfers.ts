// The requests of one disk that are in flight, and their I/O: started with the iovecs that the queue has built, gone on with where a
// transfer was short, and over when all of it is done. Where the disk has layers, layered.ts says what goes where.
import { E } from "../../../ffi/abi/errno.ts";
import type { Iovecs } from "../../virtio/iovecs.ts";
import { MAX_TAGS, type DiskClient, type DiskIo } from "./disk-io.ts";
import { Layered, type Requests } from "./layered.ts";
import type { Layer, Layers } from "./layers.ts";
import { Op } from "./shared.ts";

/** Requests of the guest at most in flight, each in a slot; one more is for what the monitor itself has to sync. */
export const SLOTS = MAX_TAGS - 1;
const SYNC = SLOTS;

export interface TransferOwner {
  /** The request in `slot` is over: 0, or -errno. It frees the slot. Must not flush. */
  finished(slot: number, op: number, bytes: number, result: number): void;
  settled(): void;
  settleLater(): void;
}

export class Transfers implements DiskClient, Requests {
  readonly ops = new Uint8Array(SLOTS + 1);
  /** Iovecs still to move: first entry in the arena, and how many. */
  readonly firsts = new Uint32Array(SLOTS + 1);
  readonly counts = new Uint16Array(SLOTS + 1);
  readonly offsets = new Float64Array(SLOTS + 1);
  /** Bytes still to move, and all of them. */
  readonly lefts = new Float64Array(SLOTS + 1);
  readonly totals = new Float64Array(SLOTS + 1);

  private readonly client: number;
  private fd = -1;
  private layered: Layered | null = null;
  /** Requests that wait for the gate, in their order; null while it is open. */
  private held: number[] | null = null;
  /** Requests that have begun, and are not over. */
  private active = 0;
  private readonly idle: (() => void)[] = [];
  /** What is to be called back, but not from within complete(): it may start requests and flush. */
  private due: (() => void)[] = [];
  private syncing: ((errno: number) => void)[] = [];
  private readonly toSync: ((errno: number) => void)[] = [];

  constructor(private readonly owner: TransferOwner, readonly iovecs: Iovecs, private readonly io: DiskIo) {
    this.client = io.attach(this);
  }

  /** What stands behind the disk from now on; nothing may be in flight. Descriptors stay the caller's. */
  setFile(fd: number): void {
    this.fd = fd;
    this.layered = null;
  }
  setLayers(layers: Layers): void {
    this.fd = layers.top.fd;
    this.layered = layers.top.map === null ? null : new Layered(this, layers);
  }

  /** READV and WRITEV: iovecs [first, first + count) with `bytes` in all. PUNCH_HOLE, ZERO_RANGE: [offset, offset + bytes). */
  start(slot: number, op: number, first: number, count: number, offset: number, bytes: number): void {
    this.ops[slot] = op;
    this.firsts[slot] = first;
    this.counts[slot] = count;
    this.offsets[slot] = offset;
    this.lefts[slot] = this.totals[slot] = bytes;
    if (this.held !== null && op !== Op.READV && slot !== SYNC) this.held.push(slot);
    else this.begin(slot);
  }

  private begin(slot: number): void {
    this.active++;
    this.submit(slot);
  }

  /** Holds back whatever would change the disk (writes, discards, flushes) until open(); reads, and what has begun, go on. */
  shut(): void { this.held ??= []; }

  open(): void {
    const held = this.held ?? [];
    this.held = null;
    for (const slot of held) this.begin(slot);
    this.publish();
  }

  /** Hands what was started to the host; may finish requests. */
  flush(): void {
    this.io.flush(this.client);
    this.callBack();
  }

  private submit(slot: number): void {
    if (this.layered !== null) this.layered.submit(slot);
    else this.issue(slot, this.fd, this.counts[slot]!);
  }

  /** The next step of a request: on `fd`, with `count` of its iovecs. */
  issue(slot: number, fd: number, count: number): void {
    const op = this.ops[slot]!;
    const address = op === Op.READV || op === Op.WRITEV ? this.iovecs.at(this.firsts[slot]!) : this.lefts[slot]!;
    this.io.submit(this.client, op, fd, address, count, this.offsets[slot]!, slot);
  }

  /** A step of layered.ts's own. */
  issueOther(slot: number, op: number, fd: number, address: number, count: number, offset: number): void {
    this.io.submit(this.client, op, fd, address, count, offset, slot);
  }

  complete(slot: number, result: number): void {
    if (this.layered === null || this.layered.completed(slot, result)) this.moved(slot, result);
  }

  /** A step that moved data, or synced, has come back. */
  private moved(slot: number, result: number): void {
    const op = this.ops[slot]!, moves = op === Op.READV || op === Op.WRITEV;
    if (moves && result > 0 && result < this.lefts[slot]!) {
      this.advance(slot, result); // the rest is asked for, and tells why (no space, end of file, another layer)
      return this.submit(slot);
    }
    if (op === Op.ZERO_RANGE && result === -E.ENOTSUP) {
      // Not every file system has it (tmpfs); a hole reads as zeroes too.
      this.ops[slot] = Op.PUNCH_HOLE;
      return this.submit(slot);
    }
    const ok = moves ? result === this.lefts[slot]! : result === 0;
    if (!ok) return this.finish(slot, result < 0 ? result : -E.EIO);
    if (this.layered === null || this.layered.written(slot)) this.finish(slot, 0);
  }

  private advance(slot: number, done: number): void {
    const gone = this.iovecs.skip(this.firsts[slot]!, done);
    this.firsts[slot]! += gone;
    this.counts[slot]! -= gone;
    this.offsets[slot]! += done;
    this.lefts[slot]! -= done;
  }

  finish(slot: number, result: number): void {
    this.active--;
    if (slot === SYNC) this.synced(result);
    else this.owner.finished(slot, this.ops[slot]!, this.totals[slot]!, result);
    if (this.active === 0) this.due.push(...this.idle.splice(0));
  }

  /** In the main loop, after completions. */
  callBack(): void {
    if (this.due.length > 0) for (const done of this.due.splice(0)) done();
  }

  settled(): void {
    this.owner.settled();
    this.callBack();
  }
  /** What is due is called back at once: the owner's later round comes only while the guest's queue is sound. */
  settleLater(): void {
    this.owner.settleLater();
    this.callBack();
  }

  private whenIdle(done: () => void): void {
    if (this.active === 0) done();
    else this.idle.push(done);
  }

  /** Calls back with 0 or an errno, maybe at once, when all that was ever started is over and synced. */
  syncWhenIdle(done: (errno: number) => void): void {
    this.whenIdle(() => this.sync((errno) => {
      if (errno === 0 && this.active > 0) this.syncWhenIdle(done); // the gate was opened meanwhile
      else done(errno);
    }));
  }

  /** What has been answered until now is brought to the storage; calls back with 0 or an errno, maybe at once. */
  sync(done: (errno: number) => void): void {
    this.toSync.push(done);
    if (this.syncing.length > 0) return; // the one under way began too early
    this.startSync();
    this.publish();
  }

  /** Hands on what was started outside of the owner's own round. */
  private publish(): void {
    this.flush();
    this.owner.settleLater(); // what that has reaped of the guest's
  }

  private startSync(): void {
    this.syncing = this.toSync.splice(0);
    this.start(SYNC, Op.FDATASYNC, 0, 0, 0, 0);
  }

  private synced(result: number): void {
    for (const done of this.syncing.splice(0)) this.due.push(() => done(0 - result));
    if (this.toSync.length > 0 && this.syncing.length === 0) this.startSync();
  }

  /** Nothing in flight: what was newest until now stays as it is from here on. */
  addLayer(layers: Layers, layer: Layer): void {
    this.layered?.close();
    layers.push(layer);
    this.setLayers(layers);
  }
}
