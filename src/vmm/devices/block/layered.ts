// What a layered disk does beside moving data: reads go to the file that has the block, writes to the newest, whose map is written
// after them; only then the guest hears of them. A flush takes three steps: the data, then the bits that are flushed with it, then
// the map. While one is under way others wait for the next, which serves all of them.
import { E } from "../../../ffi/abi/errno.ts";
import { MAP_BLOCK } from "../../../block-map.ts";
import { Iovecs } from "../../virtio/iovecs.ts";
import { MAX_TAGS } from "./disk-io.ts";
import type { Layers } from "./layers.ts";
import { MapWriter } from "./map-writer.ts";
import { Op } from "./shared.ts";

/** Requests in flight by slot, as transfers.ts keeps them. */
export interface Requests {
  readonly iovecs: Iovecs;
  readonly ops: Uint8Array;
  readonly firsts: Uint32Array;
  readonly counts: Uint16Array;
  readonly offsets: Float64Array;
  readonly lefts: Float64Array;
  readonly totals: Float64Array;
  /** Moves what is left, or its first `count` iovecs. */
  issue(slot: number, fd: number, count: number): void;
  issueOther(slot: number, op: number, fd: number, address: number, count: number, offset: number): void;
  finish(slot: number, result: number): void;
}

/** What a request waits for. */
const Stage = { DATA: 0, MAP: 1, FLUSHED_BITS: 2, FLUSHED_MAP: 3 } as const;

export class Layered {
  private readonly writer: MapWriter;
  private readonly fd: number;
  private readonly mapFd: number;
  private readonly stages = new Uint8Array(MAX_TAGS);
  /** One iovec a slot, for bits on their way to the map; and the file offset of it. */
  private readonly bits = new Iovecs(MAX_TAGS);
  private readonly bitsAt = new Float64Array(MAX_TAGS);
  /** The last iovec of a step, where the step ends within it: its whole length. */
  private readonly cutEntries = new Int32Array(MAX_TAGS).fill(-1);
  private readonly cutLengths = new Uint32Array(MAX_TAGS);
  /** Flushes that the one under way serves (the first of them does it), and those that came later. */
  private flushes: number[] = [];
  private waiting: number[] = [];

  constructor(private readonly transfers: Requests, private readonly layers: Layers) {
    const { fd, map } = layers.top;
    if (map === null) throw new Error("a disk of one plain file has no layers");
    this.fd = fd;
    this.mapFd = map.fd;
    this.writer = new MapWriter(map);
  }

  submit(slot: number): void {
    const t = this.transfers, op = t.ops[slot]!;
    this.stages[slot] = Stage.DATA;
    if (op === Op.READV) this.read(slot);
    else if (op === Op.FDATASYNC) this.flush(slot);
    else t.issue(slot, this.fd, t.counts[slot]!);
  }

  /** As many blocks as one file has in a row. A step that was short may have ended within a block. */
  private read(slot: number): void {
    const t = this.transfers, offset = t.offsets[slot]!, left = t.lefts[slot]!;
    const block = Math.floor(offset / MAP_BLOCK), within = offset - block * MAP_BLOCK;
    const blocks = this.layers.locate(block, Math.ceil((within + left) / MAP_BLOCK));
    const bytes = Math.min(blocks * MAP_BLOCK - within, left);
    t.issue(slot, this.layers.fd, bytes < left ? this.cut(slot, bytes) : t.counts[slot]!);
  }

  /** How many iovecs hold the next `bytes`; the last one is shortened until the step is done. */
  private cut(slot: number, bytes: number): number {
    const { iovecs, firsts } = this.transfers, first = firsts[slot]!;
    let entry = first, left = bytes;
    while (left > iovecs.length(entry)) left -= iovecs.length(entry++);
    this.cutEntries[slot] = entry;
    this.cutLengths[slot] = iovecs.length(entry);
    iovecs.set(entry, iovecs.hva(entry), left);
    return entry - first + 1;
  }

