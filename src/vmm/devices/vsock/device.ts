// virtio-vsock, streams only (virtio 1.2, 5.10): packets between the guest's queues and the connections of the host (CID 2).
import { VIRTIO_ID } from "../../../ffi/abi/virtio_ids.ts";
import { VIRTIO_VSOCK, virtio_vsock_config, virtio_vsock_event } from "../../../ffi/abi/virtio_vsock.ts";
import { EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, type Epoll } from "../../../ffi/epoll.ts";
import { closeFd, setNonblocking } from "../../../ffi/fd.ts";
import type { Device, DeviceContext } from "../../virtio/device.ts";
import type { Queue } from "../../virtio/queue.ts";
import { BUFFER_BYTES, Connection, Op } from "./connection.ts";
import { HEADER, PacketHeader } from "./packet.ts";

const { VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_RST, VIRTIO_VSOCK_OP_SHUTDOWN } = VIRTIO_VSOCK;
const { VIRTIO_VSOCK_OP_RW, VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_REQUEST } = VIRTIO_VSOCK;
const { VIRTIO_VSOCK_TYPE_STREAM, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET } = VIRTIO_VSOCK;
const RX = 0, TX = 1, EVENT = 2;
const QUEUE_SIZE = 256, EVENT_QUEUE_SIZE = 16;
const MAX_CONNECTIONS = 1024;
/** Answers to packets of no connection that wait for a buffer; more are dropped. */
const MAX_RESETS = 256;
/** Packets one way in one go. */
const BUDGET = 256;
/** Ports from which host-initiated connections come; below are those that a guest could mean as services. */
const FIRST_PORT = 0x4000_0000, LAST_PORT = 0xffff_fff0;
/** What is sent first when several wait: order of `Op` bits, with their packet's op. */
const OP_PACKETS = [
  [Op.RST, VIRTIO_VSOCK_OP_RST], [Op.REQUEST, VIRTIO_VSOCK_OP_REQUEST], [Op.RESPONSE, VIRTIO_VSOCK_OP_RESPONSE],
  [Op.CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_UPDATE], [Op.CREDIT_REQUEST, VIRTIO_VSOCK_OP_CREDIT_REQUEST], [Op.SHUTDOWN, VIRTIO_VSOCK_OP_SHUTDOWN],
] as const;

/** A connection that the guest wants to port `port` of the host: a stream socket to join it to, or -1 to refuse. */
export type Listener = (port: number) => number;

export class VsockDevice implements Device {
  readonly type = VIRTIO_ID.VIRTIO_ID_VSOCK;
  readonly name = "vsock";
  readonly features = 0n;
  readonly queueSizes = [QUEUE_SIZE, QUEUE_SIZE, EVENT_QUEUE_SIZE];
  readonly config = new DataView(new ArrayBuffer(virtio_vsock_config.size));
  listener: Listener = () => -1;

  private context: DeviceContext | null = null;
  /** By port pair; see key(). */
  private readonly connections = new Map<number, Connection>();
  /** Those with something to send, in turn. */
  private readonly ready: Connection[] = [];
  private readonly resets: { readonly guestPort: number; readonly hostPort: number }[] = [];
  private nextPort = FIRST_PORT;
  private resetEvent = false;
  private readonly header = new PacketHeader();

  constructor(private readonly cid: number, private readonly epoll: Epoll) {
    this.config.setUint32(virtio_vsock_config.at.guest_cid, cid, true);
  }

  get size(): number { return this.connections.size; }

  /**
   * Joins the stream socket `fd` to a new connection to `port` of the guest. `done` hears null once the guest has accepted, or why
   * not; nothing else limits how long that takes. The descriptor belongs to the device from here on, whatever happens.
   * Returns a function that gives up.
   */
  connect(port: number, fd: number, done: (error: string | null) => void): () => void {
    const refusal = this.refusal(fd);
    if (refusal !== null) {
      closeFd(fd);
      done(refusal);
      return () => {};
    }
    const connection = new Connection(port, this.freePort(port), fd, done);
    this.connections.set(key(connection.guestPort, connection.hostPort), connection);
    this.send(connection, Op.REQUEST);
    this.pump();
    return () => {
      if (connection.state === "connecting") this.abort(connection, "given up");
    };
  }

  private refusal(fd: number): string | null {
    if (this.context === null) return "the guest's vsock driver is not running";
    if (this.connections.size >= MAX_CONNECTIONS) return `the guest has ${MAX_CONNECTIONS} connections already`;
    try {
      setNonblocking(fd);
    } catch (error) {
      return `the descriptor is not a stream socket: ${messageOf(error)}`;
    }
    return null;
  }

