// One vsock stream: a connection between a port of the guest and a stream socket of the host. Bytes go between the socket and
// guest memory by readv and writev; only what the socket won't take at once is kept, and the guest's credit bounds that.
import { E } from "../../../ffi/abi/errno.ts";
import { SYS } from "../../../ffi/abi/syscalls.ts";
import { VIRTIO_VSOCK } from "../../../ffi/abi/virtio_vsock.ts";
import { closeFd, tryWrite } from "../../../ffi/fd.ts";
import { syscall } from "../../../ffi/syscall.ts";
import type { Queue } from "../../virtio/queue.ts";
import { Backlog } from "./backlog.ts";

const { VIRTIO_VSOCK_SHUTDOWN_RCV: RCV, VIRTIO_VSOCK_SHUTDOWN_SEND: SEND } = VIRTIO_VSOCK;
/** Bytes that a guest may send ahead of what the host's socket has taken: the most that one connection keeps. */
export const BUFFER_BYTES = 256 * 1024;
/** The guest hears of new room when this much is free again. */
const UPDATE_BYTES = BUFFER_BYTES / 4;
const SHUT_RD = 0, SHUT_WR = 1;

export type State = "connecting" | "open" | "closed";

/** Packets without payload that wait to be sent; a bit each, so that a guest can't make them pile up. */
export const Op = { REQUEST: 1, RESPONSE: 2, RST: 4, SHUTDOWN: 8, CREDIT_UPDATE: 16, CREDIT_REQUEST: 32 } as const;

export class Connection {
  state: State = "connecting";
  /** Op bits. */
  ops = 0;
  /** In the device's list of connections with something to send. */
  queued = false;
  /** The socket may have bytes, and may take some: until a call says otherwise (edge-triggered). */
  readable = false;
  private writable = true;
  private hungUp = false;
  /** Directions that each side has shut. */
  private shutByGuest = 0;
  /** Of the guest's, those that the socket has been told. */
  private passed = 0;
  shutByHost = 0;

  // Credit (virtio 1.2, 5.10.6.3); all modulo 2^32.
  private peerAlloc = 0;
  private peerForwarded = 0;
  private sent = 0;
  private received = 0;
  forwarded = 0;
  private told = 0;
  private asked = false;

  private readonly backlog = new Backlog();

  /** Owns `fd`. `done` hears once whether the guest has accepted: null, or why not. */
  constructor(readonly guestPort: number, readonly hostPort: number, readonly fd: number, private done: ((error: string | null) => void) | null) {}

  /** Takes the credit that every packet of the guest carries. True if there is some now. */
  credit(alloc: number, forwarded: number): boolean {
    this.peerAlloc = alloc;
    this.peerForwarded = forwarded;
    this.asked &&= this.available === 0;
    return this.available > 0;
  }

  /** Bytes that the guest has room for. */
  get available(): number {
    return Math.max(0, this.peerAlloc - ((this.sent - this.peerForwarded) >>> 0));
  }

  get wantsToSend(): boolean {
    return this.ops !== 0 || (this.state === "open" && this.readable && (this.shutByHost & SEND) === 0);
  }

  settle(error: string | null): void {
    const done = this.done;
    this.done = null;
    done?.(error);
  }

  open(): void {
    this.state = "open";
    this.settle(null);
  }

  /** Reads from the socket into `count` entries from `first`, at most the guest's credit. Bytes; 0 if nothing is to be sent now. */
  read(queue: Queue, first: number, count: number, room: number): number {
    const credit = this.available;
    if (credit === 0) {
      if (this.hungUp) return this.shut(SEND | RCV);
      if (!this.asked) this.ops |= Op.CREDIT_REQUEST;
      this.asked = true;
      this.readable = true;
      return 0;
    }
    const entries = queue.arena.limit(first, count, Math.min(room, credit));
    const n = syscall(SYS.readv, this.fd, queue.arena.at(first), entries);
    if (n > 0) {
      this.sent = (this.sent + n) >>> 0;
      return n;
    }
    if (n === -E.EINTR) return 0;
    this.readable = false;
    if (n === -E.EAGAIN) return 0;
    return this.shut(n === 0 && !this.hungUp ? SEND : SEND | RCV);
  }

