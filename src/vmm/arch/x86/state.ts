// All of a machine that lies in KVM: what is read while the vCPUs are parked, and written back into a new machine.
// Every part is the bytes of one KVM structure (Documentation/virt/kvm/api.rst). The order of restoring matters.
import { KVM, kvm_clock_data, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_msrs, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave } from "../../../ffi/abi/kvm.ts";
import { errnoName } from "../../../ffi/abi/errno.ts";
import type { VcpuState, VmState } from "../../../machine-state/x86.ts";
import type { Kvm, Vcpu, Vm } from "../../kvm.ts";

type Bytes = Uint8Array<ArrayBuffer>;

const MSR_TSC = 0x10, MSR_TSC_DEADLINE = 0x6e0;
const CHIPS = [KVM.KVM_IRQCHIP_PIC_MASTER, KVM.KVM_IRQCHIP_PIC_SLAVE, KVM.KVM_IRQCHIP_IOAPIC] as const;
/** The kernel's limit on one KVM_GET_MSRS (MAX_IO_MSRS). */
const MSRS_AT_ONCE = 256;

type Ioctl = Parameters<Vcpu["tryIoctl"]>[0];
interface Ioctls { tryIoctl(name: Ioctl, arg?: number | NodeJS.TypedArray | DataView): number }

function call(on: Ioctls, name: Ioctl, arg: number | NodeJS.TypedArray | DataView = 0): number {
  const result = on.tryIoctl(name, arg);
  if (result < 0) throw new Error(`KVM refused ${name}: ${errnoName(-result)}`);
  return result;
}

function get(on: Ioctls, name: Ioctl, size: number): Bytes {
  const bytes = new Uint8Array(size);
  call(on, name, bytes);
  return bytes;
}

/** What reads the state of vCPUs on this host; asks KVM once which MSRs and how much XSAVE there is. */
export class StateReader {
  private readonly msrIndices: number[];
  private readonly xsaveSize: number;

  constructor(kvm: Kvm) {
    this.msrIndices = kvm.msrIndices();
    this.xsaveSize = Math.max(kvm.extension(KVM.KVM_CAP_XSAVE2), kvm_xsave.size);
  }

  /** Only while the vCPU is parked. */
  saveVcpu(vcpu: Vcpu): Omit<VcpuState, "cpuid"> {
    return {
      mpState: get(vcpu, "KVM_GET_MP_STATE", kvm_mp_state.size), // first: it makes KVM take in pending INIT and SIPI
      regs: get(vcpu, "KVM_GET_REGS", kvm_regs.size),
      sregs: get(vcpu, "KVM_GET_SREGS", kvm_sregs.size),
      xsave: get(vcpu, this.xsaveSize > kvm_xsave.size ? "KVM_GET_XSAVE2" : "KVM_GET_XSAVE", this.xsaveSize),
      xcrs: get(vcpu, "KVM_GET_XCRS", kvm_xcrs.size),
      debugRegs: get(vcpu, "KVM_GET_DEBUGREGS", kvm_debugregs.size),
      lapic: get(vcpu, "KVM_GET_LAPIC", kvm_lapic_state.size),
      msrs: this.saveMsrs(vcpu),
      events: get(vcpu, "KVM_GET_VCPU_EVENTS", kvm_vcpu_events.size),
      tscKhz: call(vcpu, "KVM_GET_TSC_KHZ"),
    };
  }

  /** KVM stops at the first MSR that it can't read: that one is left out, and reading goes on behind it. */
  private saveMsrs(vcpu: Vcpu): Bytes {
    const entries: Bytes[] = [];
    for (let at = 0; at < this.msrIndices.length; ) {
      const batch = this.msrIndices.slice(at, at + MSRS_AT_ONCE);
      const request = msrRequest(batch.length);
      batch.forEach((index, i) => request.view.setUint32(kvm_msrs.size + i * kvm_msr_entry.size, index, true));
      const read = call(vcpu, "KVM_GET_MSRS", request.bytes);
      entries.push(request.bytes.slice(kvm_msrs.size, kvm_msrs.size + read * kvm_msr_entry.size));
      at += read < batch.length ? read + 1 : read;
    }
    return deadlineLast(Buffer.concat(entries));
  }
}

