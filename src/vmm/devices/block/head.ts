// What a disk is known by: its first block, in which a file system says when it was last mounted and written.
import { MAP_BLOCK } from "../../../block-map.ts";
import { SYS } from "../../../ffi/abi/syscalls.ts";
import { syscall } from "../../../ffi/syscall.ts";

/** SHA-256 in hexadecimal; null where it can't be read. */
export function headOf(fd: number): string | null {
  const block = new Uint8Array(MAP_BLOCK);
  return syscall(SYS.pread64, fd, block, block.length, 0) === block.length ? Bun.SHA256.hash(block, "hex") : null;
}
