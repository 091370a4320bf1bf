// inotify(7): changes of single files, told by a descriptor that polls readable.
import { SYS } from "./abi/syscalls.ts";
import { closeFd, O_CLOEXEC, O_NONBLOCK, tryRead } from "./fd.ts";
import { cstring, must } from "./syscall.ts";

/** linux/inotify.h */
export const IN_MODIFY = 0x02, IN_MOVE_SELF = 0x800, IN_DELETE_SELF = 0x400;

/** Owns one inotify instance. Which file changed is not told: whoever watches two files looks at both. */
export class Inotify {
  readonly fd = must("Cannot create an inotify instance (fs.inotify.max_user_instances?)", SYS.inotify_init1, O_NONBLOCK | O_CLOEXEC);
  private readonly buffer = new Uint8Array(4096);

  add(path: string, mask = IN_MODIFY | IN_MOVE_SELF | IN_DELETE_SELF): void {
    must(`Cannot watch ${path}`, SYS.inotify_add_watch, this.fd, cstring(path), mask);
  }

  /** Takes all events that wait; the kernel merges equal ones, so there are few. */
  drain(): void {
    while (tryRead(this.fd, this.buffer, this.buffer.length) > 0);
  }

  close(): void {
    closeFd(this.fd);
  }
}
