// Packets from the host to the guest (virtio 1.2, 5.10.6): connections that have something to send take turns, a packet each, as far as
// the guest has given buffers. What can't be sent yet waits in the connections; nothing piles up here but resets, to a limit.
import { VIRTIO_VSOCK } from "../../../ffi/abi/virtio_vsock.ts";
import type { Queue } from "../../virtio/queue.ts";
import { BUFFER_BYTES, Op, type Connection } from "./connection.ts";
import { HEADER, PacketHeader } from "./packet.ts";

const { VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_RST, VIRTIO_VSOCK_OP_SHUTDOWN } = VIRTIO_VSOCK;
const { VIRTIO_VSOCK_OP_RW, VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_REQUEST } = VIRTIO_VSOCK;
/** Answers to packets of no connection that wait for a buffer; more are dropped. */
const MAX_RESETS = 256;
/** Packets in one go. */
const BUDGET = 256;
/** What is sent first when several wait: order of `Op` bits, with their packet's op. */
const OP_PACKETS = [
  [Op.RST, VIRTIO_VSOCK_OP_RST], [Op.REQUEST, VIRTIO_VSOCK_OP_REQUEST], [Op.RESPONSE, VIRTIO_VSOCK_OP_RESPONSE],
  [Op.CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_UPDATE], [Op.CREDIT_REQUEST, VIRTIO_VSOCK_OP_CREDIT_REQUEST], [Op.SHUTDOWN, VIRTIO_VSOCK_OP_SHUTDOWN],
] as const;

export class Outbox {
  /** Those with something to send, in turn. */
  private readonly ready: Connection[] = [];
  private readonly resets: { readonly guestPort: number; readonly hostPort: number }[] = [];
  private readonly header = new PacketHeader();
  private pumping = false;

  /** `cid`: the guest's. */
  constructor(private readonly cid: number) {}

  /** `op`: a bit of `Op`. */
  send(connection: Connection, op: number): void {
    connection.ops |= op;
    this.enqueue(connection);
  }

  /** It may have something to send. */
  enqueue(connection: Connection): void {
    if (connection.queued || connection.state === "closed" || !connection.wantsToSend) return;
    connection.queued = true;
    this.ready.push(connection);
  }

  reset(guestPort: number, hostPort: number): void {
    if (this.resets.length < MAX_RESETS) this.resets.push({ guestPort, hostPort });
  }

  clear(): void { this.ready.length = this.resets.length = 0; }

  /** Sends what waits. True where there is more than fits into one go. */
  pump(queue: Queue): boolean {
    if (this.pumping) return false;
    this.pumping = true;
    let budget = BUDGET;
    while (budget > 0 && (this.resets.length > 0 || this.ready.length > 0)) {
      if (!queue.pop()) {
        if (queue.enableNotify()) continue;
        break;
      }
      // A buffer without room for payload would hold back everything behind it: it goes back empty.
      const useless = queue.writeBytes <= HEADER;
      const written = useless ? 0 : this.produce(queue);
      if (written > 0 || useless) queue.push(queue.head, written);
      else queue.unpop();
      budget--;
    }
    this.pumping = false;
    queue.flush();
    return budget === 0;
  }

  /** One packet into the chain just popped; 0 if the next in turn had nothing to send after all. */
  private produce(queue: Queue): number {
    const reset = this.resets.shift();
    if (reset !== undefined) return this.packet(queue, reset.guestPort, reset.hostPort, VIRTIO_VSOCK_OP_RST, 0, 0, 0);
    const connection = this.ready.shift()!;
    connection.queued = false;
    if (connection.state === "closed") return 0;
    const written = connection.ops !== 0 ? this.sendOp(queue, connection) : this.sendData(queue, connection);
    if (!connection.starved) this.enqueue(connection);
    return written;
  }

  private sendOp(queue: Queue, connection: Connection): number {
    for (const [bit, op] of OP_PACKETS) {
      if ((connection.ops & bit) === 0) continue;
      connection.ops &= ~bit;
      return this.packetOf(queue, connection, op, 0, op === VIRTIO_VSOCK_OP_SHUTDOWN ? connection.shutByHost : 0);
    }
    return 0;
  }

  private sendData(queue: Queue, connection: Connection): number {
    if (!connection.wantsToSend) return 0;
    const { arena } = queue;
    const gone = arena.skip(queue.firstWrite, HEADER);
    const n = connection.read(queue, queue.firstWrite + gone, queue.writeCount - gone, queue.writeBytes - HEADER);
    arena.unskip();
    return n === 0 ? 0 : this.packetOf(queue, connection, VIRTIO_VSOCK_OP_RW, n, 0);
  }

  private packetOf(queue: Queue, connection: Connection, op: number, length: number, flags: number): number {
    connection.tell();
    return this.packet(queue, connection.guestPort, connection.hostPort, op, length, flags, connection.forwarded);
  }

  private packet(queue: Queue, guestPort: number, hostPort: number, op: number, length: number, flags: number, forwarded: number): number {
    this.header.set(this.cid, guestPort, hostPort, op, length, flags, BUFFER_BYTES, forwarded);
    queue.payload.scatter(queue.firstWrite, queue.writeCount, this.header.bytes);
    return HEADER + length;
  }
}
