// Compressing or decompressing in a Worker of its own.
import { O_CREAT, O_EXCL, O_RDONLY, O_RDWR } from "../../../ffi/fd.ts";
import { beginTask, type Task } from "../task.ts";
import type { Totals } from "./pack.ts";
import type { PackOrder } from "./worker.ts";

export type PackJob = Task<Totals>;

/** Reads `from`, writes the new file `to`. Messages begin with `what`. Throws SysError where a file can't be opened. */
export const beginJob = (what: string, from: string, to: string, compress: PackOrder["compress"], onProgress: () => void): PackJob =>
  beginTask<PackOrder, Totals>("compress", what, (open) => {
    const source = open(from, O_RDONLY), target = open(to, O_RDWR | O_CREAT | O_EXCL);
    return { ...(compress === null ? { rawFd: target, packedFd: source } : { rawFd: source, packedFd: target }), compress };
  }, onProgress);