/** Into a vCPU that has its CPUID and has not run. */
export function restoreVcpu(vcpu: Vcpu, state: VcpuState): void {
  // A host without TSC scaling can only run at its own frequency.
  if (call(vcpu, "KVM_GET_TSC_KHZ") !== state.tscKhz) call(vcpu, "KVM_SET_TSC_KHZ", state.tscKhz);
  call(vcpu, "KVM_SET_MP_STATE", state.mpState);
  call(vcpu, "KVM_SET_REGS", state.regs);
  call(vcpu, "KVM_SET_SREGS", state.sregs);
  call(vcpu, "KVM_SET_XSAVE", state.xsave);
  call(vcpu, "KVM_SET_XCRS", state.xcrs);
  call(vcpu, "KVM_SET_DEBUGREGS", state.debugRegs);
  call(vcpu, "KVM_SET_LAPIC", state.lapic);
  restoreMsrs(vcpu, state.msrs);
  call(vcpu, "KVM_SET_VCPU_EVENTS", state.events);
}

function restoreMsrs(vcpu: Vcpu, msrs: Bytes): void {
  const { size } = kvm_msr_entry;
  for (let at = 0; at < msrs.length; ) {
    const count = Math.min(MSRS_AT_ONCE, (msrs.length - at) / size);
    const request = msrRequest(count);
    request.bytes.set(msrs.subarray(at, at + count * size), kvm_msrs.size);
    const written = call(vcpu, "KVM_SET_MSRS", request.bytes);
    at += written * size;
    if (written === count) continue;
    const refused = new DataView(msrs.buffer, msrs.byteOffset + at, size).getUint32(0, true);
    throw new Error(`KVM refused to restore MSR 0x${refused.toString(16)}: this host's CPU lacks what the snapshot's had`);
  }
}

/** Only while all vCPUs are parked. */
export function saveVm(vm: Vm): VmState {
  const chip = (id: number) => {
    const bytes = new Uint8Array(kvm_irqchip.size);
    new DataView(bytes.buffer).setUint32(kvm_irqchip.at.chip_id, id, true);
    call(vm, "KVM_GET_IRQCHIP", bytes);
    return bytes;
  };
  return {
    irqchips: [chip(CHIPS[0]), chip(CHIPS[1]), chip(CHIPS[2])],
    pit: get(vm, "KVM_GET_PIT2", kvm_pit_state2.size),
    clock: get(vm, "KVM_GET_CLOCK", kvm_clock_data.size),
  };
}

/** After all vCPUs have been restored. */
export function restoreVm(vm: Vm, state: VmState): void {
  for (const chip of state.irqchips) call(vm, "KVM_SET_IRQCHIP", chip);
  call(vm, "KVM_SET_PIT2", state.pit);
  // Only the guest's clock: with flags KVM would add the time slept, and timers would fire all at once.
  const clock = new Uint8Array(kvm_clock_data.size);
  clock.set(state.clock.subarray(0, 8));
  call(vm, "KVM_SET_CLOCK", clock);
}

/** Tells a guest with a kvm-clock that it was stopped, so that its watchdogs don't bark. Not every guest has one (EINVAL). */
export function tellPaused(vcpu: Vcpu): void {
  vcpu.tryIoctl("KVM_KVMCLOCK_CTRL");
}

function msrRequest(count: number): { bytes: Bytes; view: DataView } {
  const bytes = new Uint8Array(kvm_msrs.size + count * kvm_msr_entry.size);
  const view = new DataView(bytes.buffer);
  view.setUint32(kvm_msrs.at.nmsrs, count, true);
  return { bytes, view };
}

/**
 * TSC_DEADLINE to the end, behind the TSC that it is compared with. A deadline that has just expired reads 0, which would
 * disarm the timer of a guest that still waits for its interrupt: the TSC itself makes it fire at once.
 */
function deadlineLast(msrs: Bytes): Bytes {
  const { size, at } = kvm_msr_entry;
  const view = new DataView(msrs.buffer, msrs.byteOffset, msrs.length);
  const find = (index: number) => {
    for (let i = 0; i < msrs.length; i += size) if (view.getUint32(i, true) === index) return i;
    return -1;
  };
  const deadline = find(MSR_TSC_DEADLINE);
  if (deadline < 0) return new Uint8Array(msrs);
  const entry = msrs.slice(deadline, deadline + size);
  const value = new DataView(entry.buffer, entry.byteOffset, size);
  const tsc = find(MSR_TSC);
  if (value.getBigUint64(at.data, true) === 0n && tsc >= 0) value.setBigUint64(at.data, view.getBigUint64(tsc + at.data, true), true);
  return new Uint8Array(Buffer.concat([msrs.subarray(0, deadline), msrs.subarray(deadline + size), entry]));
}
