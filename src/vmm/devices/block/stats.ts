// What a disk counts.
import { E } from "../../../ffi/abi/errno.ts";
import { Op } from "./shared.ts";

export class DiskStats {
  readBytes = 0;
  writtenBytes = 0;
  reads = 0;
  writes = 0;
  flushes = 0;
  /** Requests that failed, and of them those for which the host had no space. */
  errors = 0;
  noSpace = 0;
  /** Hears of what the host could not do: at the first time, the second, the fourth and so on, however much a guest asks for. */
  onFailure: ((errno: number) => void) | null = null;

  private failures = 0;

  count(op: number, bytes: number): void {
    if (op === Op.READV) {
      this.reads++;
      this.readBytes += bytes;
    } else if (op === Op.WRITEV) {
      this.writes++;
      this.writtenBytes += bytes;
    }
  }

  countFailure(result: number): void {
    this.errors++;
    if (result === -E.ENOTSUP) return; // not every file system can do all
    if (result === -E.ENOSPC || result === -E.EDQUOT) this.noSpace++;
    this.failures++;
    if ((this.failures & (this.failures - 1)) === 0) this.onFailure?.(-result);
  }
}