  private mend(slot: number): void {
    const entry = this.cutEntries[slot]!;
    if (entry < 0) return;
    const { iovecs } = this.transfers;
    iovecs.set(entry, iovecs.hva(entry), this.cutLengths[slot]!);
    this.cutEntries[slot] = -1;
  }

  /** A step has come back. True where it was one that moved data: the transfers go on with it. */
  completed(slot: number, result: number): boolean {
    const stage = this.stages[slot]!;
    if (stage === Stage.DATA) {
      this.mend(slot);
      if (this.transfers.ops[slot] !== Op.FDATASYNC) return true;
      if (result < 0) this.endFlush(result);
      else this.nextBits(slot);
    } else if (stage === Stage.FLUSHED_MAP) this.endFlush(result);
    else this.bitsWritten(slot, stage, result);
    return false;
  }

  /** All data of a request is where it belongs. False where its blocks have to go into the map first. */
  written(slot: number): boolean {
    const t = this.transfers, total = t.totals[slot]!;
    if (t.ops[slot] === Op.READV) return true;
    const offset = this.start(slot);
    if (!this.layers.top.map!.lacks(offset, total)) return true;
    this.writer.stage(offset / MAP_BLOCK, total / MAP_BLOCK);
    this.writeBits(slot, Stage.MAP);
    return false;
  }

  /** A write advances its offset; where it began is what it still has left, and has not, away. */
  private start(slot: number): number {
    const t = this.transfers;
    return t.offsets[slot]! + t.lefts[slot]! - t.totals[slot]!;
  }

  private writeBits(slot: number, stage: number): void {
    const { address, length, offset } = this.writer;
    this.bits.set(slot, address, length);
    this.bitsAt[slot] = offset;
    this.issueBits(slot, stage);
  }

  private issueBits(slot: number, stage: number): void {
    this.stages[slot] = stage;
    this.transfers.issueOther(slot, Op.WRITEV, this.mapFd, this.bits.at(slot), 1, this.bitsAt[slot]!);
  }

  private bitsWritten(slot: number, stage: number, result: number): void {
    const length = this.bits.length(slot);
    if (result > 0 && result < length) {
      this.bits.set(slot, this.bits.hva(slot) + result, length - result);
      this.bitsAt[slot]! += result;
      return this.issueBits(slot, stage);
    }
    const error = result === length ? 0 : result < 0 ? result : -E.EIO;
    if (stage === Stage.FLUSHED_BITS) return error < 0 ? this.endFlush(error) : this.nextBits(slot);
    if (error === 0) this.writer.settle(this.start(slot) / MAP_BLOCK, this.transfers.totals[slot]! / MAP_BLOCK);
    this.transfers.finish(slot, error);
  }

  private flush(slot: number): void {
    if (this.flushes.length > 0) this.waiting.push(slot);
    else this.beginFlush([slot]);
  }

  private beginFlush(slots: number[]): void {
    this.flushes = slots;
    this.writer.beginFlush();
    this.wrote = false;
    const leader = slots[0]!;
    this.stages[leader] = Stage.DATA;
    this.transfers.issueOther(leader, Op.FDATASYNC, this.fd, 0, 0, 0);
  }
  private wrote = false;

  private nextBits(slot: number): void {
    if (this.writer.nextRun()) {
      this.wrote = true;
      return this.writeBits(slot, Stage.FLUSHED_BITS);
    }
    if (!this.wrote) return this.endFlush(0);
    this.stages[slot] = Stage.FLUSHED_MAP;
    this.transfers.issueOther(slot, Op.FDATASYNC, this.mapFd, 0, 0, 0);
  }

  private endFlush(result: number): void {
    this.writer.endFlush(result === 0);
    const slots = this.flushes;
    this.flushes = [];
    const next = this.waiting.splice(0);
    if (next.length > 0) this.beginFlush(next);
    for (const slot of slots) this.transfers.finish(slot, result);
  }

  /** Nothing may be in flight. */
  close(): void {
    this.writer.close();
    this.bits.close();
  }
}
