// virtio-balloon (virtio 1.2, 5.5): memory given back on demand, statistics, and free pages reported by the guest by itself.
import { VIRTIO_BALLOON, virtio_balloon_config, virtio_balloon_stat } from "../../ffi/abi/virtio_balloon.ts";
import { VIRTIO_ID } from "../../ffi/abi/virtio_ids.ts";
import { PAGE_SIZE } from "../../ffi/memory.ts";
import { bits, hasBit, type Device, type DeviceContext } from "../virtio/device.ts";
import type { Queue } from "../virtio/queue.ts";

const { VIRTIO_BALLOON_F_STATS_VQ, VIRTIO_BALLOON_F_DEFLATE_ON_OOM, VIRTIO_BALLOON_F_REPORTING, VIRTIO_BALLOON_PFN_SHIFT } = VIRTIO_BALLOON;
// Linux numbers only the queues that there are: reporting is 3 as long as free page hinting is not offered.
const INFLATE = 0, DEFLATE = 1, STATS = 2, REPORTING = 3;
const QUEUE_SIZE = 128, STATS_QUEUE_SIZE = 2;
/** Chains in one go: each may free many pages. */
const BUDGET = 16;
/** Page numbers of one chain; Linux sends 256. */
const MAX_PFNS = 4096;

/** What the guest says of its memory, in bytes and counts; null where it didn't say. */
export interface BalloonStats {
  readonly freeBytes: number | null;
  readonly totalBytes: number | null;
  readonly availableBytes: number | null;
  readonly cacheBytes: number | null;
  readonly swappedInBytes: number | null;
  readonly swappedOutBytes: number | null;
  readonly majorFaults: number | null;
  readonly minorFaults: number | null;
}

/** Frees host memory behind [hva, hva + length), page-aligned: the guest then reads zeroes there, or anything older. */
export type Discard = (hva: number, length: number) => void;

export class BalloonDevice implements Device {
  readonly type = VIRTIO_ID.VIRTIO_ID_BALLOON;
  readonly name = "balloon";
  readonly features = bits(VIRTIO_BALLOON_F_STATS_VQ, VIRTIO_BALLOON_F_DEFLATE_ON_OOM, VIRTIO_BALLOON_F_REPORTING);
  readonly queueSizes = [QUEUE_SIZE, QUEUE_SIZE, STATS_QUEUE_SIZE, QUEUE_SIZE];
  readonly config = new DataView(new ArrayBuffer(virtio_balloon_config.at.free_page_hint_cmd_id));
  /** Bytes that the guest has freed by inflating and by reporting, in all. */
  discardedBytes = 0;

  private context: DeviceContext | null = null;
  /** The statistics buffer that the guest has lent us, until we ask for new ones. */
  private statsHead = -1;
  private wanted: ((stats: BalloonStats) => void) | null = null;
  private readonly pfns = new Uint8Array(MAX_PFNS * 4);

  constructor(private readonly discard: Discard) {}

  /** Asks the guest to give up so many bytes in all; 0 gives everything back to it. */
  setTarget(bytes: number): void {
    this.config.setUint32(virtio_balloon_config.at.num_pages, Math.floor(bytes / PAGE_SIZE), true);
    this.context?.configChanged();
  }

  /** Bytes that the guest says it has given up. */
  get actual(): number {
    return this.config.getUint32(virtio_balloon_config.at.actual, true) * PAGE_SIZE;
  }

  /** Has the guest report; `done` comes if and when it does. False if it can't, or is asked already. */
  requestStats(done: (stats: BalloonStats) => void): boolean {
    const queue = this.context?.queues[STATS];
    if (queue === undefined || this.statsHead < 0 || this.wanted !== null) return false;
    this.wanted = done;
    queue.push(this.statsHead, 0);
    this.statsHead = -1;
    queue.flush();
    return true;
  }

  writeConfig(offset: number, size: number, value: number): void {
    if (offset === virtio_balloon_config.at.actual && size === 4) this.config.setUint32(offset, value, true);
  }

  activate(context: DeviceContext): void { this.context = context; }

  onNotify(index: number): void {
    const queue = this.context?.queues[index];
    if (queue === undefined) return;
    let budget = BUDGET;
    do {
      for (; budget > 0 && queue.pop(); budget--) this.take(index, queue);
      queue.flush();
      if (budget === 0) return this.context?.again(index);
    } while (queue.enableNotify());
  }

