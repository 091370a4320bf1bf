// virtio-blk (virtio 1.2, 5.2): one queue, flush, discard, write-zeroes, serial number. Payloads go between file and guest memory
// by iovecs that the queue has built (transfers.ts); nothing here waits for storage.
import { E } from "../../../ffi/abi/errno.ts";
import { VIRTIO_BLK, virtio_blk_config, virtio_blk_discard_write_zeroes, virtio_blk_outhdr } from "../../../ffi/abi/virtio_blk.ts";
import { VIRTIO_ID } from "../../../ffi/abi/virtio_ids.ts";
import type { Device, DeviceContext } from "../../virtio/device.ts";
import { Iovecs } from "../../virtio/iovecs.ts";
import type { Queue } from "../../virtio/queue.ts";
import type { TokenBucket } from "../token-bucket.ts";
import { blockConfig, blockFeatures, MAX_RANGE_SECTORS, READONLY_BLOCK, SECTOR, SEG_MAX, WRITABLE_BLOCK } from "./config.ts";
import type { DiskIo } from "./disk-io.ts";
import { Layers, type Layer } from "./layers.ts";
import { Op } from "./shared.ts";
import { DiskStats } from "./stats.ts";
import { SLOTS, Transfers, type TransferOwner } from "./transfers.ts";

const { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES } = VIRTIO_BLK;
const { VIRTIO_BLK_S_OK, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP } = VIRTIO_BLK;

const QUEUE_SIZE = SLOTS;
/** Iovecs of one request: header, data, status. */
const REQUEST_ENTRIES = SEG_MAX + 2;
const HEADER = virtio_blk_outhdr.size;
const RANGE = virtio_blk_discard_write_zeroes;
/** Chains taken in one go before other devices get their turn. */
const BUDGET = 4 * QUEUE_SIZE;

export interface BlockOptions {
  readonly name: string;
  readonly readonly: boolean;
  /** At most 20 bytes are shown. */
  readonly serial: string;
  /** Logical block size, where it is not the usual one. */
  readonly block?: number;
  /** What stands behind it; absent for a spare device, whose capacity is 0. */
  readonly backing?: { readonly fd: number; readonly bytes: number } | Layers;
}

export class BlockDevice implements Device, TransferOwner {
  readonly type = VIRTIO_ID.VIRTIO_ID_BLOCK;
  readonly name: string;
  readonly features: bigint;
  readonly queueSizes = [QUEUE_SIZE];
  readonly config: DataView;
  readonly stats = new DiskStats();
  /** Limits bytes a second, both ways together. */
  bucket: TokenBucket | null = null;

  private readonly readonly: boolean;
  private readonly serial = new Uint8Array(VIRTIO_BLK.VIRTIO_BLK_ID_BYTES);
  private readonly iovecs = new Iovecs(QUEUE_SIZE * REQUEST_ENTRIES);
  private readonly transfers: Transfers;
  private readonly block: number;
  private layers: Layers | null = null;
  private bytes = 0;
  private context: DeviceContext | null = null;
  private resetting = false;
  /** Hears that nothing is in flight any more; while it is set no new chain is taken. */
  private onIdle: (() => void) | null = null;
  /** A layer is being added: no new chain is taken. */
  private switching = false;

  // Requests in flight, by slot. A slot's iovecs stand at slot * REQUEST_ENTRIES.
  private readonly free = new Uint16Array(QUEUE_SIZE);
  private freeCount = QUEUE_SIZE;
  private readonly heads = new Uint16Array(QUEUE_SIZE);
  private readonly statusAt = new Float64Array(QUEUE_SIZE);
  private readonly header = new Uint8Array(HEADER);
  private readonly headerView = new DataView(this.header.buffer);

  constructor(options: BlockOptions, io: DiskIo) {
    this.name = options.name;
    this.readonly = options.readonly;
    this.features = blockFeatures(options.readonly);
    this.serial.set(Buffer.from(options.serial).subarray(0, this.serial.length));
    this.transfers = new Transfers(this, this.iovecs, io);
    this.block = options.block ?? (options.readonly ? READONLY_BLOCK : WRITABLE_BLOCK);
    this.config = blockConfig(this.block);
    for (let i = 0; i < QUEUE_SIZE; i++) this.free[i] = QUEUE_SIZE - 1 - i;
    if (options.backing instanceof Layers) this.setLayers(options.backing);
    else if (options.backing) this.setBacking(options.backing.fd, options.backing.bytes);
  }

  /** Puts a file of `bytes` behind the device (-1, 0: none); the guest learns the new capacity. The descriptor stays the caller's, open until inFlight is 0. */
  setBacking(fd: number, bytes: number): void {
    this.layers = fd < 0 ? null : new Layers(this.name, bytes, [{ fd, map: null }]);
    this.transfers.setFile(fd);
    this.setBytes(bytes);
  }

  private setLayers(layers: Layers): void {
    if (layers.depth > 1 && !this.readonly && this.block < WRITABLE_BLOCK) throw new Error(`Cannot use ${this.name}: it has layers, and blocks of ${this.block} bytes`);
    this.layers = layers;
    this.transfers.setLayers(layers);
    this.setBytes(layers.bytes);
  }

  private setBytes(bytes: number): void {
    this.bytes = Math.floor(bytes / this.block) * this.block;
    this.config.setBigUint64(virtio_blk_config.at.capacity, BigInt(this.bytes / SECTOR), true);
    this.context?.configChanged();
  }

  /** Holds back whatever would change the disk (writes, discards, flushes) until open(); reads pass. */
  shut(): void { this.transfers.shut(); }
  open(): void { this.transfers.open(); }

