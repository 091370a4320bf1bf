// Receive buffers taken ahead: one readv must have room for the longest frame before anybody knows how long the next one is.
// With mergeable buffers that is many small ones, of which a frame then uses as many as it needs (virtio 1.2, 5.1.6.4).
import { virtio_net_hdr_mrg_rxbuf } from "../../../ffi/abi/virtio_net.ts";
import { IOV_MAX } from "../../virtio/iovecs.ts";
import type { Queue } from "../../virtio/queue.ts";

const HEADER = virtio_net_hdr_mrg_rxbuf.size;
const NUM_BUFFERS = virtio_net_hdr_mrg_rxbuf.at.num_buffers;
const MAX_CHAINS = 1024;

export class RxWindow {
  /** Entries [first, end) of the queue's arena. */
  private first = 0;
  private end = 0;
  private bytes = 0;
  // Chains taken, in order: a ring.
  private readonly heads = new Uint16Array(MAX_CHAINS);
  private readonly counts = new Uint16Array(MAX_CHAINS);
  private readonly lengths = new Float64Array(MAX_CHAINS);
  private head = 0;
  private chains = 0;
  private readonly number = new Uint8Array(2);

  /** `need`: room for the longest frame with its header; 0 without mergeable buffers: then one chain must do for one frame. */
  constructor(private readonly queue: Queue, private readonly need: number) {}

  /** Takes chains until a frame has room. False if the driver has not given enough, or broke the rules. */
  fill(): boolean {
    const { queue } = this;
    while (this.chains === 0 || this.bytes < this.need) {
      if (this.end > IOV_MAX / 2) this.compact();
      // A ring that is smaller than a frame can't give more than all that it has.
      if (this.chains === queue.size || this.end === IOV_MAX) return true;
      if (!queue.pop(this.end, IOV_MAX - this.end)) return false;
      if (queue.writeCount === 0) return queue.fail("a receive buffer has no room"); // given back, as many could come as one takes
      // A readable part is not ours to fill.
      if (queue.readCount > 0) queue.arena.move(this.end, queue.firstWrite, queue.writeCount);
      const slot = (this.head + this.chains) % MAX_CHAINS;
      this.heads[slot] = queue.head;
      this.counts[slot] = queue.writeCount;
      this.lengths[slot] = queue.writeBytes;
      this.chains++;
      this.end += queue.writeCount;
      this.bytes += queue.writeBytes;
    }
    return true;
  }

  get iov(): number { return this.queue.arena.at(this.first); }

  /** How many entries one readv gets. */
  get entries(): number {
    return this.need === 0 ? this.counts[this.head]! : this.end - this.first;
  }

  /** Returns the chains that a frame of `bytes` (header included) has filled. */
  consume(bytes: number): void {
    const { queue } = this;
    const first = this.first, firstCount = this.counts[this.head]!;
    let left = bytes, used = 0;
    while (left > 0 && this.chains > 0) {
      const length = Math.min(left, this.lengths[this.head]!);
      queue.push(this.heads[this.head]!, length);
      left -= length;
      used++;
      this.drop();
    }
    // Before flush(): the driver has not seen the chains yet.
    const view = queue.payload.viewOf(first, HEADER);
    if (view !== null) return view.setUint16(queue.payload.viewAt + NUM_BUFFERS, used, true);
    this.number[0] = used & 0xff;
    this.number[1] = used >> 8;
    queue.payload.scatter(first, firstCount, this.number, NUM_BUFFERS);
  }

  /** Gives all that is taken back to the queue, to come again. */
  giveBack(): void {
    this.queue.unpop(this.chains);
    this.first = this.end = this.bytes = this.chains = 0;
  }

  private drop(): void {
    this.first += this.counts[this.head]!;
    this.bytes -= this.lengths[this.head]!;
    this.head = (this.head + 1) % MAX_CHAINS;
    this.chains--;
    if (this.chains === 0) this.first = this.end = 0;
  }

  private compact(): void {
    if (this.first === 0) return;
    this.queue.arena.move(0, this.first, this.end - this.first);
    this.end -= this.first;
    this.first = 0;
  }
}
