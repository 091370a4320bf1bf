// Threads that run machine code of ours and nothing else (clone(2)): no JavaScript, no libc, no thread-local storage. They cost a stack
// and some 30 µs, where a Worker is a JavaScript engine. libc doesn't know them: what it does to all of its threads (set user ids, above
// all) passes them by. They never end but with the process.
import { CFunction, FFIType, type Pointer } from "bun:ffi";
import { SYS } from "./abi/syscalls.ts";
import { assemble, installCode, type Line } from "./code.ts";
import { PAGE_SIZE, PROT_NONE, type Mapping } from "./memory.ts";
import { installKickHandler, SIGKICK } from "./signal.ts";
import { must, SysError } from "./syscall.ts";

// linux/sched.h: what all threads of a process share.
const CLONE_VM = 0x100, CLONE_FS = 0x200, CLONE_FILES = 0x400, CLONE_SIGHAND = 0x800, CLONE_THREAD = 0x1_0000, CLONE_SYSVSEM = 0x4_0000;
const FLAGS = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
const SIG_SETMASK = 2, SIGSET_SIZE = 8; // asm/signal.h

/**
 * A guard page, then the stack. The code needs none of it; a signal's frame does: it holds the vector registers, with AMX more than
 * 8 KiB of them. Only what is touched counts.
 */
const STACK_PAGES = 8;
export const STACK_SIZE = (1 + STACK_PAGES) * PAGE_SIZE;

// (flags, stack) as System V passes them are where the kernel wants them. The new thread begins behind the system call as well, with the
// registers of the old one but rax and rsp; its stack holds the argument, then the address that `ret` goes to.
// prettier-ignore
export const CLONE_STUB: readonly Line[] = [
  ["mov eax, 56",     0xb8, SYS.clone, 0, 0, 0],
  ["xor edx, edx",    0x31, 0xd2],             // where the kernel would put thread ids: nowhere
  ["xor r10d, r10d",  0x45, 0x31, 0xd2],
  ["xor r8d, r8d",    0x45, 0x31, 0xc0],       // no thread-local storage of its own
  ["syscall",         0x0f, 0x05],
  ["test eax, eax",   0x85, 0xc0],
  ["jz child",        0x74],
  ["ret",             0xc3],
  ["child:"],
  ["pop rdi",         0x5f],
  ["ret",             0xc3],
];

// Made as this module is loaded: nobody waits for a thread yet.
const stub = CFunction({ ptr: installCode(assemble(CLONE_STUB)) as Pointer, args: [FFIType.u64, FFIType.u64], returns: FFIType.i64_fast }) as unknown as (flags: number, stack: number) => number | bigint;
installKickHandler();

/**
 * Starts a thread at the code at `entry`, with `argument` in rdi. Its stack is [offset, offset + STACK_SIZE) of `memory`, which must never
 * be unmapped; offset is whole pages. Only SIGKICK reaches it: all other signals of the process have other threads to go to, and a fault
 * of its own ends the process instead of running a handler of the JavaScript engine. Returns the thread's id, or throws a SysError.
 */
export function startThread(entry: number, argument: number, memory: Mapping, offset: number): number {
  const bottom = memory.address + offset;
  must("Cannot guard a thread's stack", SYS.mprotect, bottom, PAGE_SIZE, PROT_NONE);
  // Within the mapping: the last two words of the stack.
  new BigUint64Array(memory.buffer(offset + STACK_SIZE - 16, 16)).set([BigInt(argument), BigInt(entry)]);
  const all = new BigUint64Array([~(1n << BigInt(SIGKICK - 1))]), before = new BigUint64Array(1);
  // A thread inherits the mask.
  must("Cannot block signals", SYS.rt_sigprocmask, SIG_SETMASK, all, before, SIGSET_SIZE);
  const tid = Number(stub(FLAGS, bottom + STACK_SIZE - 16));
  must("Cannot unblock signals", SYS.rt_sigprocmask, SIG_SETMASK, before, 0, SIGSET_SIZE);
  if (tid < 0) throw new SysError("Cannot start a thread", -tid);
  return tid;
}
