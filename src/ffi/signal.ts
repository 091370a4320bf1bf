// Signals to single threads: how a vCPU is called out of KVM_RUN.
import { dlopen, FFIType } from "bun:ffi";
import { returnInstructionAddress, syscall } from "./syscall.ts";
import { SYS } from "./abi/syscalls.ts";

/**
 * A real-time signal: the runtime suspends threads with SIGUSR1 and uses others below 32, glibc keeps 32 and 33 to itself.
 */
export const SIGKICK = 40;

/** Installs a handler that does nothing, so that the signal only interrupts. A child gets the default back at exec. */
export function installKickHandler(): void {
  const libc = dlopen("libc.so.6", { signal: { args: [FFIType.i32, FFIType.u64], returns: FFIType.u64 } });
  libc.symbols.signal(SIGKICK, returnInstructionAddress);
  // glibc's signal() sets SA_RESTART; KVM_RUN returns EINTR all the same.
}

/** Interrupts a thread of this process. Returns 0 or -errno (-ESRCH: it has ended). */
export const kickThread = (tid: number): number => syscall(SYS.tgkill, process.pid, tid, SIGKICK);
