// virtio-blk (virtio 1.2, 5.2): one queue, flush, discard, write-zeroes, serial number. Payloads go between file and guest memory
// by iovecs that the queue has built; nothing here waits for storage.
import { E } from "../../../ffi/abi/errno.ts";
import { VIRTIO_BLK, virtio_blk_config, virtio_blk_discard_write_zeroes, virtio_blk_outhdr } from "../../../ffi/abi/virtio_blk.ts";
import { VIRTIO_ID } from "../../../ffi/abi/virtio_ids.ts";
import { bits, type Device, type DeviceContext } from "../../virtio/device.ts";
import { Iovecs } from "../../virtio/iovecs.ts";
import type { Queue } from "../../virtio/queue.ts";
import type { TokenBucket } from "../token-bucket.ts";
import type { DiskClient, DiskIo } from "./disk-io.ts";
import { Op } from "./shared.ts";

const { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES } = VIRTIO_BLK;
const { VIRTIO_BLK_S_OK, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP } = VIRTIO_BLK;

const SECTOR = 512;
/** 2^3 sectors are a page: smaller writes cost a read. The logical size stays 512, as file systems with smaller blocks need it. */
const PHYSICAL_BLOCK_EXP = 3;
const QUEUE_SIZE = 256;
const SEG_MAX = 126;
/** Iovecs of one request: header, data, status. */
const REQUEST_ENTRIES = SEG_MAX + 2;
const HEADER = virtio_blk_outhdr.size;
const RANGE = virtio_blk_discard_write_zeroes;
/** Linux caps a discard at this anyway; 1 GiB keeps one fallocate short. */
const MAX_RANGE_SECTORS = 2 ** 21;
/** Chains taken in one go before other devices get their turn. */
const BUDGET = 4 * QUEUE_SIZE;

export interface DiskStats {
  readBytes: number;
  writtenBytes: number;
  reads: number;
  writes: number;
  flushes: number;
  /** Requests that failed, and of them those for which the host had no space. */
  errors: number;
  noSpace: number;
}

export interface BlockOptions {
  readonly name: string;
  readonly readonly: boolean;
  /** At most 20 bytes are shown. */
  readonly serial: string;
  /** What stands behind it; absent for a spare device, whose capacity is 0. */
  readonly backing?: { readonly fd: number; readonly bytes: number };
}

export class BlockDevice implements Device, DiskClient {
  readonly type = VIRTIO_ID.VIRTIO_ID_BLOCK;
  readonly name: string;
  readonly features: bigint;
  readonly queueSizes = [QUEUE_SIZE];
  readonly config = new DataView(new ArrayBuffer(virtio_blk_config.at.unused1));
  readonly stats: DiskStats = { readBytes: 0, writtenBytes: 0, reads: 0, writes: 0, flushes: 0, errors: 0, noSpace: 0 };
  /** Limits bytes a second, both ways together. */
  bucket: TokenBucket | null = null;

  private readonly readonly: boolean;
  private readonly serial = new Uint8Array(VIRTIO_BLK.VIRTIO_BLK_ID_BYTES);
  private readonly iovecs = new Iovecs(QUEUE_SIZE * REQUEST_ENTRIES);
  private readonly client: number;
  private fd = -1;
  private bytes = 0;
  private context: DeviceContext | null = null;
  private resetting = false;
  /** Requests that wait for the gate, in their order; null while it is open. See shut(). */
  private held: number[] | null = null;
  /** Hears that nothing is in flight any more; while it is set no new chain is taken. */
  private onIdle: (() => void) | null = null;

  // Requests in flight, by slot. A slot's iovecs stand at slot * REQUEST_ENTRIES.
  private readonly free = new Uint16Array(QUEUE_SIZE);
  private freeCount = QUEUE_SIZE;
  private readonly heads = new Uint16Array(QUEUE_SIZE);
  private readonly ops = new Uint8Array(QUEUE_SIZE);
  private readonly statusAt = new Float64Array(QUEUE_SIZE);
  private readonly firsts = new Uint32Array(QUEUE_SIZE);
  private readonly counts = new Uint16Array(QUEUE_SIZE);
  private readonly offsets = new Float64Array(QUEUE_SIZE);
  /** Bytes still to move, and all of them. */
  private readonly lefts = new Float64Array(QUEUE_SIZE);
  private readonly totals = new Float64Array(QUEUE_SIZE);
  private readonly header = new Uint8Array(HEADER);
  private readonly headerView = new DataView(this.header.buffer);

