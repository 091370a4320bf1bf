// Raw Linux x86-64 system calls through one machine-code stub.
// The stub returns -errno as the kernel does: libc's errno may be overwritten by the runtime between two FFI calls.
import { CFunction, dlopen, FFIType, toArrayBuffer, type Pointer } from "bun:ffi";
import { errnoName } from "./abi/errno.ts";

const PROT_READ = 1, PROT_WRITE = 2, PROT_EXEC = 4;
const MAP_PRIVATE = 0x02, MAP_ANONYMOUS = 0x20;

// System V passes the seven arguments in rdi rsi rdx rcx r8 r9 [rsp+8]; the kernel wants rax rdi rsi rdx r10 r8 r9.
// prettier-ignore
const SYSCALL_STUB = new Uint8Array([
  0x48, 0x89, 0xf8,             // mov rax, rdi
  0x48, 0x89, 0xf7,             // mov rdi, rsi
  0x48, 0x89, 0xd6,             // mov rsi, rdx
  0x48, 0x89, 0xca,             // mov rdx, rcx
  0x4d, 0x89, 0xc2,             // mov r10, r8
  0x4d, 0x89, 0xc8,             // mov r8, r9
  0x4c, 0x8b, 0x4c, 0x24, 0x08, // mov r9, [rsp+8]
  0x0f, 0x05,                   // syscall
  0xc3,                         // ret
]);
/** A lone `ret` behind the stub, for a signal handler that does nothing (see signal.ts). */
const RET_OFFSET = SYSCALL_STUB.length - 1;

const libc = dlopen("libc.so.6", {
  mmap: { args: [FFIType.u64, FFIType.u64, FFIType.i32, FFIType.i32, FFIType.i32, FFIType.i64], returns: FFIType.ptr },
  mprotect: { args: [FFIType.u64, FFIType.u64, FFIType.i32], returns: FFIType.i32 },
});

function installStub(): number {
  const page = libc.symbols.mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page === null || Number(page) === -1) throw new Error("Cannot map a page for the system-call stub");
  // The page lives as long as the process; 26 bytes of 4,096 are written, then it becomes read-only and executable.
  new Uint8Array(toArrayBuffer(page, 0, 4096)).set(SYSCALL_STUB);
  if (libc.symbols.mprotect(Number(page), 4096, PROT_READ | PROT_EXEC) !== 0)
    throw new Error("Cannot make the system-call stub executable: the host forbids it (SELinux execmem?)");
  return Number(page);
}

const stubAddress = installStub();
export const returnInstructionAddress = stubAddress + RET_OFFSET;

/** An integer, an address, or memory that stays referenced for the time of the call. */
export type Arg = number | NodeJS.TypedArray | DataView;

const stub = CFunction({
  ptr: stubAddress as Pointer,
  args: [FFIType.i32, FFIType.ptr, FFIType.ptr, FFIType.ptr, FFIType.ptr, FFIType.ptr, FFIType.ptr],
  returns: FFIType.i64_fast,
}) as unknown as (nr: number, a: Arg, b: Arg, c: Arg, d: Arg, e: Arg, f: Arg) => number | bigint;

/**
 * Makes one system call. Returns what the kernel returns: a value, or -errno; never throws.
 * Negative integers must be passed as unsigned (`-1 >>> 0`): the kernel reads the low half of an `int`.
 */
export function syscall(nr: number, a: Arg = 0, b: Arg = 0, c: Arg = 0, d: Arg = 0, e: Arg = 0, f: Arg = 0): number {
  return Number(stub(nr, a, b, c, d, e, f));
}

/** A system call that failed where the caller can only give up. `errno` is positive. */
export class SysError extends Error {
  override readonly name = "SysError";
  constructor(readonly what: string, readonly errno: number) {
    super(`${what}: ${errnoName(errno)}`);
  }
}

/** Like `syscall`, but throws a SysError naming `what` could not be done. */
export function must(what: string, nr: number, a: Arg = 0, b: Arg = 0, c: Arg = 0, d: Arg = 0, e: Arg = 0, f: Arg = 0): number {
  const result = syscall(nr, a, b, c, d, e, f);
  if (result < 0) throw new SysError(what, -result);
  return result;
}

/** A NUL-terminated copy of a string, for a path argument. */
export const cstring = (text: string): Uint8Array => {
  if (text.includes("\0")) throw new Error("Cannot pass a string with a NUL byte to the kernel");
  return Buffer.from(text + "\0");
};
