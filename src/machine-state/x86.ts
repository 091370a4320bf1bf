// What lies in KVM of an x86-64 machine, as bytes. Every part is one KVM structure (Documentation/virt/kvm/api.rst); the
// sizes are those of src/ffi/abi/kvm.ts, but for XSAVE, MSRs and CPUID, which depend on the host.
import { kvm_clock_data, kvm_cpuid2, kvm_cpuid_entry2, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave } from "../ffi/abi/kvm.ts";
import { corrupted } from "./container.ts";

type Bytes = Uint8Array<ArrayBuffer>;

export interface VcpuState {
  readonly mpState: Bytes;
  readonly regs: Bytes;
  readonly sregs: Bytes;
  readonly xsave: Bytes;
  readonly xcrs: Bytes;
  readonly debugRegs: Bytes;
  readonly lapic: Bytes;
  /** `struct kvm_msr_entry`, one after the other. */
  readonly msrs: Bytes;
  readonly events: Bytes;
  /** What this vCPU sees: `struct kvm_cpuid2`. */
  readonly cpuid: Bytes;
  readonly tscKhz: number;
}

export interface VmState {
  readonly irqchips: readonly [Bytes, Bytes, Bytes];
  readonly pit: Bytes;
  readonly clock: Bytes;
}

/** Parts of a vCPU in the order of the file: name, size, and whether it is a multiple (plus `header`) of the size. */
const VCPU_PARTS = [
  ["mpState", kvm_mp_state.size], ["regs", kvm_regs.size], ["sregs", kvm_sregs.size], ["xsave", kvm_xsave.size, "at least"], ["xcrs", kvm_xcrs.size],
  ["debugRegs", kvm_debugregs.size], ["lapic", kvm_lapic_state.size], ["msrs", kvm_msr_entry.size, "times"], ["events", kvm_vcpu_events.size], ["cpuid", kvm_cpuid_entry2.size, "table"],
] as const;
const VM_PARTS = [kvm_irqchip.size, kvm_irqchip.size, kvm_irqchip.size, kvm_pit_state2.size, kvm_clock_data.size] as const;
const LENGTH = 4;

/** Parts one after another, each behind its length (u32). */
function join(parts: readonly Uint8Array[]): Bytes {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + LENGTH + part.length, 0)), view = new DataView(bytes.buffer);
  let at = 0;
  for (const part of parts) {
    view.setUint32(at, part.length, true);
    bytes.set(part, at + LENGTH);
    at += LENGTH + part.length;
  }
  return bytes;
}

/** Copies, by memory and not by element: what KVM is given must not be a view of something larger. */
function split(bytes: Uint8Array): Bytes[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length), parts: Bytes[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = at + LENGTH <= bytes.length ? view.getUint32(at, true) : Infinity;
    if (at + LENGTH + length > bytes.length) throw corrupted("a part of its CPU state is cut off");
    parts.push(new Uint8Array(bytes.subarray(at + LENGTH, at + LENGTH + length)));
    at += LENGTH + length;
  }
  return parts;
}

export function encodeVcpu(state: VcpuState): Bytes {
  const tsc = new Uint8Array(4);
  new DataView(tsc.buffer).setUint32(0, state.tscKhz, true);
  return join([...VCPU_PARTS.map(([name]) => state[name]), tsc]);
}

export function decodeVcpu(bytes: Uint8Array): VcpuState {
  const parts = split(bytes), tsc = parts.at(-1);
  if (parts.length !== VCPU_PARTS.length + 1 || tsc?.length !== 4) throw corrupted("its CPU state is incomplete");
  VCPU_PARTS.forEach(([name, size, how], i) => {
    const { length } = parts[i]!;
    const fits = how === "at least" ? length >= size : how === "times" ? length % size === 0 : how === "table" ? length >= kvm_cpuid2.size && (length - kvm_cpuid2.size) % size === 0 : length === size;
    if (!fits) throw corrupted(`${name} of its CPU state has ${length} bytes`);
  });
  const named = Object.fromEntries(VCPU_PARTS.map(([name], i) => [name, parts[i]!])) as Record<(typeof VCPU_PARTS)[number][0], Bytes>;
  return { ...named, tscKhz: new DataView(tsc.buffer).getUint32(0, true) };
}

export const encodeVm = (state: VmState): Bytes => join([...state.irqchips, state.pit, state.clock]);

export function decodeVm(bytes: Uint8Array): VmState {
  const parts = split(bytes);
  if (parts.length !== VM_PARTS.length || parts.some((part, i) => part.length !== VM_PARTS[i])) throw corrupted("its interrupt controllers or clocks are incomplete");
  return { irqchips: [parts[0]!, parts[1]!, parts[2]!], pit: parts[3]!, clock: parts[4]! };
}
