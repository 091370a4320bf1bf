// What a vCPU has left the guest for, read from its kvm_run (linux/kvm.h, struct kvm_run) and answered in it. Hot path: numbers only.
import { KVM, kvm_run } from "../ffi/abi/kvm.ts";

/** How the machine answers; addresses and values are the guest's, unsigned, not checked yet. Sizes are 1, 2 or 4 bytes. */
export interface ExitHandler {
  portRead(port: number, size: number): number;
  portWrite(port: number, size: number, value: number): void;
  memoryRead(gpa: number, size: number): number;
  memoryWrite(gpa: number, size: number, value: number): void;
  /** A vCPU can't go on; `why` is an `End`, `detail` its exit reason, suberror or errno. */
  ended(why: number, detail: number): void;
}

/** Why the vCPUs run no more. */
export const End = { RESET: 1, SHUTDOWN: 2, INTERNAL_ERROR: 3, FAIL_ENTRY: 4, UNKNOWN_EXIT: 5, RUN_FAILED: 6 } as const;

/** Answers an exit; returns how many accesses it was. */
export function answerExit(run: DataView, handler: ExitHandler): number {
  const reason = run.getUint32(kvm_run.exit_reason, true);
  switch (reason) {
    case KVM.KVM_EXIT_IO: return answerPort(run, handler);
    case KVM.KVM_EXIT_MMIO: answerMemory(run, handler); break;
    case KVM.KVM_EXIT_INTR: break;
    case KVM.KVM_EXIT_SHUTDOWN: handler.ended(End.SHUTDOWN, 0); break;
    case KVM.KVM_EXIT_INTERNAL_ERROR: handler.ended(End.INTERNAL_ERROR, run.getUint32(kvm_run["internal.suberror"], true)); break;
    case KVM.KVM_EXIT_FAIL_ENTRY: handler.ended(End.FAIL_ENTRY, run.getUint32(kvm_run["fail_entry.hardware_entry_failure_reason"], true)); break;
    default: handler.ended(End.UNKNOWN_EXIT, reason);
  }
  return 1;
}

/** A string instruction (`rep outsb`) asks for many accesses at once: KVM hands over at most a page of them. */
function answerPort(run: DataView, handler: ExitHandler): number {
  const isWrite = run.getUint8(kvm_run["io.direction"]) === KVM.KVM_EXIT_IO_OUT;
  const size = run.getUint8(kvm_run["io.size"]), port = run.getUint16(kvm_run["io.port"], true);
  const count = run.getUint32(kvm_run["io.count"], true);
  const data = run.getUint32(kvm_run["io.data_offset"], true); // KVM's, in the page behind the structure
  for (let at = data, end = data + count * size; at < end; at += size) {
    if (isWrite) handler.portWrite(port, size, load(run, at, size));
    else store(run, at, size, handler.portRead(port, size));
  }
  return count;
}

/** KVM hands over what lies within one page, up to 8 bytes. No register is read by other sizes than these: reads are all ones then, writes are lost. */
function answerMemory(run: DataView, handler: ExitHandler): void {
  const gpa = run.getUint32(kvm_run["mmio.phys_addr"], true) + run.getUint32(kvm_run["mmio.phys_addr"] + 4, true) * 2 ** 32;
  const size = run.getUint32(kvm_run["mmio.len"], true), at = kvm_run["mmio.data"];
  const isWrite = run.getUint8(kvm_run["mmio.is_write"]) !== 0;
  if (size === 1 || size === 2 || size === 4) {
    if (isWrite) handler.memoryWrite(gpa, size, load(run, at, size));
    else store(run, at, size, handler.memoryRead(gpa, size));
  } else if (size === 8) {
    for (const half of HALVES) {
      if (isWrite) handler.memoryWrite(gpa + half, 4, load(run, at + half, 4));
      else store(run, at + half, 4, handler.memoryRead(gpa + half, 4));
    }
  } else if (!isWrite) {
    store(run, at, 4, 0xffffffff);
    store(run, at + 4, 4, 0xffffffff);
  }
}

const HALVES = [0, 4] as const;

/** 1, 2 or 4 bytes, unsigned. */
function load(view: DataView, at: number, size: number): number {
  if (size === 1) return view.getUint8(at);
  if (size === 2) return view.getUint16(at, true);
  return view.getUint32(at, true);
}

function store(view: DataView, at: number, size: number, value: number): void {
  if (size === 1) view.setUint8(at, value);
  else if (size === 2) view.setUint16(at, value, true);
  else view.setUint32(at, value, true);
}
