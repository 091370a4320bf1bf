// Raw Linux x86-64 system calls through one machine-code stub.
// The stub returns -errno as the kernel does: libc's errno may be overwritten by the runtime between two FFI calls.
import { CFunction, FFIType, type Pointer } from "bun:ffi";
import { errnoName } from "./abi/errno.ts";
import { assemble, installCode, type Line } from "./code.ts";

// System V passes the seven arguments in rdi rsi rdx rcx r8 r9 [rsp+8]; the kernel wants rax rdi rsi rdx r10 r8 r9.
// prettier-ignore
export const SYSCALL_STUB: readonly Line[] = [
  ["mov rax, rdi",         0x48, 0x89, 0xf8],
  ["mov rdi, rsi",         0x48, 0x89, 0xf7],
  ["mov rsi, rdx",         0x48, 0x89, 0xd6],
  ["mov rdx, rcx",         0x48, 0x89, 0xca],
  ["mov r10, r8",          0x4d, 0x89, 0xc2],
  ["mov r8, r9",           0x4d, 0x89, 0xc8],
  ["mov r9, [rsp + 8]",    0x4c, 0x8b, 0x4c, 0x24, 0x08],
  ["syscall",              0x0f, 0x05],
  ["ret",                  0xc3],
];

const code = assemble(SYSCALL_STUB);
const stubAddress = installCode(code);
/** The lone `ret` behind the stub, for a signal handler that does nothing (see signal.ts). */
export const returnInstructionAddress = stubAddress + code.length - 1;

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
