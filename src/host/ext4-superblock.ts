// What matters here of the ext4 in a disk, from its superblock. A guest has written it: nothing of it is believed further than that.
import { closeFd, O_RDONLY, openFd } from "../ffi/fd.ts";
import { SYS } from "../ffi/abi/syscalls.ts";
import { must } from "../ffi/syscall.ts";

// fs/ext4/ext4.h, struct ext4_super_block, which begins at byte 1024.
const SUPERBLOCK = 1024, S_LOG_BLOCK_SIZE = 24, S_MAGIC = 56, S_FEATURE_INCOMPAT = 96, EXT4_SUPER_MAGIC = 0xef53;
const LOG_4K = 2, EXT4_FEATURE_INCOMPAT_RECOVER = 0x4;

/** Null where there is something else. Throws SysError where the file can't be read. */
function superblock(path: string): DataView | null {
  const fd = openFd(path, O_RDONLY);
  try {
    const block = new DataView(new ArrayBuffer(128));
    must(`Cannot read ${path}`, SYS.pread64, fd, block, block.byteLength, SUPERBLOCK);
    return block.getUint16(S_MAGIC, true) === EXT4_SUPER_MAGIC ? block : null;
  } finally {
    closeFd(fd);
  }
}

/**
 * Versions before this one let mkfs choose the size of blocks, and it chose 1 KiB for disks below 512 MiB: Linux mounts such a
 * file system only from a device with sectors no larger. False too where there is no file yet.
 */
export function hasSmallBlocks(path: string): boolean {
  try {
    return (superblock(path)?.getUint32(S_LOG_BLOCK_SIZE, true) ?? LOG_4K) < LOG_4K;
  } catch {
    return false; // whoever opens it for use says why it can't be
  }
}

/** Whether there is one at all. Throws as the file system does. */
export const isExt4 = (path: string): boolean => superblock(path) !== null;

/** Whether it must be written before it can be read: its journal holds what its last writer did not get to. Throws as the file system does. */
export function needsRecovery(path: string): boolean {
  return ((superblock(path)?.getUint32(S_FEATURE_INCOMPAT, true) ?? 0) & EXT4_FEATURE_INCOMPAT_RECOVER) !== 0;
}
