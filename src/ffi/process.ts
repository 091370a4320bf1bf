// Processes by descriptor (pidfd_open(2), pidfd_send_signal(2)): no signal ever hits a process that has taken over a number.
import { readFileSync } from "node:fs";
import { E } from "./abi/errno.ts";
import { SYS } from "./abi/syscalls.ts";
import { closeFd } from "./fd.ts";
import { must, syscall, SysError } from "./syscall.ts";

export const SIGHUP = 1, SIGINT = 2, SIGKILL = 9, SIGTERM = 15;

/**
 * What tells a process from a later one with the same number: its start in clock ticks since boot
 * (field 22 of /proc/PID/stat, proc(5)). Null where there is no such process, or only its exit status is left of it.
 */
export function processStart(pid: number): number | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    // The second field, the name, may hold spaces and parentheses: count from the last parenthesis.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? null : Number(fields[22 - 3]);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ESRCH") return null;
    throw error;
  }
}

/** This boot's id: what ran under another one is gone. */
export const bootId = (): string => (boot ??= readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim());
let boot: string | undefined;

/** Owns a descriptor of one process, which polls readable once it has ended. */
export class ProcessHandle {
  private constructor(readonly pid: number, readonly fd: number) {}

  /** The process `pid` that started at `start` (any, where null); null where it is gone. */
  static open(pid: number, start: number | null = null): ProcessHandle | null {
    const fd = syscall(SYS.pidfd_open, pid, 0);
    if (fd === -E.ESRCH) return null;
    if (fd < 0) throw new SysError(`Cannot open process ${pid}`, -fd);
    // Compared after the open: from here on the descriptor means this one process.
    const found = processStart(pid);
    if (found === null || (start !== null && found !== start)) {
      closeFd(fd);
      return null;
    }
    return new ProcessHandle(pid, fd);
  }

  /** Sends a signal; false where the process has ended. */
  signal(number: number): boolean {
    const result = syscall(SYS.pidfd_send_signal, this.fd, number, 0, 0);
    if (result === -E.ESRCH) return false;
    if (result < 0) must(`Cannot signal process ${this.pid}`, SYS.pidfd_send_signal, this.fd, number, 0, 0);
    return true;
  }

  close(): void {
    closeFd(this.fd);
  }
}
