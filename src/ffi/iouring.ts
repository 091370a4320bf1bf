// io_uring(7): one submission and one completion ring, mapped. Indices that the kernel shares go through Atomics.
import { io_cqring_offsets, io_sqring_offsets, io_uring_cqe, io_uring_params, io_uring_sqe, IORING } from "./abi/io_uring.ts";
import { E } from "./abi/errno.ts";
import { SYS } from "./abi/syscalls.ts";
import { closeFd } from "./fd.ts";
import { MAP_POPULATE, MAP_SHARED, Mapping, PROT_READ, PROT_WRITE } from "./memory.ts";
import { syscall, SysError } from "./syscall.ts";

const NEEDED = IORING.IORING_FEAT_SINGLE_MMAP | IORING.IORING_FEAT_NODROP | IORING.IORING_FEAT_SUBMIT_STABLE; // Linux 5.5
const SQE_WORDS = io_uring_sqe.size / 4, CQE_WORDS = io_uring_cqe.size / 4;
const HIGH = 2 ** 32;
/** io_uring_enter may be short of memory for a moment; beyond this many tries in a row the host has failed. */
const SUBMIT_TRIES = 1000;

const word = (offset: number): number => offset / 4;
/** Words of a submission entry. */
const W = {
  fd: word(io_uring_sqe.at.fd), off: word(io_uring_sqe.at.off), addr: word(io_uring_sqe.at.addr), len: word(io_uring_sqe.at.len),
  flags: word(io_uring_sqe.at.rw_flags), data: word(io_uring_sqe.at.user_data),
} as const;
const CQE_RES = word(io_uring_cqe.at.res);

/** Owns the ring's descriptor and mappings. The descriptor is readable (epoll) while a completion waits. */
export class IoUring {
  private readonly words: Int32Array;
  private readonly sqes: Uint32Array;
  private readonly sqTail: number;
  private readonly cqHead: number;
  private readonly cqTail: number;
  private readonly cqes: number;
  private readonly sqMask: number;
  private readonly cqMask: number;
  // Modulo 2^32, as the rings count.
  private tail = 0;
  private submitted = 0;
  /** Prepared or submitted, and not reaped. */
  inFlight = 0;

  private constructor(readonly fd: number, params: DataView, private readonly rings: Mapping, private readonly entries: Mapping) {
    const sq = (field: keyof typeof io_sqring_offsets.at) => params.getUint32(io_uring_params.at.sq_off + io_sqring_offsets.at[field], true);
    const cq = (field: keyof typeof io_cqring_offsets.at) => params.getUint32(io_uring_params.at.cq_off + io_cqring_offsets.at[field], true);
    const words = new Int32Array(rings.buffer());
    this.words = words;
    this.sqes = new Uint32Array(entries.buffer());
    this.sqTail = word(sq("tail"));
    this.cqHead = word(cq("head"));
    this.cqTail = word(cq("tail"));
    this.cqes = word(cq("cqes"));
    this.sqMask = words[word(sq("ring_mask"))]!;
    this.cqMask = words[word(cq("ring_mask"))]!;
    const array = word(sq("array"));
    for (let i = 0; i <= this.sqMask; i++) words[array + i] = i; // entry n always stands at place n
  }

  /** Null where the host has no io_uring or forbids it. Sizes are powers of two; completions are never lost for want of room. */
  static create(submissions: number, completions: number): IoUring | null {
    const params = new DataView(new ArrayBuffer(io_uring_params.size));
    let fd = setup(submissions, completions, IORING.IORING_SETUP_CQSIZE | IORING.IORING_SETUP_COOP_TASKRUN, params);
    if (fd === -E.EINVAL) fd = setup(submissions, completions, IORING.IORING_SETUP_CQSIZE, params); // before Linux 5.19
    if (fd < 0) return null;
    if ((params.getUint32(io_uring_params.at.features, true) & NEEDED) !== NEEDED) {
      closeFd(fd);
      return null;
    }
    const cqEnd = params.getUint32(io_uring_params.at.cq_off + io_cqring_offsets.at.cqes, true) + params.getUint32(io_uring_params.at.cq_entries, true) * io_uring_cqe.size;
    const sqEnd = params.getUint32(io_uring_params.at.sq_off + io_sqring_offsets.at.array, true) + params.getUint32(io_uring_params.at.sq_entries, true) * 4;
    const map = (length: number, offset: number) => Mapping.file(fd, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, offset);
    const rings = map(Math.max(cqEnd, sqEnd), IORING.IORING_OFF_SQ_RING);
    return new IoUring(fd, params, rings, map(params.getUint32(io_uring_params.at.sq_entries, true) * io_uring_sqe.size, IORING.IORING_OFF_SQES));
  }

  /** Writes one submission entry. False if there is no room: submit() or reap first. `address` and memory behind it: until submit() returned. */
  prepare(opcode: number, fd: number, address: number, length: number, offset: number, flags: number, userData: number): boolean {
    if (this.inFlight > this.cqMask || ((this.tail - this.submitted) | 0) > this.sqMask) return false;
    const w = this.sqes, at = (this.tail & this.sqMask) * SQE_WORDS;
    const offsetHigh = Math.floor(offset / HIGH), addressHigh = Math.floor(address / HIGH);
    w[at] = opcode; // flags and ioprio, in the same word, are 0
    w[at + W.fd] = fd;
    w[at + W.off] = offset - offsetHigh * HIGH;
    w[at + W.off + 1] = offsetHigh;
    w[at + W.addr] = address - addressHigh * HIGH;
    w[at + W.addr + 1] = addressHigh;
    w[at + W.len] = length;
    w[at + W.flags] = flags;
    w[at + W.data] = userData;
    this.tail = (this.tail + 1) | 0;
    this.inFlight++;
    return true;
  }

  /** Hands all prepared entries to the kernel. Throws only if the host can't take them at all. */
  submit(): void {
    for (let tries = 0; this.submitted !== this.tail; ) {
      Atomics.store(this.words, this.sqTail, this.tail);
      const n = syscall(SYS.io_uring_enter, this.fd, (this.tail - this.submitted) | 0, 0, 0, 0, 0);
      if (n > 0) this.submitted = (this.submitted + n) | 0;
      else if (n !== -E.EINTR && (++tries > SUBMIT_TRIES || (n !== -E.EAGAIN && n !== -E.EBUSY))) throw new SysError("Cannot submit to io_uring", -n);
    }
  }

  /** Takes completions and gives each to `complete` with what the system call would have returned. Returns how many. */
  reap(complete: Completions): number {
    const words = this.words;
    let head = words[this.cqHead]!, count = 0;
    for (;;) {
      const tail = Atomics.load(words, this.cqTail);
      if (head === tail) return count;
      for (; head !== tail; head = (head + 1) | 0, count++) {
        const at = this.cqes + (head & this.cqMask) * CQE_WORDS;
        const userData = words[at]! >>> 0, result = words[at + CQE_RES]!;
        this.inFlight--;
        complete.complete(userData, result);
      }
      Atomics.store(words, this.cqHead, head);
    }
  }

  /** The kernel cancels or finishes what is in flight by itself, later: memory that it writes to must outlive this. */
  close(): void {
    closeFd(this.fd);
    this.rings.close();
    this.entries.close();
  }
}

function setup(submissions: number, completions: number, flags: number, params: DataView): number {
  params.setUint32(io_uring_params.at.flags, flags, true);
  params.setUint32(io_uring_params.at.cq_entries, completions, true);
  return syscall(SYS.io_uring_setup, submissions, params);
}

export interface Completions {
  complete(userData: number, result: number): void;
}