  /** Takes no new chain until resume(); `done` runs once, when the last request in flight is answered. */
  quiesce(done: () => void): void {
    this.onIdle = done;
    this.process();
  }
  resume(): void {
    this.onIdle = null;
    this.process();
  }

  /**
   * `layer` becomes the newest: what was until now is synced once nothing is in flight, and never written to again. Requests of the
   * guest wait meanwhile. Calls back, maybe at once, with null or why not; then nothing has changed.
   */
  addLayer(layer: Layer, done: (error: string | null) => void): void {
    const { layers } = this;
    const fault = this.readonly || layers === null ? "it is not written to" : this.block < WRITABLE_BLOCK ? `its blocks have ${this.block} bytes` : this.switching ? "another one is being added" : layers.fault(layer);
    if (layers === null || fault !== null) return done(`Cannot add a layer to ${this.name}: ${fault}`);
    this.switching = true;
    this.transfers.syncWhenIdle((errno) => {
      this.switching = false;
      if (errno === 0) this.transfers.addLayer(layers, layer);
      this.context?.again(0);
      done(errno === 0 ? null : `Cannot add a layer to ${this.name}: what it holds can't be synced (errno ${errno})`);
    });
  }

  /** What the guest was told is written is brought to the storage; calls back with 0 or an errno. */
  sync(done: (errno: number) => void): void { this.transfers.sync(done); }

  arena(): Iovecs { return this.iovecs; }
  get capacity(): number { return this.bytes; }
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
    this.transfers.callBack();
    const context = this.context;
    if (this.onIdle !== null) return this.settle(context, this.onIdle);
    if (context === null || this.resetting || this.switching) return;
    const queue = context.queues[0]!;
    for (let budget = BUDGET; ; ) {
      const taken = this.take(queue, context, budget);
      this.transfers.flush();
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
    let header = queue.readCount > 0 ? queue.payload.viewOf(queue.firstRead, HEADER) : null, at = queue.payload.viewAt;
    if (header === null) {
      if (queue.payload.gather(queue.firstRead, queue.readCount, this.header) < HEADER) return this.answer(queue, status, VIRTIO_BLK_S_IOERR, 0);
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
      if (this.layers === null) this.answer(queue, status, VIRTIO_BLK_S_IOERR, 0);
      else if (this.readonly) this.answer(queue, status, VIRTIO_BLK_S_OK, 0);
      else this.start(slot, Op.FDATASYNC, 0, 0, 0, 0);
    } else this.uncommon(queue, slot, type, writable);
  }

  private transfer(queue: Queue, slot: number, op: number, first: number, count: number, offset: number, bytes: number): void {
    const refused = bytes % this.block !== 0 || offset % this.block !== 0 || offset + bytes > this.bytes || (op === Op.WRITEV && this.readonly);
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
      queue.payload.scatter(queue.firstWrite, queue.writeCount, serial);
      return this.answer(queue, status, VIRTIO_BLK_S_OK, serial.length);
    }
    if (type !== VIRTIO_BLK_T_DISCARD && type !== VIRTIO_BLK_T_WRITE_ZEROES) return this.answer(queue, status, VIRTIO_BLK_S_UNSUPP, 0);
    const bytes = new Uint8Array(HEADER + RANGE.size);
    if (queue.readBytes !== bytes.length || this.readonly) return this.answer(queue, status, VIRTIO_BLK_S_IOERR, 0);
    queue.payload.gather(queue.firstRead, queue.readCount, bytes);
    const range = new DataView(bytes.buffer, HEADER);
    const flags = range.getUint32(RANGE.at.flags, true);
    const allowed = type === VIRTIO_BLK_T_WRITE_ZEROES ? VIRTIO_BLK.VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
    if ((flags & ~allowed) !== 0) return this.answer(queue, status, VIRTIO_BLK_S_UNSUPP, 0);
    const offset = (range.getUint32(RANGE.at.sector + 4, true) * 0x1_0000_0000 + range.getUint32(RANGE.at.sector, true)) * SECTOR;
    const sectors = range.getUint32(RANGE.at.num_sectors, true), length = sectors * SECTOR;
    if (sectors > MAX_RANGE_SECTORS || offset + length > this.bytes || offset % this.block !== 0 || length % this.block !== 0) return this.answer(queue, status, VIRTIO_BLK_S_IOERR, 0);
    if (sectors === 0) return this.answer(queue, status, VIRTIO_BLK_S_OK, 0);
    const punch = type === VIRTIO_BLK_T_DISCARD || flags !== 0;
    this.start(slot, punch ? Op.PUNCH_HOLE : Op.ZERO_RANGE, 0, 0, offset, length);
  }

  private start(slot: number, op: number, first: number, count: number, offset: number, bytes: number): void {
    this.freeCount--;
    this.transfers.start(slot, op, first, count, offset, bytes);
  }

  finished(slot: number, op: number, bytes: number, result: number): void {
    const ok = result === 0;
    if (ok) this.stats.count(op, bytes);
    else this.stats.countFailure(result);
    this.free[this.freeCount++] = slot;
    const context = this.context!;
    const status = ok ? VIRTIO_BLK_S_OK : result === -E.ENOTSUP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
    const queue = context.queues[0]!;
    queue.payload.poke(this.statusAt[slot]!, status);
    queue.push(this.heads[slot]!, ok && op === Op.READV ? bytes + 1 : 1);
    if (this.resetting && this.inFlight === 0) this.finishReset(context);
  }

  private finishReset(context: DeviceContext): void {
    this.resetting = false;
    this.context = null;
    context.resetDone();
  }

  /** Answers a request that needed no I/O. */
  private answer(queue: Queue, status: number, value: number, written: number): void {
    if (value === VIRTIO_BLK_S_IOERR) this.stats.errors++;
    queue.payload.poke(status, value);
    queue.push(queue.head, written + 1);
  }
}
