// Whether /dev/kvm can run an ordinary kernel: a tiny guest of our own in 64-bit mode at ring 0, over in milliseconds.
// It does what every kernel does and what a paravirtual KVM, which interprets ring 0, can't: cmpxchg16b, int3 through an IDT, fxsave.
import { E, errnoName } from "../../ffi/abi/errno.ts";
import { ioctls, KVM, kvm_cpuid2, kvm_cpuid_entry2, kvm_dtable, kvm_regs, kvm_run, kvm_segment, kvm_sregs, kvm_userspace_memory_region, kvm_xcrs } from "../../ffi/abi/kvm.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { closeFd, O_CLOEXEC, O_RDWR } from "../../ffi/fd.ts";
import { MAP_PRIVATE, MAP_SHARED, Mapping, PROT_READ, PROT_WRITE } from "../../ffi/memory.ts";
import { cstring, must, syscall, SysError } from "../../ffi/syscall.ts";

/** `missing`: no such device; `denied`: not ours to open; `unable`: a guest of ours failed in it. */
export type KvmProbe =
  /** `xsave`: KVM hears of XSETBV, so guests may have XSAVE and what needs it (QEMU's emulated SVM keeps it from KVM). */
  | { readonly able: true; readonly xsave: boolean }
  | { readonly able: false; readonly reason: "missing" | "denied" | "unable"; readonly found: string };

/** Guest physical addresses; all are mapped where they are. */
const PML4 = 0x1000, PDPT = 0x2000, PD = 0x3000, GDT = 0x4000, IDT = 0x5000, CODE = 0x6000, HANDLER = 0x6100, DATA = 0x7000, FX = 0x8000, STACK = 0xa000, SIZE = 0x10000;
const CODE_SELECTOR = 0x08, DATA_SELECTOR = 0x10;
const BREAKPOINT = 3;
const RESULT_PORT = 0xf4, EXPECTED = 0x2b;
const XCR0 = 3; // x87 and SSE

// rdi = DATA, rsi = FX
// prettier-ignore
const PROGRAM = [
  0x31, 0xc0,                   // xor eax, eax
  0x31, 0xd2,                   // xor edx, edx
  0x31, 0xc9,                   // xor ecx, ecx
  0xbb, 0x2a, 0x00, 0x00, 0x00, // mov ebx, 0x2a
  0xf0, 0x48, 0x0f, 0xc7, 0x0f, // lock cmpxchg16b [rdi]
  0xcc,                         // int3
  0x0f, 0xae, 0x06,             // fxsave [rsi]
  0x8a, 0x07,                   // mov al, [rdi]
  0x44, 0x00, 0xc0,             // add al, r8b
  0xe6, RESULT_PORT,            // out RESULT_PORT, al
  // KVM_RUN again: XSAVE is switched on. An exception here finds no handler: a triple fault.
  0x0f, 0x20, 0xe0,             // mov rax, cr4
  0x0f, 0xba, 0xe8, 18,         // bts eax, 18 (CR4.OSXSAVE)
  0x0f, 0x22, 0xe0,             // mov cr4, rax
  0x31, 0xc9,                   // xor ecx, ecx
  0x31, 0xd2,                   // xor edx, edx
  0xb8, XCR0, 0x00, 0x00, 0x00, // mov eax, XCR0
  0x0f, 0x01, 0xd1,             // xsetbv
  0xe6, RESULT_PORT,            // out RESULT_PORT, al
  0xf4,                         // hlt
];
// prettier-ignore
const ON_BREAKPOINT = [
  0x41, 0xb8, 0x01, 0x00, 0x00, 0x00, // mov r8d, 1
  0x48, 0xcf,                         // iretq
];

const PRESENT_WRITABLE = 0x3n, LARGE_PAGE = 0x80n;
const GDT_CODE64 = 0x00af9b000000ffffn, GDT_DATA = 0x00cf93000000ffffn;
const INTERRUPT_GATE = 0x8e00;

