// Writes memory to files and syncs them without the main loop ever waiting: a few pieces at a time go to a DiskIo. It is the
// Worker's and not io_uring: what is written may first have to be read in (pages of an older generation, swap), and io_uring
// would do that on the main thread. A Worker that ends leaves its stack mapped in a process whose main thread never enters Bun's event
// loop: a monitor has one for all of its saves.
import { errnoName } from "../../ffi/abi/errno.ts";
import type { Epoll } from "../../ffi/epoll.ts";
import type { DiskClient, DiskIo } from "../devices/block/disk-io.ts";
import { Op } from "../devices/block/shared.ts";
import { WorkerIo } from "../devices/block/worker-io.ts";
import { Iovecs } from "../virtio/iovecs.ts";

/** [hva, hva + length) goes to `offset` of the file. */
export interface Piece { readonly hva: number; readonly length: number; readonly offset: number }

/** Pieces in flight, and how long one may be: what a save that is called off still has to wait for. */
const IN_FLIGHT = 4;
const MAX_PIECE = 4 * 2 ** 20;

type Done = (error: string | null) => void;
interface Job { readonly next: () => Request | null; readonly done: Done }
interface Request { readonly op: number; readonly fd: number; readonly piece: Piece; readonly what: string }

export class FileWriter implements DiskClient {
  private readonly io: DiskIo;
  private readonly client: number;
  private readonly iovecs = new Iovecs(IN_FLIGHT);
  private readonly running: (Request | null)[] = Array.from({ length: IN_FLIGHT }, () => null);
  private job: Job | null = null;
  private error: string | null = null;
  /** Its Worker is no more. */
  private broken: string | null = null;

  /** Lives as long as the process. */
  constructor(epoll: Epoll) {
    this.io = new WorkerIo(epoll, (message) => { this.error = this.broken = message; });
    this.client = this.io.attach(this);
  }

  /** Before the first job of a save: what stopped the one before is over. */
  begin(): void { this.error = this.broken; }

  /** One job at a time. `what` names the file in an error. */
  write(fd: number, pieces: Iterable<Piece>, what: string, done: Done): void {
    const cut = cutUp(pieces);
    this.start(() => {
      const { value, done: over } = cut.next();
      return over === true ? null : { op: Op.WRITEV, fd, piece: value, what: `write ${what}` };
    }, done);
  }

  sync(fds: readonly number[], what: string, done: Done): void {
    const left = [...fds];
    this.start(() => {
      const fd = left.shift();
      return fd === undefined ? null : { op: Op.FDATASYNC, fd, piece: { hva: 0, length: 0, offset: 0 }, what: `sync ${what}` };
    }, done);
  }

  /** The job under way begins nothing more and ends with this error, unless it had one. */
  stop(error: string): void { this.error ??= error; }

  private start(next: () => Request | null, done: Done): void {
    this.job = { next, done };
    this.settled();
  }

  complete(tag: number, result: number): void {
    const request = this.running[tag]!;
    this.running[tag] = null;
    const { piece, op } = request;
    if (result < 0) this.error ??= `cannot ${request.what}: ${errnoName(-result)}`;
    else if (op === Op.WRITEV && result === 0) this.error ??= `cannot ${request.what}: nothing more is taken`;
    else if (op === Op.WRITEV && result < piece.length && this.error === null)
      this.submit(tag, { ...request, piece: { hva: piece.hva + result, length: piece.length - result, offset: piece.offset + result } });
  }

  settleLater(): void { this.settled(); }

  settled(): void {
    const { job } = this;
    if (job === null) return;
    for (let tag = 0; tag < IN_FLIGHT && this.error === null; tag++) {
      const request = this.running[tag] === null ? job.next() : null;
      if (request !== null) this.submit(tag, request);
    }
    this.io.flush(this.client);
    if (this.running.some((request) => request !== null)) return;
    this.job = null;
    job.done(this.error);
  }

  private submit(tag: number, request: Request): void {
    this.running[tag] = request;
    this.iovecs.set(tag, request.piece.hva, request.piece.length);
    const count = request.op === Op.WRITEV ? 1 : 0;
    this.io.submit(this.client, request.op, request.fd, this.iovecs.at(tag), count, request.piece.offset, tag);
  }
}

function* cutUp(pieces: Iterable<Piece>): Generator<Piece, undefined> {
  for (const { hva, length, offset } of pieces)
    for (let at = 0; at < length; at += MAX_PIECE) yield { hva: hva + at, length: Math.min(MAX_PIECE, length - at), offset: offset + at };
  return undefined;
}
