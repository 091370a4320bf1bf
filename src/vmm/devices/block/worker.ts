// Disk I/O where io_uring is not to be had: blocking system calls in a Worker of their own, one after another.
import { E } from "../../../ffi/abi/errno.ts";
import { SYS } from "../../../ffi/abi/syscalls.ts";
import { drainEventFd, signalEventFd } from "../../../ffi/epoll.ts";
import { foreignBuffer } from "../../../ffi/memory.ts";
import { syscall } from "../../../ffi/syscall.ts";
import { DONE_WORDS, DONES, Field, Index, Op, REQUEST_WORDS, REQUESTS, RING, SHARED_SIZE, STOPPED, type DiskWorkerStart } from "./shared.ts";

declare const self: Worker;

const FALLOC_FL_KEEP_SIZE = 1, FALLOC_FL_PUNCH_HOLE = 2, FALLOC_FL_ZERO_RANGE = 0x10; // linux/falloc.h
const HIGH = 2 ** 32;

function perform(words: Int32Array, at: number): number {
  const wide = (field: number) => (words[at + field + 1]! >>> 0) * HIGH + (words[at + field]! >>> 0);
  const op = words[at + Field.OP]!, fd = words[at + Field.FD]!, address = wide(Field.ADDRESS), count = words[at + Field.COUNT]!, offset = wide(Field.OFFSET);
  for (;;) {
    const result = call(op, fd, address, count, offset);
    if (result !== -E.EINTR) return result;
  }
}

function call(op: number, fd: number, address: number, count: number, offset: number): number {
  switch (op) {
    case Op.READV: return syscall(SYS.preadv, fd, address, count, offset, 0);
    case Op.WRITEV: return syscall(SYS.pwritev, fd, address, count, offset, 0);
    case Op.FDATASYNC: return syscall(SYS.fdatasync, fd);
    default: return syscall(SYS.fallocate, fd, FALLOC_FL_KEEP_SIZE | (op === Op.PUNCH_HOLE ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE), offset, address);
  }
}

function serve(start: DiskWorkerStart): void {
  const words = new Int32Array(foreignBuffer(start.address, SHARED_SIZE));
  while (Atomics.load(words, Index.STOP) === 0) {
    const head = words[Index.SUBMIT_HEAD]!;
    if (head === Atomics.load(words, Index.SUBMIT_TAIL)) {
      drainEventFd(start.wakeFd); // blocks
      continue;
    }
    const at = REQUESTS + (head & (RING - 1)) * REQUEST_WORDS;
    const data = words[at + Field.DATA]!;
    const result = perform(words, at);
    Atomics.store(words, Index.SUBMIT_HEAD, (head + 1) | 0);
    const tail = words[Index.DONE_TAIL]!;
    const done = DONES + (tail & (RING - 1)) * DONE_WORDS;
    words[done] = data;
    words[done + 1] = result;
    Atomics.store(words, Index.DONE_TAIL, (tail + 1) | 0);
    signalEventFd(start.doneFd);
  }
}

self.onmessage = (event: MessageEvent) => {
  const start = event.data as DiskWorkerStart;
  try {
    serve(start);
  } finally {
    // Told or thrown: main learns it here, never by an error event, which would wait for its event loop.
    Atomics.store(new Int32Array(foreignBuffer(start.address, SHARED_SIZE)), Index.STOP, STOPPED);
    signalEventFd(start.doneFd);
  }
};