function writeGuest(memory: DataView): void {
  memory.setBigUint64(PML4, BigInt(PDPT) | PRESENT_WRITABLE, true);
  memory.setBigUint64(PDPT, BigInt(PD) | PRESENT_WRITABLE, true);
  memory.setBigUint64(PD, PRESENT_WRITABLE | LARGE_PAGE, true); // the first 2 MiB
  memory.setBigUint64(GDT + CODE_SELECTOR, GDT_CODE64, true);
  memory.setBigUint64(GDT + DATA_SELECTOR, GDT_DATA, true);
  const gate = IDT + BREAKPOINT * 16;
  memory.setUint16(gate, HANDLER, true);
  memory.setUint16(gate + 2, CODE_SELECTOR, true);
  memory.setUint16(gate + 4, INTERRUPT_GATE, true);
  const bytes = new Uint8Array(memory.buffer, memory.byteOffset, SIZE);
  bytes.set(PROGRAM, CODE);
  bytes.set(ON_BREAKPOINT, HANDLER);
}

const CR0 = 0x80050033n /* PG AM WP NE ET MP PE */, CR4 = 0x620n /* OSXMMEXCPT OSFXSR PAE */, EFER = 0x500n /* LMA LME */;
const CODE_TYPE = 11, DATA_TYPE = 3;

function setSegment(sregs: DataView, at: number, selector: number, type: number): void {
  const s = kvm_segment.at;
  sregs.setBigUint64(at + s.base, 0n, true);
  sregs.setUint32(at + s.limit, 0xffffffff, true);
  sregs.setUint16(at + s.selector, selector, true);
  const long = type === CODE_TYPE ? 1 : 0;
  for (const [field, value] of [[s.type, type], [s.present, 1], [s.dpl, 0], [s.db, 1 - long], [s.s, 1], [s.l, long], [s.g, 1], [s.unusable, 0]] as const) sregs.setUint8(at + field, value);
}

function enterLongMode(vcpu: number): void {
  const sregs = new DataView(new ArrayBuffer(kvm_sregs.size));
  must("Cannot read a vCPU's registers", SYS.ioctl, vcpu, ioctls.KVM_GET_SREGS, sregs);
  const at = kvm_sregs.at;
  setSegment(sregs, at.cs, CODE_SELECTOR, CODE_TYPE);
  for (const segment of [at.ds, at.es, at.fs, at.gs, at.ss]) setSegment(sregs, segment, DATA_SELECTOR, DATA_TYPE);
  for (const [table, base, limit] of [[at.gdt, GDT, 0x17], [at.idt, IDT, 0xfff]] as const) {
    sregs.setBigUint64(table + kvm_dtable.at.base, BigInt(base), true);
    sregs.setUint16(table + kvm_dtable.at.limit, limit, true);
  }
  sregs.setBigUint64(at.cr0, CR0, true);
  sregs.setBigUint64(at.cr3, BigInt(PML4), true);
  sregs.setBigUint64(at.cr4, CR4, true);
  sregs.setBigUint64(at.efer, EFER, true);
  must("Cannot enter 64-bit mode", SYS.ioctl, vcpu, ioctls.KVM_SET_SREGS, sregs);
  const regs = new DataView(new ArrayBuffer(kvm_regs.size));
  for (const [register, value] of [["rip", CODE], ["rsp", STACK], ["rdi", DATA], ["rsi", FX], ["rflags", 2]] as const) regs.setBigUint64(kvm_regs.at[register], BigInt(value), true);
  must("Cannot set a vCPU's registers", SYS.ioctl, vcpu, ioctls.KVM_SET_REGS, regs);
}

const MAX_CPUID_ENTRIES = 256;

function setCpuid(kvm: number, vcpu: number): void {
  const table = new DataView(new ArrayBuffer(kvm_cpuid2.size + MAX_CPUID_ENTRIES * kvm_cpuid_entry2.size));
  table.setUint32(kvm_cpuid2.at.nent, MAX_CPUID_ENTRIES, true);
  must("Cannot read KVM's CPU features", SYS.ioctl, kvm, ioctls.KVM_GET_SUPPORTED_CPUID, table);
  must("Cannot set a vCPU's features", SYS.ioctl, vcpu, ioctls.KVM_SET_CPUID2, table);
}