  constructor(options: BlockOptions, private readonly io: DiskIo) {
    this.name = options.name;
    this.readonly = options.readonly;
    this.features = features(options.readonly);
    this.serial.set(Buffer.from(options.serial).subarray(0, this.serial.length));
    this.client = io.attach(this);
    for (let i = 0; i < QUEUE_SIZE; i++) this.free[i] = QUEUE_SIZE - 1 - i;
    const c = this.config, at = virtio_blk_config.at;
    c.setUint32(at.seg_max, SEG_MAX, true);
    c.setUint32(at.blk_size, SECTOR, true);
    c.setUint8(at.physical_block_exp, PHYSICAL_BLOCK_EXP);
    c.setUint16(at.min_io_size, 1, true);
    c.setUint16(at.num_queues, 1, true);
    c.setUint32(at.max_discard_sectors, MAX_RANGE_SECTORS, true);
    c.setUint32(at.max_discard_seg, 1, true);
    c.setUint32(at.discard_sector_alignment, 2 ** PHYSICAL_BLOCK_EXP, true);
    c.setUint32(at.max_write_zeroes_sectors, MAX_RANGE_SECTORS, true);
    c.setUint32(at.max_write_zeroes_seg, 1, true);
    c.setUint8(at.write_zeroes_may_unmap, 1);
    if (options.backing) this.setBacking(options.backing.fd, options.backing.bytes);
  }

  /** Puts a file of `bytes` behind the device (-1, 0: none); the guest learns the new capacity. The descriptor stays the caller's, open until inFlight is 0. */
  setBacking(fd: number, bytes: number): void {
    this.fd = fd;
    this.bytes = Math.floor(bytes / SECTOR) * SECTOR;
    this.config.setBigUint64(virtio_blk_config.at.capacity, BigInt(this.bytes / SECTOR), true);
    this.context?.configChanged();
  }

  /** Holds back whatever would change the disk (writes, discards, flushes) until open(); reads pass. */
  shut(): void { this.held ??= []; }

  open(): void {
    const held = this.held ?? [];
    this.held = null;
    for (const slot of held) this.submit(slot);
    this.io.flush(this.client);
  }

  /** Takes no new chain until resume(); `done` runs once, when the last request in flight is answered. */
  quiesce(done: () => void): void {
    this.onIdle = done;
    this.process();
  }

  /** After quiesce(). */
  resume(): void {
    this.onIdle = null;
    this.process();
  }

  arena(): Iovecs { return this.iovecs; }
  get inFlight(): number { return QUEUE_SIZE - this.freeCount; }

  activate(context: DeviceContext): void { this.context = context; }
  onNotify(): void { this.process(); }
  settled(): void { this.process(); }
  settleLater(): void { this.context?.again(0); }

  /** Wakes a device that its bucket had stopped. */
  wake(): void { this.process(); }

  reset(): boolean {
    this.resetting = this.inFlight > 0;
    if (!this.resetting) this.context = null;
    return !this.resetting;
  }

  save(): unknown { return { bytes: this.bytes }; }
  restore(): void {
    // The file comes with its size from whoever restores; nothing else is kept here.
  }

  private process(): void {
    const context = this.context;
    if (this.onIdle !== null) return this.settle(context, this.onIdle);
    if (context === null || this.resetting) return;
    const queue = context.queues[0]!;
    for (let budget = BUDGET; ; ) {
      const taken = this.take(queue, context, budget);
      this.io.flush(this.client);
      queue.flush();
      budget -= taken;
      if (budget <= 0) return context.again(0);
      if (this.throttled || this.freeCount === 0) return; // the bucket's timer, or a completion, comes back here
      if (taken === 0 && !queue.enableNotify()) return;
    }
  }
  private throttled = false;

  /** Between quiesce() and resume(): what is over is published, nothing else is begun. */
  private settle(context: DeviceContext | null, idle: () => void): void {
    context?.queues[0]!.flush();
    if (this.inFlight > 0) return;
    this.onIdle = () => {}; // it is told once, and no chain is taken until resume()
    idle();
  }