  /**
   * Nobody is at the socket's other end any more. What it has left is still read as far as the guest has room; a guest that takes
   * nothing hears of the end all the same, and the rest is dropped. An end of the bytes may have been told before this.
   */
  hangUp(): void {
    this.hungUp = true;
    if (this.shutByHost === SEND) this.shut(RCV);
  }

  private shut(directions: number): 0 {
    this.readable = false;
    this.shutByHost |= directions;
    this.ops |= Op.SHUTDOWN;
    return 0;
  }

  /** Waits for credit: nothing to do before the guest grants some. */
  get starved(): boolean {
    return this.asked && this.ops === 0;
  }

  /** Takes `length` bytes of payload of the guest, at entries from `first`. False if it sends without credit, or the socket is broken. */
  write(queue: Queue, first: number, count: number, length: number): boolean {
    this.received = (this.received + length) >>> 0;
    if (((this.received - this.forwarded) >>> 0) > BUFFER_BYTES || (this.shutByGuest & SEND) !== 0) return false;
    let taken = 0;
    if (this.writable && this.backlog.empty) {
      const n = syscall(SYS.writev, this.fd, queue.arena.at(first), count);
      if (n < 0 && n !== -E.EAGAIN && n !== -E.EINTR) return false;
      taken = Math.max(n, 0);
      this.forward(taken);
      this.writable = n !== -E.EAGAIN;
    }
    if (taken < length) this.keep(queue, first, count, taken, length);
    return taken === length || !this.writable || this.drain();
  }

  private keep(queue: Queue, first: number, count: number, skip: number, length: number): void {
    const gone = queue.arena.skip(first, skip);
    queue.payload.gather(first + gone, count - gone, this.backlog.grow(length - skip));
  }

  /** The socket takes bytes again. False if it is broken. */
  drain(): boolean {
    this.writable = true;
    while (!this.backlog.empty) {
      const { first } = this.backlog, n = tryWrite(this.fd, first, first.length);
      if (n === -E.EAGAIN) {
        this.writable = false;
        return true;
      }
      if (n < 0) return false;
      this.forward(n);
      this.backlog.take(n);
    }
    this.passShutdown();
    return true;
  }

  /** The guest has shut directions. */
  shutdown(flags: number): void {
    this.shutByGuest |= flags & (RCV | SEND);
    if ((this.shutByGuest & RCV) !== 0) {
      this.shutByHost |= SEND;
      this.readable = false;
    }
    this.passShutdown();
  }

  /** Both directions are shut by the guest and all of its bytes are delivered: nothing is left but the RST that ends it. */
  get finished(): boolean {
    return this.shutByGuest === (RCV | SEND) && this.backlog.empty;
  }

  private passShutdown(): void {
    if (!this.backlog.empty) return;
    // Once each: a shutdown is an event on the socket, which would bring us here again.
    const fresh = this.shutByGuest & ~this.passed;
    this.passed = this.shutByGuest;
    if ((fresh & SEND) !== 0) syscall(SYS.shutdown, this.fd, SHUT_WR);
    if ((fresh & RCV) !== 0) syscall(SYS.shutdown, this.fd, SHUT_RD);
  }

  private forward(bytes: number): void {
    this.forwarded = (this.forwarded + bytes) >>> 0;
    if (((this.forwarded - this.told) >>> 0) >= UPDATE_BYTES) this.ops |= Op.CREDIT_UPDATE;
  }

  /** A packet that tells our credit is on its way. */
  tell(): void {
    this.told = this.forwarded;
    this.ops &= ~Op.CREDIT_UPDATE;
  }

  close(error: string): void {
    this.state = "closed";
    closeFd(this.fd);
    this.backlog.clear();
    this.settle(error);
  }
}