/** `own`: takes what must be undone, last first. */
function runGuest(kvm: number, own: (undo: () => void) => void): KvmProbe {
  const owned = (fd: number): number => (own(() => closeFd(fd)), fd);
  const version = must("Cannot ask for KVM's version", SYS.ioctl, kvm, ioctls.KVM_GET_API_VERSION);
  if (version !== KVM.KVM_API_VERSION) return unable(`KVM has API version ${version}, not ${KVM.KVM_API_VERSION}`);
  const vm = owned(must("Cannot create a virtual machine", SYS.ioctl, kvm, ioctls.KVM_CREATE_VM));
  // All accesses stay within SIZE bytes; unmapped after the last of them.
  const memory = Mapping.anonymous(SIZE, MAP_PRIVATE);
  own(() => memory.close());
  writeGuest(new DataView(memory.buffer()));
  const region = new DataView(new ArrayBuffer(kvm_userspace_memory_region.size));
  region.setBigUint64(kvm_userspace_memory_region.at.memory_size, BigInt(SIZE), true);
  region.setBigUint64(kvm_userspace_memory_region.at.userspace_addr, BigInt(memory.address), true);
  must("Cannot give memory to a virtual machine", SYS.ioctl, vm, ioctls.KVM_SET_USER_MEMORY_REGION, region);
  const vcpu = owned(must("Cannot create a vCPU", SYS.ioctl, vm, ioctls.KVM_CREATE_VCPU, 0));
  const run = Mapping.file(vcpu, must("Cannot size a vCPU", SYS.ioctl, kvm, ioctls.KVM_GET_VCPU_MMAP_SIZE), PROT_READ | PROT_WRITE, MAP_SHARED);
  own(() => run.close());
  setCpuid(kvm, vcpu);
  enterLongMode(vcpu);
  const exit = new DataView(run.buffer());
  const wrong = runToResult(vcpu, exit, EXPECTED);
  return wrong === null ? { able: true, xsave: keepsXsave(vcpu, exit) } : unable(wrong);
}

const unable = (found: string): KvmProbe => ({ able: false, reason: "unable", found });

/** Runs on to the next result; null when it is `expected`, else what came instead. */
function runToResult(vcpu: number, exit: DataView, expected: number): string | null {
  let status: number;
  do status = syscall(SYS.ioctl, vcpu, ioctls.KVM_RUN);
  while (status === -E.EINTR);
  if (status < 0) return `KVM_RUN failed: ${errnoName(-status)}`;
  const reason = exit.getUint32(kvm_run.exit_reason, true);
  if (reason === KVM.KVM_EXIT_INTERNAL_ERROR) return `it can't run kernel code: internal error ${exit.getUint32(kvm_run["internal.suberror"], true)} (a paravirtual KVM?)`;
  if (reason !== KVM.KVM_EXIT_IO || exit.getUint16(kvm_run["io.port"], true) !== RESULT_PORT) return `it can't run kernel code: a test guest ended with exit reason ${reason}`;
  const value = exit.getUint8(Number(exit.getBigUint64(kvm_run["io.data_offset"], true)));
  return value === expected ? null : `it runs kernel code wrong: a test guest answered ${value}, not ${expected}`;
}

/** Whether KVM knows what the guest has put into XCR0. */
function keepsXsave(vcpu: number, exit: DataView): boolean {
  if (runToResult(vcpu, exit, XCR0) !== null) return false;
  const xcrs = new DataView(new ArrayBuffer(kvm_xcrs.size));
  must("Cannot read a vCPU's XCRs", SYS.ioctl, vcpu, ioctls.KVM_GET_XCRS, xcrs);
  // The first of `struct kvm_xcr { u32 xcr, reserved; u64 value }` is XCR0.
  return xcrs.getUint32(kvm_xcrs.at.nr_xcrs, true) > 0 && xcrs.getBigUint64(kvm_xcrs.at.xcrs + 8, true) === BigInt(XCR0);
}

/** Tries it. Takes milliseconds and leaves nothing behind. */
export function probeKvm(path = "/dev/kvm"): KvmProbe {
  const kvm = syscall(SYS.open, cstring(path), O_RDWR | O_CLOEXEC);
  if (kvm < 0) return { able: false, reason: kvm === -E.EACCES || kvm === -E.EPERM ? "denied" : "missing", found: `${path}: ${errnoName(-kvm)}` };
  const cleanup: (() => void)[] = [() => closeFd(kvm)];
  try {
    return runGuest(kvm, (undo) => cleanup.push(undo));
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    return unable(error.message);
  } finally {
    for (const undo of cleanup.reverse()) undo();
  }
}
