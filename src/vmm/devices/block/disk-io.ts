// How block devices do I/O without ever waiting for it: the interface between a device and its way of I/O.

/** Requests of one device at most in flight, the guest's and one of the monitor's own; tags are below it. */
export const MAX_TAGS = 256 + 1;
/** Devices at most on one DiskIo: vda to vdz. */
export const MAX_CLIENTS = 26;

export interface DiskClient {
  /** Request `tag` is over: bytes moved, 0 for operations that move none, or -errno. Must not flush. */
  complete(tag: number, result: number): void;
  /** After a batch of completions, in the main loop: publish, and go on. */
  settled(): void;
  /** The same, but in a later round of the main loop: another client has just reaped the batch. */
  settleLater(): void;
}

export interface DiskIo {
  readonly kind: "io_uring" | "worker";
  /** A number for submit(). */
  attach(client: DiskClient): number;
  /**
   * READV, WRITEV: `count` iovecs at `address`, which stay untouched until completion; file offset `offset`.
   * FDATASYNC: no more. PUNCH_HOLE, ZERO_RANGE: [offset, offset + address). Completions come in any order.
   * May be called from complete().
   */
  submit(client: number, op: number, fd: number, address: number, count: number, offset: number, tag: number): void;
  /** Starts what was submitted; may already complete requests. Called by `client`, whose settled() it doesn't call. */
  flush(client: number): void;
  close(): void;
}
