// Disk I/O on io_uring. What the page cache holds is read within submit(), and reaped at once.
import { IORING } from "../../../ffi/abi/io_uring.ts";
import { EPOLLIN, type Epoll } from "../../../ffi/epoll.ts";
import { IoUring, type Completions } from "../../../ffi/iouring.ts";
import { MAX_CLIENTS, MAX_TAGS, type DiskClient, type DiskIo } from "./disk-io.ts";
import { Op } from "./shared.ts";

const SUBMISSIONS = 256;
/** No less than MAX_CLIENTS * MAX_TAGS: there is always room for a completion. */
const COMPLETIONS = 8192;
const FALLOC_FL_KEEP_SIZE = 1, FALLOC_FL_PUNCH_HOLE = 2, FALLOC_FL_ZERO_RANGE = 0x10; // linux/falloc.h

export class UringIo implements DiskIo, Completions {
  readonly kind = "io_uring";
  private readonly clients: DiskClient[] = [];
  private readonly touched = new Uint8Array(MAX_CLIENTS);

  private constructor(private readonly ring: IoUring, private readonly epoll: Epoll) {
    epoll.add(ring.fd, EPOLLIN, () => this.reap(-1));
  }

  static create(epoll: Epoll): UringIo | null {
    const ring = IoUring.create(SUBMISSIONS, COMPLETIONS);
    return ring === null ? null : new UringIo(ring, epoll);
  }

  attach(client: DiskClient): number {
    if (this.clients.length === MAX_CLIENTS) throw new Error(`Cannot attach more than ${MAX_CLIENTS} disks`);
    return this.clients.push(client) - 1;
  }

  submit(client: number, op: number, fd: number, address: number, count: number, offset: number, tag: number): void {
    const data = client * MAX_TAGS + tag;
    switch (op) {
      case Op.READV: return this.prepare(IORING.IORING_OP_READV, fd, address, count, offset, 0, data);
      case Op.WRITEV: return this.prepare(IORING.IORING_OP_WRITEV, fd, address, count, offset, 0, data);
      case Op.FDATASYNC: return this.prepare(IORING.IORING_OP_FSYNC, fd, 0, 0, 0, IORING.IORING_FSYNC_DATASYNC, data);
      default: {
        // IORING_OP_FALLOCATE has the length in `addr` and the mode in `len`.
        const mode = FALLOC_FL_KEEP_SIZE | (op === Op.PUNCH_HOLE ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
        return this.prepare(IORING.IORING_OP_FALLOCATE, fd, address, mode, offset, 0, data);
      }
    }
  }

  private prepare(opcode: number, fd: number, address: number, length: number, offset: number, flags: number, data: number): void {
    if (this.ring.prepare(opcode, fd, address, length, offset, flags, data)) return;
    this.ring.submit(); // the submission ring was full
    this.ring.prepare(opcode, fd, address, length, offset, flags, data);
  }

  flush(client: number): void {
    this.ring.submit();
    this.reap(client);
  }

  complete(userData: number, result: number): void {
    const client = Math.floor(userData / MAX_TAGS);
    this.touched[client] = 1;
    this.clients[client]!.complete(userData % MAX_TAGS, result);
  }

  private reap(caller: number): void {
    if (this.ring.reap(this) === 0) return;
    this.ring.submit(); // what complete() submitted anew
    for (let i = 0; i < this.clients.length; i++) {
      if (this.touched[i] === 0) continue;
      this.touched[i] = 0;
      if (caller < 0) this.clients[i]!.settled();
      else if (i !== caller) this.clients[i]!.settleLater();
    }
  }

  close(): void {
    this.epoll.remove(this.ring.fd);
    this.ring.close();
  }
}
