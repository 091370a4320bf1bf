// Worker: one file compressed or decompressed, off the daemon's event loop. It gets a PackOrder, answers progress, then the
// outcome, and is terminated. The descriptors are the daemon's, which closes them once the outcome is there.
import { messageOf, type ErrorCode } from "../../../errors.ts";
import { E } from "../../../ffi/abi/errno.ts";
import { SYS } from "../../../ffi/abi/syscalls.ts";
import { syscall, SysError } from "../../../ffi/syscall.ts";
import type { Algorithm } from "./codec.ts";
import { FormatError } from "./format.ts";
import { pack, Stopped, unpack, type Totals, type Watch } from "./pack.ts";

export interface PackOrder {
  readonly rawFd: number;
  readonly packedFd: number;
  /** Null to decompress. */
  readonly compress: { readonly algorithm: Algorithm; readonly level: number } | null;
  /** Not 0: called off. */
  readonly stop: Int32Array;
}

export type PackMessage =
  | { readonly kind: "progress"; readonly chunks: number }
  | { readonly kind: "done"; readonly totals: Totals }
  | { readonly kind: "stopped" }
  | { readonly kind: "failed"; readonly code: ErrorCode; readonly why: string };

declare const self: Worker;

const PRIO_PROCESS = 0, LOWEST = 19; // linux/resource.h; as a "process", 0 is the calling thread

async function run(order: PackOrder): Promise<PackMessage> {
  const watch: Watch = {
    stopped: () => Atomics.load(order.stop, 0) !== 0,
    progress: (chunks) => self.postMessage({ kind: "progress", chunks } satisfies PackMessage),
  };
  try {
    if (order.compress === null) return { kind: "done", totals: await unpack(order.packedFd, order.rawFd, watch) };
    // Nobody waits for it. Where the host says no it is merely not as modest.
    syscall(SYS.setpriority, PRIO_PROCESS, 0, LOWEST);
    return { kind: "done", totals: await pack(order.rawFd, order.packedFd, order.compress.algorithm, order.compress.level, watch) };
  } catch (error) {
    return failure(error);
  }
}

function failure(error: unknown): PackMessage {
  if (error instanceof Stopped) return { kind: "stopped" };
  if (error instanceof FormatError) return { kind: "failed", code: error.code, why: error.message };
  const full = error instanceof SysError && [E.ENOSPC, E.EDQUOT, E.EFBIG].includes(error.errno as never);
  return { kind: "failed", code: "host.storage", why: full ? `the disk is full (${messageOf(error)}); free some space` : messageOf(error) };
}

self.onmessage = (event: MessageEvent<PackOrder>) => void run(event.data).then((message) => self.postMessage(message));
