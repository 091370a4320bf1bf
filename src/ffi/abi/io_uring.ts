// linux/io_uring.h: submission and completion rings.
import { array, struct, u16, u32, u64, u8 } from "./layout.ts";

export const header = "linux/io_uring.h";

export const io_uring_sqe = struct("struct io_uring_sqe", header, {
  opcode: u8, flags: u8, ioprio: u16, fd: u32, off: u64, addr: u64, len: u32, rw_flags: u32, user_data: u64, buf_index: u16, personality: u16,
  splice_fd_in: u32, addr3: u64, __pad2: u64,
});
export const io_uring_cqe = struct("struct io_uring_cqe", header, { user_data: u64, res: u32, flags: u32 });
export const io_sqring_offsets = struct("struct io_sqring_offsets", header, {
  head: u32, tail: u32, ring_mask: u32, ring_entries: u32, flags: u32, dropped: u32, array: u32, resv1: u32, resv2: u64,
});
export const io_cqring_offsets = struct("struct io_cqring_offsets", header, {
  head: u32, tail: u32, ring_mask: u32, ring_entries: u32, overflow: u32, cqes: u32, flags: u32, resv1: u32, resv2: u64,
});
export const io_uring_params = struct("struct io_uring_params", header, {
  sq_entries: u32, cq_entries: u32, flags: u32, sq_thread_cpu: u32, sq_thread_idle: u32, features: u32, wq_fd: u32, resv: array(u32, 3),
  sq_off: io_sqring_offsets, cq_off: io_cqring_offsets,
});
export const IORING = {
  IORING_OFF_SQ_RING: 0, IORING_OFF_SQES: 0x10000000, IORING_SETUP_CQSIZE: 8, IORING_SETUP_COOP_TASKRUN: 0x100, IORING_FEAT_SINGLE_MMAP: 1, IORING_FEAT_NODROP: 2,
  IORING_FEAT_SUBMIT_STABLE: 4, IORING_ENTER_GETEVENTS: 1, IORING_SQ_CQ_OVERFLOW: 2, IORING_FSYNC_DATASYNC: 1,
  IORING_OP_NOP: 0, IORING_OP_READV: 1, IORING_OP_WRITEV: 2, IORING_OP_FSYNC: 3, IORING_OP_FALLOCATE: 17,
} as const;