  /** After a restore: tells the guest that all of its connections are gone. */
  resetTransport(): void {
    this.resetEvent = true;
    this.sendEvent();
  }

  activate(context: DeviceContext): void { this.context = context; }

  onNotify(index: number): void {
    if (index === RX) this.pump();
    else if (index === TX) this.receive();
    else this.sendEvent();
  }

  reset(): boolean {
    this.context = null;
    for (const connection of [...this.connections.values()]) this.destroy(connection, "the guest has reset its vsock driver");
    this.ready.length = this.resets.length = 0;
    return true;
  }

  /** Connections end with the machine that is saved: their host's side can't come along. */
  save(): unknown { return {}; }
  restore(): void {}

  // --- guest to host

  private receive(): void {
    const queue = this.context?.queues[TX];
    if (queue === undefined) return;
    let budget = BUDGET;
    do {
      for (; budget > 0 && queue.pop(); budget--) {
        this.packet(queue);
        queue.push(queue.head, 0);
      }
      queue.flush();
      if (budget === 0) this.context?.again(TX);
    } while (budget > 0 && queue.enableNotify());
    this.pump();
  }

  private packet(queue: Queue): void {
    const h = this.header;
    if (queue.payload.gather(queue.firstRead, queue.readCount, h.bytes) < HEADER) return; // nobody to answer
    if (!h.isFrom(this.cid)) return; // nothing is routed here
    const { guestPort, hostPort, length, op } = h;
    const connection = this.find(guestPort, hostPort);
    if (length > queue.readBytes - HEADER) return connection === undefined ? this.refuse(guestPort, hostPort, op) : this.abort(connection, "the guest sent a bad packet");
    if (h.type !== VIRTIO_VSOCK_TYPE_STREAM) return this.refuse(guestPort, hostPort, op);
    if (op === VIRTIO_VSOCK_OP_REQUEST) return this.accept(guestPort, hostPort, connection);
    if (connection === undefined) return this.refuse(guestPort, hostPort, op);
    if (connection.credit(h.bufAlloc, h.fwdCnt)) this.enqueue(connection);
    this.dispatch(queue, connection, op, length, h.flags);
  }

  private dispatch(queue: Queue, connection: Connection, op: number, length: number, flags: number): void {
    if (op === VIRTIO_VSOCK_OP_RST) return this.destroy(connection, "the guest refused the connection");
    if (connection.state === "connecting") {
      if (op !== VIRTIO_VSOCK_OP_RESPONSE) return this.abort(connection, "the guest answered out of turn");
      this.watch(connection);
      if (this.connections.has(key(connection.guestPort, connection.hostPort))) connection.open();
      return;
    }
    switch (op) {
      case VIRTIO_VSOCK_OP_RW: {
        if (length === 0) return;
        const gone = queue.arena.skip(queue.firstRead, HEADER), first = queue.firstRead + gone;
        const count = queue.arena.limit(first, queue.readCount - gone, length);
        if (!connection.write(queue, first, count, length)) return this.abort(connection, "the connection broke");
        return this.enqueue(connection); // maybe with news of credit
      }
      case VIRTIO_VSOCK_OP_SHUTDOWN:
        connection.shutdown(flags);
        if (connection.finished) this.abort(connection, "the guest has closed the connection");
        return;
      case VIRTIO_VSOCK_OP_CREDIT_UPDATE: return;
      case VIRTIO_VSOCK_OP_CREDIT_REQUEST: return this.send(connection, Op.CREDIT_UPDATE);
      default: return this.abort(connection, "the guest sent an unknown packet");
    }
  }

  private accept(guestPort: number, hostPort: number, existing: Connection | undefined): void {
    if (existing !== undefined) return this.abort(existing, "the guest connected twice");
    const room = this.connections.size < MAX_CONNECTIONS && !this.connections.has(key(guestPort, hostPort));
    const fd = room ? this.listener(hostPort) : -1;
    if (fd < 0) return this.refuse(guestPort, hostPort, VIRTIO_VSOCK_OP_REQUEST);
    const connection = new Connection(guestPort, hostPort, fd, null);
    connection.credit(this.header.bufAlloc, this.header.fwdCnt);
    this.connections.set(key(guestPort, hostPort), connection);
    connection.open();
    setNonblocking(fd);
    this.send(connection, Op.RESPONSE);
    this.watch(connection);
  }

  private find(guestPort: number, hostPort: number): Connection | undefined {
    const connection = this.connections.get(key(guestPort, hostPort));
    return connection?.hostPort === hostPort ? connection : undefined;
  }

