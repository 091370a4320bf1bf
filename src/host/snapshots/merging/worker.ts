// Worker: generations made one, off the daemon's event loop and at the lowest priority. It gets a MergeOrder, answers progress, then the
// outcome, and is terminated. The descriptors are the daemon's, which closes them once the outcome is there.
import { messageOf, type ErrorCode } from "../../../errors.ts";
import { E } from "../../../ffi/abi/errno.ts";
import { SYS } from "../../../ffi/abi/syscalls.ts";
import { syscall, SysError } from "../../../ffi/syscall.ts";
import { codeOf, MachineStateError } from "../../../machine-state/fault.ts";
import { merge, Stopped, type Segment } from "./merge.ts";

export interface MergeOrder {
  readonly segment: Segment;
  readonly into: { readonly machine: number; readonly memory: number };
  /** Not 0: called off. */
  readonly stop: Int32Array;
}

export type MergeMessage =
  | { readonly kind: "progress" }
  | { readonly kind: "done"; readonly dataBytes: number }
  | { readonly kind: "stopped" }
  | { readonly kind: "failed"; readonly code: ErrorCode; readonly why: string };

declare const self: Worker;

const PRIO_PROCESS = 0, LOWEST = 19; // linux/resource.h; as a "process", 0 is the calling thread

function run({ segment, into, stop }: MergeOrder): MergeMessage {
  // Nobody waits for it. Where the host says no it is merely not as modest.
  syscall(SYS.setpriority, PRIO_PROCESS, 0, LOWEST);
  try {
    const dataBytes = merge(segment, into, { stopped: () => Atomics.load(stop, 0) !== 0, progress: () => self.postMessage({ kind: "progress" } satisfies MergeMessage) });
    return { kind: "done", dataBytes };
  } catch (error) {
    return failure(error);
  }
}

function failure(error: unknown): MergeMessage {
  if (error instanceof Stopped) return { kind: "stopped" };
  if (error instanceof MachineStateError) return { kind: "failed", code: codeOf(error), why: error.message };
  const full = error instanceof SysError && [E.ENOSPC, E.EDQUOT, E.EFBIG].includes(error.errno as never);
  return { kind: "failed", code: "host.storage", why: full ? `the disk is full (${messageOf(error)}); free some space` : messageOf(error) };
}

self.onmessage = ({ data }: MessageEvent<MergeOrder>) => self.postMessage(run(data));
