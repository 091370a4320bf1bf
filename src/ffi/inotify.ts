// inotify(7): changes of single files, told by a descriptor that polls readable.
import { E } from "./abi/errno.ts";
import { SYS } from "./abi/syscalls.ts";
import { closeFd, O_CLOEXEC, O_NONBLOCK, tryRead } from "./fd.ts";
import { cstring, must, syscall, SysError } from "./syscall.ts";

/** linux/inotify.h */
const IN_MODIFY = 0x02, IN_DELETE_SELF = 0x400, IN_MOVE_SELF = 0x800;
const EVENT_HEADER = 16; // struct inotify_event: i32 wd, u32 mask, u32 cookie, u32 len, and len bytes of name

/** Owns one inotify instance, of which a user may have 128 (fs.inotify.max_user_instances). */
export class Inotify {
  readonly fd = must("Cannot create an inotify instance (fs.inotify.max_user_instances?)", SYS.inotify_init1, O_NONBLOCK | O_CLOEXEC);
  private readonly buffer = new DataView(new ArrayBuffer(16 * 1024));

  /** Watches a file. The answer names it in events; the same file has the same one. */
  add(path: string): number {
    return must(`Cannot watch ${path}`, SYS.inotify_add_watch, this.fd, cstring(path), IN_MODIFY | IN_MOVE_SELF | IN_DELETE_SELF);
  }

  /** Ends a watch; one that the kernel has ended already (the file is gone) is fine. */
  remove(watch: number): void {
    const result = syscall(SYS.inotify_rm_watch, this.fd, watch);
    if (result < 0 && result !== -E.EINVAL) throw new SysError("Cannot stop watching a file", -result);
  }

  /** The watches that have events waiting, each once; takes all of them. */
  drain(): Set<number> {
    const changed = new Set<number>();
    for (;;) {
      const n = tryRead(this.fd, this.buffer, this.buffer.byteLength);
      if (n <= 0) return changed;
      for (let at = 0; at + EVENT_HEADER <= n; at += EVENT_HEADER + this.buffer.getUint32(at + 12, true)) changed.add(this.buffer.getInt32(at, true));
    }
  }

  close(): void {
    closeFd(this.fd);
  }
}
