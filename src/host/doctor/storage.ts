// Where state lives, and what its file system can do.
import { existsSync, statfsSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { closeFd, O_RDWR, pwriteAll } from "../../ffi/fd.ts";
import { cstring, syscall } from "../../ffi/syscall.ts";
import { errnoName, E } from "../../ffi/abi/errno.ts";
import { _IOW } from "../../ffi/abi/layout.ts";
import { io_uring_params } from "../../ffi/abi/io_uring.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { bad, ok, type Row, warn } from "./row.ts";

const GIB = 2 ** 30;
/** An image of the common kind, and its instance's writes. */
const LEAST = 1 * GIB, COMFORTABLE = 10 * GIB;

/** The folder itself, or the nearest one above it that is there. */
export function nearest(dir: string): string {
  let path = resolve(dir);
  while (!existsSync(path)) path = dirname(path);
  return path;
}

export function checkDisk(dataDir: string): Row {
  const { bavail, bsize } = statfsSync(nearest(dataDir));
  const free = bavail * bsize;
  const found = `${(free / GIB).toFixed(1)} GiB free for ${dataDir}`;
  const advice = "free some, or put the data on a larger disk (--data-dir)";
  if (free < LEAST) return bad("disk", found, advice);
  return free < COMFORTABLE ? warn("disk", found, advice) : ok("disk", found);
}

export function checkE2fsprogs(): Row {
  // What the daemon itself would find; sbin is not on everybody's PATH.
  const path = Bun.which("mkfs.ext4", { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` });
  return path === null ? bad("e2fsprogs", "mkfs.ext4 not found", "apt-get install e2fsprogs (dnf install e2fsprogs)") : ok("e2fsprogs", path);
}

export function checkIoUring(): Row {
  const fd = syscall(SYS.io_uring_setup, 4, new Uint8Array(io_uring_params.size));
  if (fd >= 0) {
    closeFd(fd);
    return ok("io_uring", "available");
  }
  const why = -fd === E.EPERM ? "forbidden (kernel.io_uring_disabled, or a sandbox)" : errnoName(-fd);
  return warn("io_uring", why, "sysctl -w kernel.io_uring_disabled=0; without it disks are served by a thread");
}

// linux/fs.h and asm-generic/fcntl.h
const FICLONE = _IOW(0x94, 9, 4);
const O_TMPFILE = 0o20200000;
const BLOCK = 4096;

/** Two files without a name, so that nothing is left whatever happens. */
export function checkReflink(dataDir: string): Row {
  const dir = nearest(dataDir);
  const open = () => syscall(SYS.open, cstring(dir), O_TMPFILE | O_RDWR, 0o600);
  const from = open(), to = open();
  try {
    if (from < 0 || to < 0) return warn("reflink", `cannot try in ${dir}: ${errnoName(-Math.min(from, to))}`, "put the data on a file system that root can write to (--data-dir)");
    pwriteAll(from, new Uint8Array(BLOCK), 0);
    const result = syscall(SYS.ioctl, to, FICLONE, from);
    if (result === 0) return ok("reflink", `${dir} shares blocks between copies`);
    return warn("reflink", `${dir} copies every block`, "XFS or Btrfs would make copies of disks free; ext4 works");
  } finally {
    if (from >= 0) closeFd(from);
    if (to >= 0) closeFd(to);
  }
}
