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
    if (result === -E.ENOSPC || result === -E.EDQUOT) this.noSpace++;
  }
}
