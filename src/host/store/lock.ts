// An advisory lock (flock(2)) on a file: held until its descriptor is closed, so also gone when its holder dies.
import { readFileSync } from "node:fs";
import { ok } from "neverthrow";
import { fail, messageOf, type Res } from "../../errors.ts";
import { E } from "../../ffi/abi/errno.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { closeFd, O_CREAT, O_RDWR, openFd, pwriteAll } from "../../ffi/fd.ts";
import { must, syscall, SysError } from "../../ffi/syscall.ts";

const LOCK_EX = 2, LOCK_NB = 4; // bits/fcntl.h (sys/file.h)

/** Takes the lock; the answer is its descriptor. `conflict` names the process that has it. */
export function lockFile(path: string): Res<number> {
  let fd = -1;
  try {
    fd = openFd(path, O_RDWR | O_CREAT);
    const result = syscall(SYS.flock, fd, LOCK_EX | LOCK_NB);
    if (result === -E.EAGAIN) {
      closeFd(fd);
      return fail("conflict", `Cannot use ${path.replace(/\.lock$/, "")}: the daemon with process id ${holderOf(path)} has it open; stop that one first, or give another data folder`);
    }
    if (result < 0) throw new SysError(`Cannot lock ${path}`, -result);
    must(`Cannot empty ${path}`, SYS.ftruncate, fd, 0);
    pwriteAll(fd, Buffer.from(`${process.pid}\n`), 0);
    return ok(fd);
  } catch (error) {
    if (fd >= 0) closeFd(fd);
    return fail("host.storage", `Cannot lock ${path}: ${messageOf(error)}`, { cause: error });
  }
}

function holderOf(path: string): string {
  try {
    return readFileSync(path, "utf8").trim() || "unknown";
  } catch {
    return "unknown"; // it only makes the message better
  }
}
