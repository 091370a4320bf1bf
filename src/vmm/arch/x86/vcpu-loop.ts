// What a vCPU's thread does, in machine code: KVM_RUN, and hand every exit to the main thread. It shares a block of memory with main,
// whose first word says whose turn it is: only that side touches the rest of the block and the vCPU's kvm_run.
//
// How no wake-up is lost, either way:
// - vCPU to main: the vCPU first gives the turn (xchg, a full barrier), then looks whether main looks; main first says that it looks no
//   more (a sequentially consistent store), then looks at the turns once more. One of the two sees the other: a turn that main misses
//   comes with a signal on the eventfd.
// - main to vCPU: both change the word by one atomic instruction. The vCPU turns MAINS into MAINS_VCPU_SLEEPS before it sleeps, and
//   FUTEX_WAIT sleeps only while the word is that; main swaps VCPUS in and wakes whom the old value says to be asleep. A wake-up that
//   comes before the sleep has changed the word, so there is no sleep.
// - a kick (Vcpus.park): main sets immediate_exit, then sends the signal. One that arrives in KVM_RUN interrupts it. One that arrives
//   before has gone by then, but so has the store before it: KVM_RUN finds immediate_exit set and comes back at once. Anywhere else a
//   kick does nothing: the loop takes no answer from it.
import { CFunction, FFIType, type Pointer } from "bun:ffi";
import { SYS } from "../../../ffi/abi/syscalls.ts";
import { ioctls } from "../../../ffi/abi/kvm.ts";
import { assemble, installCode, type Line } from "../../../ffi/code.ts";

/** Values of a block's first word. */
export const Turn = { VCPUS: 0, MAINS: 1, MAINS_VCPU_SLEEPS: 2 } as const;

/** A block by byte offsets; 32-bit words unless it says otherwise. All but the first two are set once, before the thread starts. */
export const Block = {
  TURN: 0,
  /** What KVM_RUN has returned: 0 or -errno. */
  RESULT: 4,
  VCPU_FD: 8,
  /** An eventfd: main's signal. */
  MAIN_FD: 12,
  /** How often to look for the turn before sleeping. */
  LOOKS: 16,
  /** Eight bytes, 1: what is written to the eventfd. */
  ONE: 24,
  /** Eight bytes: the address of a word that is 0 unless main looks for turns by itself. */
  MAIN_LOOKS: 32,
} as const;

const FUTEX_WAIT_PRIVATE = 0x80; // linux/futex.h: FUTEX_WAIT | FUTEX_PRIVATE_FLAG
const u32 = (value: number) => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24] as const;

/** A thread's code; rdi is its block. The kernel keeps all registers but rax, rcx and r11. */
// prettier-ignore
export const VCPU_LOOP: readonly Line[] = [
  ["mov rbx, rdi",                        0x48, 0x89, 0xfb],
  ["jmp wait",                            0xeb],
  ["run:"],
  ["mov edi, [rbx + 8]",                  0x8b, 0x7b, Block.VCPU_FD],
  ["mov esi, 0xae80",                     0xbe, ...u32(ioctls.KVM_RUN)],
  ["xor edx, edx",                        0x31, 0xd2],
  ["mov eax, 16",                         0xb8, ...u32(SYS.ioctl)],
  ["syscall",                             0x0f, 0x05],
  ["mov [rbx + 4], eax",                  0x89, 0x43, Block.RESULT],
  ["mov eax, 1",                          0xb8, ...u32(Turn.MAINS)],
  ["xchg [rbx], eax",                     0x87, 0x03],
  ["mov rax, [rbx + 32]",                 0x48, 0x8b, 0x43, Block.MAIN_LOOKS],
  ["cmp dword ptr [rax], 0",              0x83, 0x38, 0x00],
  ["jnz wait",                            0x75],
  ["mov edi, [rbx + 12]",                 0x8b, 0x7b, Block.MAIN_FD],
  ["lea rsi, [rbx + 24]",                 0x48, 0x8d, 0x73, Block.ONE],
  ["mov edx, 8",                          0xba, ...u32(8)],
  ["mov eax, 1",                          0xb8, ...u32(SYS.write)],
  ["syscall",                             0x0f, 0x05],
  ["wait:"],
  ["mov ecx, [rbx + 16]",                 0x8b, 0x4b, Block.LOOKS],
  ["look:"],
  ["cmp dword ptr [rbx], 0",              0x83, 0x3b, Turn.VCPUS],
  ["jz run",                              0x74],
  ["pause",                               0xf3, 0x90],
  ["sub ecx, 1",                          0x83, 0xe9, 0x01],
  ["jg look",                             0x7f],
  ["sleep:"],
  ["mov eax, 1",                          0xb8, ...u32(Turn.MAINS)],
  ["mov edx, 2",                          0xba, ...u32(Turn.MAINS_VCPU_SLEEPS)],
  ["lock cmpxchg [rbx], edx",             0xf0, 0x0f, 0xb1, 0x13],
  ["mov rdi, rbx",                        0x48, 0x89, 0xdf],
  ["mov esi, 0x80",                       0xbe, ...u32(FUTEX_WAIT_PRIVATE)],
  ["xor r10d, r10d",                      0x45, 0x31, 0xd2], // for as long as it takes
  ["mov eax, 202",                        0xb8, ...u32(SYS.futex)],
  ["syscall",                             0x0f, 0x05],
  ["cmp dword ptr [rbx], 0",              0x83, 0x3b, Turn.VCPUS],
  ["jz run",                              0x74],
  ["jmp sleep",                           0xeb],             // a signal
];

/** Bytes from one vCPU's block to the next one's. */
export const BLOCK_STRIDE = 0xa000;

/**
 * Main's look for turns: (first block, number of blocks, looks) in rdi, esi, edx; returns 1 as soon as a turn is main's, or 0 after
 * so many looks. In machine code because JavaScript's loops are slow until they are compiled, and a boot is over by then.
 */
// prettier-ignore
export const TURN_LOOK: readonly Line[] = [
  ["again:"],
  ["mov rax, rdi",                        0x48, 0x89, 0xf8],
  ["mov ecx, esi",                        0x89, 0xf1],
  ["next:"],
  ["cmp dword ptr [rax], 0",              0x83, 0x38, Turn.VCPUS],
  ["jnz found",                           0x75],
  ["add rax, 0xa000",                     0x48, 0x05, ...u32(BLOCK_STRIDE)],
  ["sub ecx, 1",                          0x83, 0xe9, 0x01],
  ["jnz next",                            0x75],
  ["pause",                               0xf3, 0x90],
  ["sub edx, 1",                          0x83, 0xea, 0x01],
  ["jg again",                            0x7f],
  ["xor eax, eax",                        0x31, 0xc0],
  ["ret",                                 0xc3],
  ["found:"],
  ["mov eax, 1",                          0xb8, ...u32(1)],
  ["ret",                                 0xc3],
];

// Both in one page, made as this module is loaded: no guest waits for it yet.
const loop = assemble(VCPU_LOOP), page = installCode(Uint8Array.from([...loop, ...assemble(TURN_LOOK)]));

/** Where a vCPU's thread starts, with its block in rdi. */
export const vcpuLoopAddress = page;

export const lookForTurn = CFunction({ ptr: (page + loop.length) as Pointer, args: [FFIType.u64, FFIType.i32, FFIType.i32], returns: FFIType.i32 }) as unknown as (firstBlock: number, blocks: number, looks: number) => number;
