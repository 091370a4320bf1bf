// Machine code in TypeScript: pages that may be executed, and the least of an assembler: bytes beside what they mean, and labels.
// test/ffi/code.test.ts has the texts assembled by gcc and compares.
import { dlopen, FFIType, toArrayBuffer } from "bun:ffi";

const PROT_READ = 1, PROT_WRITE = 2, PROT_EXEC = 4;
const MAP_PRIVATE = 0x02, MAP_ANONYMOUS = 0x20;
const PAGE_SIZE = 4096;

// libc's, since the stub for system calls is itself installed here.
const libc = dlopen("libc.so.6", {
  mmap: { args: [FFIType.u64, FFIType.u64, FFIType.i32, FFIType.i32, FFIType.i32, FFIType.i64], returns: FFIType.ptr },
  mprotect: { args: [FFIType.u64, FFIType.u64, FFIType.i32], returns: FFIType.i32 },
});

/** Puts `code`, at most a page of it, into a page that can only be read and executed, and lives as long as the process. Returns its address. */
export function installCode(code: Uint8Array): number {
  if (code.length > PAGE_SIZE) throw new Error(`Cannot install ${code.length} bytes of machine code: a page holds ${PAGE_SIZE}`);
  const page = libc.symbols.mmap(0, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page === null || Number(page) === -1) throw new Error("Cannot map a page for machine code");
  new Uint8Array(toArrayBuffer(page, 0, PAGE_SIZE)).set(code); // the view is not kept: the page becomes read-only
  if (libc.symbols.mprotect(Number(page), PAGE_SIZE, PROT_READ | PROT_EXEC) !== 0)
    throw new Error("Cannot make machine code executable: the host forbids it (SELinux execmem?)");
  return Number(page);
}

/**
 * One line of a program: the instruction in Intel's syntax, then its bytes. A text with a colon at its end is a label and has no
 * bytes; behind the opcode of a short jump, whose text is `jxx label`, the distance is filled in.
 */
export type Line = readonly [text: string, ...bytes: readonly number[]];

const LABEL = /^(\w+):$/, SHORT_JUMP = /^j\w+ (\w+)$/;

export function assemble(program: readonly Line[]): Uint8Array {
  const labels = new Map<string, number>();
  let size = 0;
  for (const line of program) {
    const label = LABEL.exec(line[0])?.[1];
    if (label !== undefined) labels.set(label, size);
    size += line.length - 1 + (SHORT_JUMP.test(line[0]) ? 1 : 0);
  }
  const code: number[] = [];
  for (const [text, ...bytes] of program) {
    code.push(...bytes);
    const name = SHORT_JUMP.exec(text)?.[1];
    if (name === undefined) continue;
    const to = labels.get(name), distance = (to ?? 0) - (code.length + 1); // counted from the next instruction
    if (to === undefined || distance < -128 || distance > 127) throw new Error(`Cannot jump to ${name}: ${to === undefined ? "no such label" : "too far"}`);
    code.push(distance & 0xff);
  }
  return Uint8Array.from(code);
}
