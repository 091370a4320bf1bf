// What both ways of disk I/O have in common, and the memory that WorkerIo and its Worker share: two rings of words.
// Indices go through Atomics, entries are published by them.

/** Operations of a DiskIo. */
export const Op = { READV: 0, WRITEV: 1, FDATASYNC: 2, PUNCH_HOLE: 3, ZERO_RANGE: 4 } as const;

/** Entries of each ring, a power of two: no less than MAX_CLIENTS * MAX_TAGS, so that there is always room. */
export const RING = 8192;
/** Words. */
export const Index = { SUBMIT_TAIL: 0, SUBMIT_HEAD: 1, DONE_TAIL: 2, DONE_HEAD: 3, STOP: 4 } as const;
/** What the Worker sets STOP to when it is done with this memory. */
export const STOPPED = 2;
export const REQUESTS = 16; // first word of the requests
/** Words of a request. Addresses, lengths and offsets are low and high halves. */
export const Field = { OP: 0, FD: 1, ADDRESS: 2, COUNT: 4, OFFSET: 5, DATA: 7 } as const;
export const REQUEST_WORDS = 8;
export const DONES = REQUESTS + RING * REQUEST_WORDS;
/** User data and result. */
export const DONE_WORDS = 2;
export const SHARED_SIZE = (DONES + RING * DONE_WORDS) * 4;

export interface DiskWorkerStart {
  /** SHARED_SIZE bytes of the main thread's, alive until it has stopped the Worker. */
  readonly address: number;
  /** Blocking eventfd: requests have come. */
  readonly wakeFd: number;
  /** Eventfd: requests are done. */
  readonly doneFd: number;
}