  private take(index: number, queue: Queue): void {
    if (index === STATS) return this.takeStats(queue);
    if (index === INFLATE) this.inflate(queue);
    else if (index === REPORTING) this.report(queue);
    // What is deflated comes back by being touched.
    queue.push(queue.head, 0);
  }

  /** Page numbers, in runs: neighbours are freed together. */
  private inflate(queue: Queue): void {
    const { memory } = this.context!;
    const bytes = queue.payload.gather(queue.firstRead, queue.readCount, this.pfns);
    const view = new DataView(this.pfns.buffer, 0, bytes - (bytes % 4));
    for (let at = 0; at < view.byteLength; ) {
      const first = view.getUint32(at, true);
      let pages = 1;
      for (at += 4; at < view.byteLength && view.getUint32(at, true) === first + pages; at += 4) pages++;
      const hva = memory.hva(first * 2 ** VIRTIO_BALLOON_PFN_SHIFT, pages * PAGE_SIZE);
      if (hva >= 0) this.free(hva, pages * PAGE_SIZE);
    }
  }

  /** The buffers themselves are the free pages (virtio 1.2, 5.5.6.7). */
  private report(queue: Queue): void {
    for (let entry = queue.firstWrite; entry < queue.firstWrite + queue.writeCount; entry++) {
      const start = Math.ceil(queue.arena.hva(entry) / PAGE_SIZE) * PAGE_SIZE;
      const end = Math.floor((queue.arena.hva(entry) + queue.arena.length(entry)) / PAGE_SIZE) * PAGE_SIZE;
      if (end > start) this.free(start, end - start);
    }
  }

  private free(hva: number, length: number): void {
    this.discard(hva, length);
    this.discardedBytes += length;
  }

  private takeStats(queue: Queue): void {
    // The first buffer only lends itself; a second one that comes without being asked for replaces it.
    if (this.statsHead >= 0) queue.push(this.statsHead, 0);
    this.statsHead = queue.head;
    const done = this.wanted;
    this.wanted = null;
    if (done === null) return;
    const bytes = new Uint8Array(virtio_balloon_stat.size * 32);
    done(parseStats(bytes.subarray(0, queue.payload.gather(queue.firstRead, queue.readCount, bytes))));
  }

  reset(): boolean {
    this.context = null;
    this.statsHead = -1;
    this.wanted = null;
    this.config.setUint32(virtio_balloon_config.at.actual, 0, true);
    return true;
  }

  save(): unknown {
    const at = virtio_balloon_config.at;
    return { statsHead: this.statsHead, target: this.config.getUint32(at.num_pages, true), actual: this.config.getUint32(at.actual, true) };
  }

  restore(state: unknown): void {
    const { statsHead, target, actual } = state as { statsHead: number; target: number; actual: number };
    this.statsHead = statsHead;
    this.config.setUint32(virtio_balloon_config.at.num_pages, target, true);
    this.config.setUint32(virtio_balloon_config.at.actual, actual, true);
  }

  /** The guest reports free pages by itself. */
  get reports(): boolean {
    return this.context !== null && hasBit(this.context.features, VIRTIO_BALLOON_F_REPORTING);
  }
}

function parseStats(bytes: Uint8Array): BalloonStats {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const values = new Map<number, number>();
  for (let at = 0; at + virtio_balloon_stat.size <= bytes.length; at += virtio_balloon_stat.size)
    values.set(view.getUint16(at + virtio_balloon_stat.at.tag, true), Number(view.getBigUint64(at + virtio_balloon_stat.at.val, true)));
  const of = (tag: number) => values.get(tag) ?? null;
  const B = VIRTIO_BALLOON;
  return {
    freeBytes: of(B.VIRTIO_BALLOON_S_MEMFREE), totalBytes: of(B.VIRTIO_BALLOON_S_MEMTOT), availableBytes: of(B.VIRTIO_BALLOON_S_AVAIL), cacheBytes: of(B.VIRTIO_BALLOON_S_CACHES),
    swappedInBytes: of(B.VIRTIO_BALLOON_S_SWAP_IN), swappedOutBytes: of(B.VIRTIO_BALLOON_S_SWAP_OUT), majorFaults: of(B.VIRTIO_BALLOON_S_MAJFLT), minorFaults: of(B.VIRTIO_BALLOON_S_MINFLT),
  };
}
