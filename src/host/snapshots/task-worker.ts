// The Worker's side of task.ts: one order, progress, then the outcome; it is terminated with that.
import { messageOf, type ErrorCode } from "../../errors.ts";
import { E } from "../../ffi/abi/errno.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { syscall, SysError } from "../../ffi/syscall.ts";

/** `stop`: not 0, called off. */
export interface TaskOrder<O> { readonly work: O; readonly stop: Int32Array }

export type TaskMessage<T> =
  | { readonly kind: "progress" }
  | { readonly kind: "done"; readonly result: T }
  | { readonly kind: "stopped" }
  | Fault & { readonly kind: "failed" };

export interface Fault { readonly code: ErrorCode; readonly why: string }

/** The task was called off. */
export class Stopped extends Error {
  override readonly name = "Stopped";
}

export interface Watch {
  /** Asked between pieces; true ends the task with Stopped. */
  readonly stopped: () => boolean;
  readonly progress: () => void;
}

declare const self: Worker;

const PRIO_PROCESS = 0, LOWEST = 19; // linux/resource.h; as a "process", 0 is the calling thread

/** For what nobody waits for. Where the host says no it is merely not as modest. */
export const beModest = (): void => void syscall(SYS.setpriority, PRIO_PROCESS, 0, LOWEST);

/** `faultOf`: what an error of the work's own kind means; null for any other. */
export function serveTask<O, T>(work: (order: O, watch: Watch) => T | Promise<T>, faultOf: (error: unknown) => Fault | null): void {
  const say = (message: TaskMessage<T>) => self.postMessage(message);
  self.onmessage = async ({ data: { work: order, stop } }: MessageEvent<TaskOrder<O>>) => {
    try {
      say({ kind: "done", result: await work(order, { stopped: () => Atomics.load(stop, 0) !== 0, progress: () => say({ kind: "progress" }) }) });
    } catch (error) {
      say(error instanceof Stopped ? { kind: "stopped" } : { kind: "failed", ...(faultOf(error) ?? storageFault(error)) });
    }
  };
}

const FULL: readonly number[] = [E.ENOSPC, E.EDQUOT, E.EFBIG];

function storageFault(error: unknown): Fault {
  const full = error instanceof SysError && FULL.includes(error.errno);
  return { code: "host.storage", why: full ? `the disk is full (${messageOf(error)}); free some space` : messageOf(error) };
}
