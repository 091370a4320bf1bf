// virtio-vsock, streams only (virtio 1.2, 5.10): packets between the guest's queues and the connections of the host (CID 2).
import { VIRTIO_ID } from "../../../ffi/abi/virtio_ids.ts";
import { VIRTIO_VSOCK, virtio_vsock_config, virtio_vsock_event } from "../../../ffi/abi/virtio_vsock.ts";
import { EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, type Epoll } from "../../../ffi/epoll.ts";
import { closeFd, setNonblocking } from "../../../ffi/fd.ts";
import type { Device, DeviceContext } from "../../virtio/device.ts";
import type { Queue } from "../../virtio/queue.ts";
import { Connection, Op } from "./connection.ts";
import { Connections } from "./connections.ts";
import { Outbox } from "./outbox.ts";
import { HEADER, PacketHeader } from "./packet.ts";

const { VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_RST, VIRTIO_VSOCK_OP_SHUTDOWN } = VIRTIO_VSOCK;
const { VIRTIO_VSOCK_OP_RW, VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_REQUEST } = VIRTIO_VSOCK;
const { VIRTIO_VSOCK_TYPE_STREAM, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET } = VIRTIO_VSOCK;
const RX = 0, TX = 1, EVENT = 2;
const QUEUE_SIZE = 256, EVENT_QUEUE_SIZE = 16;
/** Packets of the guest in one go. */
const BUDGET = 256;

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
  private readonly connections = new Connections();
  private readonly outbox: Outbox;
  private resetEvent = false;
  private readonly header = new PacketHeader();

  constructor(private readonly cid: number, private readonly epoll: Epoll) {
    this.config.setUint32(virtio_vsock_config.at.guest_cid, cid, true);
    this.outbox = new Outbox(cid);
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
    const connection = new Connection(port, this.connections.freePort(port), fd, done);
    this.connections.add(connection);
    this.outbox.send(connection, Op.REQUEST);
    this.pump();
    return () => {
      if (connection.state === "connecting") this.abort(connection, "given up");
    };
  }

  private refusal(fd: number): string | null {
    if (this.context === null) return "the guest's vsock driver is not running";
    if (this.connections.full) return `the guest has ${this.connections.size} connections already`;
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
    for (const connection of this.connections.all) this.destroy(connection, "the guest has reset its vsock driver");
    this.outbox.clear();
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
    const connection = this.connections.find(guestPort, hostPort);
    if (length > queue.readBytes - HEADER) return connection === undefined ? this.refuse(guestPort, hostPort, op) : this.abort(connection, "the guest sent a bad packet");
    if (h.type !== VIRTIO_VSOCK_TYPE_STREAM) return this.refuse(guestPort, hostPort, op);
    if (op === VIRTIO_VSOCK_OP_REQUEST) return this.accept(guestPort, hostPort, connection);
    if (connection === undefined) return this.refuse(guestPort, hostPort, op);
    if (connection.credit(h.bufAlloc, h.fwdCnt)) this.outbox.enqueue(connection);
    this.dispatch(queue, connection, op, length, h.flags);
  }

  private dispatch(queue: Queue, connection: Connection, op: number, length: number, flags: number): void {
    if (op === VIRTIO_VSOCK_OP_RST) return this.destroy(connection, "the guest refused the connection");
    if (connection.state === "connecting") {
      if (op !== VIRTIO_VSOCK_OP_RESPONSE) return this.abort(connection, "the guest answered out of turn");
      this.watch(connection);
      if (connection.state === "connecting") connection.open();
      return;
    }
    switch (op) {
      case VIRTIO_VSOCK_OP_RW: {
        if (length === 0) return;
        const gone = queue.arena.skip(queue.firstRead, HEADER), first = queue.firstRead + gone;
        const count = queue.arena.limit(first, queue.readCount - gone, length);
        if (!connection.write(queue, first, count, length)) return this.abort(connection, "the connection broke");
        return this.outbox.enqueue(connection); // maybe with news of credit
      }
      case VIRTIO_VSOCK_OP_SHUTDOWN:
        connection.shutdown(flags);
        if (connection.finished) this.abort(connection, "the guest has closed the connection");
        return;
      case VIRTIO_VSOCK_OP_CREDIT_UPDATE: return;
      case VIRTIO_VSOCK_OP_CREDIT_REQUEST: return this.outbox.send(connection, Op.CREDIT_UPDATE);
      default: return this.abort(connection, "the guest sent an unknown packet");
    }
  }

  private accept(guestPort: number, hostPort: number, existing: Connection | undefined): void {
    if (existing !== undefined) return this.abort(existing, "the guest connected twice");
    const fd = this.connections.hasRoom(guestPort, hostPort) ? this.listener(hostPort) : -1;
    if (fd < 0) return this.refuse(guestPort, hostPort, VIRTIO_VSOCK_OP_REQUEST);
    const connection = new Connection(guestPort, hostPort, fd, null);
    connection.credit(this.header.bufAlloc, this.header.fwdCnt);
    this.connections.add(connection);
    connection.open();
    setNonblocking(fd);
    this.outbox.send(connection, Op.RESPONSE);
    this.watch(connection);
  }

  /** A reset for a packet of no connection; never for a reset. */
  private refuse(guestPort: number, hostPort: number, op: number): void {
    if (op !== VIRTIO_VSOCK_OP_RST) this.outbox.reset(guestPort, hostPort);
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
    if ((events & EPOLLHUP) !== 0) connection.hangUp();
    if ((events & EPOLLOUT) !== 0 && !connection.drain()) this.abort(connection, "the connection broke");
    else if (connection.finished) this.abort(connection, "the guest has closed the connection");
    else {
      if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) !== 0) connection.readable = true;
      this.outbox.enqueue(connection);
    }
    this.pump();
  }

  /** Ends a connection from our side: the guest gets a reset. */
  private abort(connection: Connection, error: string): void {
    this.destroy(connection, error);
    this.outbox.reset(connection.guestPort, connection.hostPort);
    this.pump();
  }

  private destroy(connection: Connection, error: string): void {
    if (connection.state === "closed") return;
    this.connections.delete(connection);
    this.epoll.remove(connection.fd);
    connection.close(error);
  }

  // --- host to guest

  private pump(): void {
    const queue = this.context?.queues[RX];
    if (queue !== undefined && this.outbox.pump(queue)) this.context?.again(RX);
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
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
