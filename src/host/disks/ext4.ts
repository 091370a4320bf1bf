// The one thing that matters here of the file system in a disk: its block size. Versions before this one let mkfs choose, and it
// chose 1 KiB for disks below 512 MiB: Linux mounts such a file system only from a device with sectors no larger.
import { closeFd, O_RDONLY, openFd } from "../../ffi/fd.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { syscall } from "../../ffi/syscall.ts";

// fs/ext4/ext4.h, struct ext4_super_block, which begins at byte 1024.
const SUPERBLOCK = 1024, S_LOG_BLOCK_SIZE = 24, S_MAGIC = 56, EXT4_SUPER_MAGIC = 0xef53;
const LOG_4K = 2;

/** False too where there is no ext4, or no file yet. */
export function hasSmallBlocks(path: string): boolean {
  let fd = -1;
  try {
    fd = openFd(path, O_RDONLY);
    const block = new DataView(new ArrayBuffer(64));
    const got = syscall(SYS.pread64, fd, block, block.byteLength, SUPERBLOCK);
    return got === block.byteLength && block.getUint16(S_MAGIC, true) === EXT4_SUPER_MAGIC && block.getUint32(S_LOG_BLOCK_SIZE, true) < LOG_4K;
  } catch {
    return false; // whoever opens it for use says why it can't be
  } finally {
    if (fd >= 0) closeFd(fd);
  }
}
