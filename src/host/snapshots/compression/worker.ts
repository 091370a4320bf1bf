// Worker: one file compressed or decompressed, off the daemon's event loop.
import { beModest, serveTask } from "../task-worker.ts";
import type { Algorithm } from "./codec.ts";
import { FormatError } from "./format.ts";
import { pack, unpack, type Totals } from "./pack.ts";

export interface PackOrder {
  readonly rawFd: number;
  readonly packedFd: number;
  /** Null to decompress. */
  readonly compress: { readonly algorithm: Algorithm; readonly level: number } | null;
}

serveTask<PackOrder, Totals>(
  ({ rawFd, packedFd, compress }, watch) => {
    if (compress === null) return unpack(packedFd, rawFd, watch); // somebody waits for it
    beModest();
    return pack(rawFd, packedFd, compress.algorithm, compress.level, watch);
  },
  (error) => error instanceof FormatError ? { code: error.code, why: error.message } : null,
);