  /** Takes chains until there are none, or no slot for one. Returns how many. */
  private take(queue: Queue, context: DeviceContext, budget: number): number {
    let taken = 0;
    this.throttled = false;
    for (; taken < budget && this.freeCount > 0; taken++) {
      if (this.bucket !== null && !this.bucket.ready()) {
        this.throttled = true;
        break;
      }
      const slot = this.free[this.freeCount - 1]!;
      if (!queue.pop(slot * REQUEST_ENTRIES, REQUEST_ENTRIES)) break;
      this.request(queue, context, slot);
    }
    return taken;
  }

  private request(queue: Queue, context: DeviceContext, slot: number): void {
    if (queue.writeBytes === 0) return context.fail("a block request has no room for its status");
    const last = queue.firstWrite + queue.writeCount - 1, lastLength = this.iovecs.length(last);
    const status = this.iovecs.hva(last) + lastLength - 1;
    const writable = queue.writeBytes - 1;
    let header = queue.readCount > 0 ? queue.viewOf(queue.firstRead, HEADER) : null, at = queue.viewAt;
    if (header === null) {
      if (queue.gather(queue.firstRead, queue.readCount, this.header) < HEADER) return this.answer(queue, status, VIRTIO_BLK_S_IOERR, 0);
      header = this.headerView;
      at = 0;
    }
    const type = header.getUint32(at, true);
    const sector = header.getUint32(at + 12, true) * 0x1_0000_0000 + header.getUint32(at + 8, true);
    this.heads[slot] = queue.head;
    this.statusAt[slot] = status;
    if (type === VIRTIO_BLK_T_IN) {
      if (lastLength > 1) this.iovecs.set(last, this.iovecs.hva(last), lastLength - 1);
      const count = lastLength > 1 ? queue.writeCount : queue.writeCount - 1;
      this.transfer(queue, slot, Op.READV, queue.firstWrite, count, sector * SECTOR, writable);
    } else if (type === VIRTIO_BLK_T_OUT) {
      const gone = this.iovecs.skip(queue.firstRead, HEADER);
      this.transfer(queue, slot, Op.WRITEV, queue.firstRead + gone, queue.readCount - gone, sector * SECTOR, queue.readBytes - HEADER);
    } else if (type === VIRTIO_BLK_T_FLUSH) {
      this.stats.flushes++;
      if (this.fd < 0) this.answer(queue, status, VIRTIO_BLK_S_IOERR, 0);
      else if (this.readonly) this.answer(queue, status, VIRTIO_BLK_S_OK, 0);
      else this.start(slot, Op.FDATASYNC, 0, 0, 0, 0);
    } else this.uncommon(queue, slot, type, writable);
  }

  private transfer(queue: Queue, slot: number, op: number, first: number, count: number, offset: number, bytes: number): void {
    const refused = bytes % SECTOR !== 0 || offset + bytes > this.bytes || (op === Op.WRITEV && this.readonly);
    if (refused) this.answer(queue, this.statusAt[slot]!, VIRTIO_BLK_S_IOERR, 0);
    else if (bytes === 0) this.answer(queue, this.statusAt[slot]!, VIRTIO_BLK_S_OK, 0);
    else {
      this.bucket?.take(bytes);
      this.start(slot, op, first, count, offset, bytes);
    }
  }

  private uncommon(queue: Queue, slot: number, type: number, writable: number): void {
    const status = this.statusAt[slot]!;
    if (type === VIRTIO_BLK_T_GET_ID) {
      const serial = this.serial.subarray(0, Math.min(writable, this.serial.length));
      queue.scatter(queue.firstWrite, queue.writeCount, serial);
      return this.answer(queue, status, VIRTIO_BLK_S_OK, serial.length);
    }
    if (type !== VIRTIO_BLK_T_DISCARD && type !== VIRTIO_BLK_T_WRITE_ZEROES) return this.answer(queue, status, VIRTIO_BLK_S_UNSUPP, 0);
    const bytes = new Uint8Array(HEADER + RANGE.size);
    if (queue.readBytes !== bytes.length || this.readonly) return this.answer(queue, status, VIRTIO_BLK_S_IOERR, 0);
    queue.gather(queue.firstRead, queue.readCount, bytes);
    const range = new DataView(bytes.buffer, HEADER);
    const flags = range.getUint32(RANGE.at.flags, true);
    const allowed = type === VIRTIO_BLK_T_WRITE_ZEROES ? VIRTIO_BLK.VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
    if ((flags & ~allowed) !== 0) return this.answer(queue, status, VIRTIO_BLK_S_UNSUPP, 0);
    const offset = (range.getUint32(RANGE.at.sector + 4, true) * 0x1_0000_0000 + range.getUint32(RANGE.at.sector, true)) * SECTOR;
    const sectors = range.getUint32(RANGE.at.num_sectors, true), length = sectors * SECTOR;
    if (sectors > MAX_RANGE_SECTORS || offset + length > this.bytes) return this.answer(queue, status, VIRTIO_BLK_S_IOERR, 0);
    if (sectors === 0) return this.answer(queue, status, VIRTIO_BLK_S_OK, 0);
    const punch = type === VIRTIO_BLK_T_DISCARD || flags !== 0;
    this.start(slot, punch ? Op.PUNCH_HOLE : Op.ZERO_RANGE, 0, 0, offset, length);
  }