  /** A reset for a packet of no connection; never for a reset. */
  private refuse(guestPort: number, hostPort: number, op: number): void {
    if (op !== VIRTIO_VSOCK_OP_RST && this.resets.length < MAX_RESETS) this.resets.push({ guestPort, hostPort });
  }

  // --- the host's sockets

  private watch(connection: Connection): void {
    try {
      this.epoll.add(connection.fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, (events) => this.onSocket(connection, events));
    } catch (error) {
      this.abort(connection, `the descriptor is not a stream socket: ${messageOf(error)}`);
    }
  }

  private onSocket(connection: Connection, events: number): void {
    if ((events & EPOLLHUP) !== 0) connection.hungUp = true;
    if ((events & EPOLLOUT) !== 0 && !connection.drain()) this.abort(connection, "the connection broke");
    else if (connection.finished) this.abort(connection, "the guest has closed the connection");
    else {
      if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) !== 0) connection.readable = true;
      this.enqueue(connection);
    }
    this.pump();
  }

  private send(connection: Connection, op: number): void {
    connection.ops |= op;
    this.enqueue(connection);
  }

  private enqueue(connection: Connection): void {
    if (connection.queued || connection.state === "closed" || !connection.wantsToSend) return;
    connection.queued = true;
    this.ready.push(connection);
  }

  /** Ends a connection from our side: the guest gets a reset. */
  private abort(connection: Connection, error: string): void {
    this.destroy(connection, error);
    this.refuse(connection.guestPort, connection.hostPort, 0);
    this.pump();
  }

  private destroy(connection: Connection, error: string): void {
    if (connection.state === "closed") return;
    this.connections.delete(key(connection.guestPort, connection.hostPort));
    this.epoll.remove(connection.fd);
    connection.close(error);
  }

  // --- host to guest

  /** Sends what waits, a packet a connection in turn, as far as the guest has given buffers. */
  private pump(): void {
    const queue = this.context?.queues[RX];
    if (queue === undefined || this.pumping) return;
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
    if (budget === 0) this.context?.again(RX);
  }
  private pumping = false;

  /** One packet into the chain just popped; 0 if the next in turn had nothing to send after all. */
  private produce(queue: Queue): number {
    const reset = this.resets.shift();
    if (reset !== undefined) return this.packetTo(queue, reset.guestPort, reset.hostPort, VIRTIO_VSOCK_OP_RST, 0, 0, 0);
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
      return this.packetFor(queue, connection, op, 0, op === VIRTIO_VSOCK_OP_SHUTDOWN ? connection.shutByHost : 0);
    }
    return 0;
  }

  private sendData(queue: Queue, connection: Connection): number {
    if (!connection.wantsToSend) return 0;
    const { arena } = queue;
    const gone = arena.skip(queue.firstWrite, HEADER);
    const n = connection.read(queue, queue.firstWrite + gone, queue.writeCount - gone, queue.writeBytes - HEADER);
    arena.unskip();
    return n === 0 ? 0 : this.packetFor(queue, connection, VIRTIO_VSOCK_OP_RW, n, 0);
  }

  private packetFor(queue: Queue, connection: Connection, op: number, length: number, flags: number): number {
    connection.tell();
    return this.packetTo(queue, connection.guestPort, connection.hostPort, op, length, flags, connection.forwarded);
  }

  private packetTo(queue: Queue, guestPort: number, hostPort: number, op: number, length: number, flags: number, forwarded: number): number {
    this.header.set(this.cid, guestPort, hostPort, op, length, flags, BUFFER_BYTES, forwarded);
    queue.payload.scatter(queue.firstWrite, queue.writeCount, this.header.bytes);
    return HEADER + length;
  }

  private sendEvent(): void {
    const queue = this.context?.queues[EVENT];
    if (queue === undefined || !this.resetEvent) return;
    const event = new DataView(new ArrayBuffer(virtio_vsock_event.size));
    event.setUint32(virtio_vsock_event.at.id, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, true);
    do {
      if (!queue.pop()) continue;
      queue.push(queue.head, queue.payload.scatter(queue.firstWrite, queue.writeCount, new Uint8Array(event.buffer)));
      this.resetEvent = false;
      break;
    } while (queue.enableNotify());
    queue.flush();
  }

  private freePort(guestPort: number): number {
    while (this.connections.has(key(guestPort, this.nextPort))) this.advancePort();
    const port = this.nextPort;
    this.advancePort();
    return port;
  }

  private advancePort(): void {
    this.nextPort = this.nextPort >= LAST_PORT ? FIRST_PORT : this.nextPort + 1;
  }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Both ports in the 53 bits of a number: the host's folded into 21, so a hit must be compared. */
const key = (guestPort: number, hostPort: number): number => guestPort * 0x20_0000 + (hostPort % 0x20_0000);
