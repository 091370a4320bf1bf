// Files below a folder, by names that may come from anybody: no name and no symbolic link leads out of it (openat2(2)), and none is
// followed. Names are byte strings, one latin1 character a byte. Calls return what the kernel does: a value, or -errno.
import { AT } from "./abi/fcntl.ts";
import { open_how, RESOLVE } from "./abi/openat2.ts";
import { SYS } from "./abi/syscalls.ts";
import { O_CLOEXEC, O_CREAT, O_EXCL, O_WRONLY } from "./fd.ts";
import { syscall } from "./syscall.ts";

const how = new DataView(new ArrayBuffer(open_how.size));

function open(folder: number, name: string, flags: number, mode: number): number {
  how.setBigUint64(open_how.at.flags, BigInt(flags | O_CLOEXEC), true);
  how.setBigUint64(open_how.at.mode, BigInt(mode), true);
  how.setBigUint64(open_how.at.resolve, BigInt(RESOLVE.RESOLVE_BENEATH | RESOLVE.RESOLVE_NO_SYMLINKS | RESOLVE.RESOLVE_NO_XDEV), true);
  return syscall(SYS.openat2, folder, bytes(name), how, open_how.size);
}

/** A descriptor of the folder `path`; -ELOOP where a symbolic link is on the way. */
export const openFolder = (folder: number, path: string): number => open(folder, path, AT.O_DIRECTORY, 0);
/** A descriptor of a new file. */
export const createFile = (folder: number, name: string): number => open(folder, name, O_WRONLY | O_CREAT | O_EXCL, 0o600);

// Below, `name` is one component: it has no slash, and is neither `.` nor `..`.
export const makeFolder = (folder: number, name: string): number => syscall(SYS.mkdirat, folder, bytes(name), 0o755);
export const makeSymlink = (folder: number, name: string, target: string): number => syscall(SYS.symlinkat, bytes(target), folder, bytes(name));
/** A further name of `from`, which is not followed where it is a symbolic link. */
export const makeLink = (fromFolder: number, from: string, folder: number, name: string): number => syscall(SYS.linkat, fromFolder, bytes(from), folder, bytes(name), 0);
/** `mode` with the type's bits (inode(7)), `device` as makeDevice() gives it. */
export const makeNode = (folder: number, name: string, mode: number, device: number): number => syscall(SYS.mknodat, folder, bytes(name), mode, device);
export const removeFile = (folder: number, name: string): number => syscall(SYS.unlinkat, folder, bytes(name), 0);
export const removeFolder = (folder: number, name: string): number => syscall(SYS.unlinkat, folder, bytes(name), AT.AT_REMOVEDIR);

/** As the kernel packs it, linux/kdev_t.h (new_encode_dev); null where a number is too large. */
export const makeDevice = (major: number, minor: number): number | null =>
  major < 0 || major >= 2 ** 12 || minor < 0 || minor >= 2 ** 20 ? null : ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;

export const setOwnerOf = (folder: number, name: string, uid: number, gid: number): number => syscall(SYS.fchownat, folder, bytes(name), uid, gid, AT.AT_SYMLINK_NOFOLLOW);
/** Follows symbolic links: not for those. */
export const setModeOf = (folder: number, name: string, mode: number): number => syscall(SYS.fchmodat, folder, bytes(name), mode);
export const setTimeOf = (folder: number, name: string, sec: number, nsec: number): number => syscall(SYS.utimensat, folder, bytes(name), times(sec, nsec), AT.AT_SYMLINK_NOFOLLOW);

export const setOwner = (fd: number, uid: number, gid: number): number => syscall(SYS.fchown, fd, uid, gid);
export const setMode = (fd: number, mode: number): number => syscall(SYS.fchmod, fd, mode);
export const setTime = (fd: number, sec: number, nsec: number): number => syscall(SYS.utimensat, fd, 0, times(sec, nsec), 0);
export const setXattr = (fd: number, name: string, value: Uint8Array): number => syscall(SYS.fsetxattr, fd, bytes(name), value.length === 0 ? 0 : value, value.length, 0);

const bytes = (name: string): Uint8Array => Buffer.from(`${name}\0`, "latin1");
/** struct timespec[2], of access and change, both the same. */
const times = (sec: number, nsec: number) => new BigInt64Array([BigInt(sec), BigInt(nsec), BigInt(sec), BigInt(nsec)]);