  private start(slot: number, op: number, first: number, count: number, offset: number, bytes: number): void {
    this.ops[slot] = op;
    this.firsts[slot] = first;
    this.counts[slot] = count;
    this.offsets[slot] = offset;
    this.lefts[slot] = this.totals[slot] = bytes;
    this.freeCount--;
    this.submit(slot);
  }

  private submit(slot: number): void {
    const op = this.ops[slot]!;
    if (this.held !== null && op !== Op.READV) return void this.held.push(slot);
    const address = op === Op.READV || op === Op.WRITEV ? this.iovecs.at(this.firsts[slot]!) : this.lefts[slot]!;
    this.io.submit(this.client, op, this.fd, address, this.counts[slot]!, this.offsets[slot]!, slot);
  }

  complete(slot: number, result: number): void {
    const op = this.ops[slot]!, moves = op === Op.READV || op === Op.WRITEV;
    if (moves && result > 0 && result < this.lefts[slot]!) return this.continueAfter(slot, result);
    if (op === Op.ZERO_RANGE && result === -E.ENOTSUP) {
      // Not every file system has it (tmpfs); a hole reads as zeroes too.
      this.ops[slot] = Op.PUNCH_HOLE;
      return this.submit(slot);
    }
    const ok = moves ? result === this.lefts[slot]! : result === 0;
    const total = this.totals[slot]!;
    if (ok) this.count(op, total);
    else this.countFailure(result);
    this.free[this.freeCount++] = slot;
    const context = this.context!;
    const status = ok ? VIRTIO_BLK_S_OK : result === -E.ENOTSUP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
    const queue = context.queues[0]!;
    queue.poke(this.statusAt[slot]!, status);
    queue.push(this.heads[slot]!, ok && op === Op.READV ? total + 1 : 1);
    if (this.resetting && this.inFlight === 0) this.finishReset(context);
  }

  private finishReset(context: DeviceContext): void {
    this.resetting = false;
    this.context = null;
    context.resetDone();
  }

  /** A short transfer: the rest is asked for, and tells why (no space, end of file). */
  private continueAfter(slot: number, done: number): void {
    const gone = this.iovecs.skip(this.firsts[slot]!, done);
    this.firsts[slot]! += gone;
    this.counts[slot]! -= gone;
    this.offsets[slot]! += done;
    this.lefts[slot]! -= done;
    this.submit(slot);
  }

  private count(op: number, bytes: number): void {
    if (op === Op.READV) {
      this.stats.reads++;
      this.stats.readBytes += bytes;
    } else if (op === Op.WRITEV) {
      this.stats.writes++;
      this.stats.writtenBytes += bytes;
    }
  }

  private countFailure(result: number): void {
    this.stats.errors++;
    if (result === -E.ENOSPC || result === -E.EDQUOT) this.stats.noSpace++;
  }

  /** Answers a request that needed no I/O. */
  private answer(queue: Queue, status: number, value: number, written: number): void {
    if (value === VIRTIO_BLK_S_IOERR) this.stats.errors++;
    queue.poke(status, value);
    queue.push(queue.head, written + 1);
  }
}

function features(readonly: boolean): bigint {
  const common = bits(VIRTIO_BLK.VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK.VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK.VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK.VIRTIO_BLK_F_FLUSH);
  if (readonly) return common | bits(VIRTIO_BLK.VIRTIO_BLK_F_RO);
  return common | bits(VIRTIO_BLK.VIRTIO_BLK_F_DISCARD, VIRTIO_BLK.VIRTIO_BLK_F_WRITE_ZEROES);
}
