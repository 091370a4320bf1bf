// Which of the two ways of disk I/O this host allows.
import type { Epoll } from "../../../ffi/epoll.ts";
import type { DiskIo } from "./disk-io.ts";
import { UringIo } from "./uring.ts";
import { WorkerIo } from "./worker-io.ts";

/** io_uring, or a Worker where the host has none or forbids it. */
export function createDiskIo(epoll: Epoll, onFailure: (message: string) => void): DiskIo {
  return UringIo.create(epoll) ?? new WorkerIo(epoll, onFailure);
}
