// The CPUID leaves that a guest sees: KVM_GET_SUPPORTED_CPUID made consistent for each vCPU.
// Leaves: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.
import { KVM, kvm_cpuid2, kvm_cpuid_entry2 } from "../../../ffi/abi/kvm.ts";

// Leaf 1.
const ECX_VMX = 1 << 5, ECX_TSC_DEADLINE = 1 << 24, ECX_HYPERVISOR = 1 << 31, EDX_HTT = 1 << 28;
/** FMA, XSAVE, OSXSAVE, AVX, F16C. */
const ECX_XSAVE_FAMILY = (1 << 12) | (1 << 26) | (1 << 27) | (1 << 28) | (1 << 29);
// Leaf 7: AVX2 and AVX512*; PKU, OSPKE, VAES, VPCLMULQDQ, AVX512*; AVX512*, AMX*.
const L7_EBX_XSAVE_FAMILY = (1 << 5) | (1 << 16) | (1 << 17) | (1 << 21) | (1 << 26) | (1 << 27) | (1 << 28) | (1 << 30) | (1 << 31);
const L7_ECX_XSAVE_FAMILY = (1 << 1) | (1 << 3) | (1 << 4) | (1 << 6) | (1 << 9) | (1 << 10) | (1 << 11) | (1 << 12) | (1 << 14);
const L7_EDX_XSAVE_FAMILY = (1 << 2) | (1 << 3) | (1 << 8) | (1 << 22) | (1 << 23) | (1 << 24) | (1 << 25);
const EXT_ECX_SVM = 1 << 2; // leaf 0x80000001
/** XOP and FMA4, in leaf 0x80000001 ECX. */
const EXT_ECX_XSAVE_FAMILY = (1 << 11) | (1 << 16);
const EDX_INVARIANT_TSC = 1 << 8; // leaf 0x80000007
/** Offset of a register in an entry. */
const { eax, ebx, ecx, edx } = kvm_cpuid_entry2.at;

interface Entry { readonly leaf: number; readonly index: number; readonly base: number }

function entries(table: DataView): Entry[] {
  const count = table.getUint32(kvm_cpuid2.at.nent, true);
  return Array.from({ length: count }, (_, i) => {
    const base = kvm_cpuid2.size + i * kvm_cpuid_entry2.size;
    return { leaf: table.getUint32(base, true), index: table.getUint32(base + kvm_cpuid_entry2.at.index, true), base };
  });
}

/** Bits of XCR0 that leaf 0xD sub-leaf 0 offers; sub-leaves of other components must not be seen. */
function xcr0Mask(table: DataView, all: Entry[]): bigint {
  const entry = all.find((e) => e.leaf === 0xd && e.index === 0);
  if (entry === undefined) return 0n;
  return (BigInt(table.getUint32(entry.base + edx, true)) << 32n) | BigInt(table.getUint32(entry.base + eax, true));
}

export interface CpuidOptions {
  /** The vCPU, and how many there are: one package of `count` cores with one thread each; APIC id = index. */
  readonly index: number;
  readonly count: number;
  /** KVM_CAP_TSC_DEADLINE_TIMER: GET_SUPPORTED_CPUID leaves the bit out. */
  readonly tscDeadline: boolean;
  /** False hides XSAVE and all that needs it, where the host's KVM doesn't hear of XSETBV (some emulated CPUs). */
  readonly xsave: boolean;
}

/** The table for one vCPU, from the host's `supported` one (left unchanged). Nested virtualization is hidden. */
export function cpuidFor(supported: DataView, options: CpuidOptions): DataView {
  const bytes = new Uint8Array(supported.buffer, supported.byteOffset, supported.byteLength).slice();
  const table = new DataView(bytes.buffer), all = entries(table), xcr0 = xcr0Mask(table, all);
  for (const entry of all) {
    setFeatures(table, entry, options, xcr0);
    setTopology(table, entry, options);
  }
  return table;
}

/** What the processor can. */
function setFeatures(table: DataView, { leaf, index: sub, base }: Entry, { tscDeadline, xsave }: CpuidOptions, xcr0: bigint): void {
  const set = (register: number, value: number) => table.setUint32(base + register, value >>> 0, true);
  const hide = (register: number, bits: number) => set(register, table.getUint32(base + register, true) & ~bits);
  const hideAll = () => [eax, ebx, ecx, edx].forEach((register) => set(register, 0));
  switch (leaf) {
    case 0x1:
      hide(ecx, ECX_VMX | ECX_TSC_DEADLINE | (xsave ? 0 : ECX_XSAVE_FAMILY));
      // Without ECX_HYPERVISOR a guest looks for no KVM, and has no kvm-clock.
      set(ecx, table.getUint32(base + ecx, true) | ECX_HYPERVISOR | (tscDeadline ? ECX_TSC_DEADLINE : 0));
      return;
    case 0x7:
      if (xsave) return;
      if (sub !== 0) return hideAll();
      hide(ebx, L7_EBX_XSAVE_FAMILY);
      hide(ecx, L7_ECX_XSAVE_FAMILY);
      return hide(edx, L7_EDX_XSAVE_FAMILY);
    case 0xd:
      // QEMU's emulated CPU passes sub-leaves of components on that sub-leaf 0 doesn't offer.
      if (!xsave || (sub >= 2 && sub < 64 && (xcr0 & (1n << BigInt(sub))) === 0n)) hideAll();
      return;
    case 0x80000001: return hide(ecx, EXT_ECX_SVM | (xsave ? 0 : EXT_ECX_XSAVE_FAMILY));
    case 0x8000000a: return hideAll(); // SVM's own features
    // A snapshot may wake on a host with another frequency: the guest must not trust the TSC for ever.
    case 0x80000007: return hide(edx, EDX_INVARIANT_TSC);
  }
}

/** Which processor of how many it is. */
function setTopology(table: DataView, { leaf, index: sub, base }: Entry, { index, count }: CpuidOptions): void {
  const set = (register: number, value: number) => table.setUint32(base + register, value >>> 0, true);
  const get = (register: number) => table.getUint32(base + register, true);
  /** log2 of the smallest power of two that holds all APIC ids. */
  const apicBits = Math.ceil(Math.log2(Math.max(count, 1)));
  switch (leaf) {
    case 0x1:
      set(ebx, (index << 24) | (Math.min(count, 255) << 16) | (get(ebx) & 0xffff));
      return set(edx, count > 1 ? get(edx) | EDX_HTT : get(edx) & ~EDX_HTT);
    case 0x4: // of a cache: cores of this package in 31:26, threads that share it in 25:14
      if ((get(eax) & 0x1f) !== 0) set(eax, (get(eax) & 0x3fff) | ((2 ** apicBits - 1) << 26));
      return;
    case 0xb: case 0x1f: // extended: level 0 thread, level 1 core
      return topologyLevel(table, base, sub, index, count, apicBits);
    case 0x80000008: // ECX 7:0 cores - 1, 15:12 bits of the APIC id
      return set(ecx, (apicBits << 12) | (count - 1));
    case 0x8000001e: // extended APIC id, core id, one node
      set(eax, index);
      set(ebx, index & 0xff);
      return set(ecx, 0);
  }
}

function topologyLevel(table: DataView, base: number, level: number, index: number, count: number, apicBits: number): void {
  const TYPE_INVALID = 0, TYPE_SMT = 1, TYPE_CORE = 2;
  const type = level === 0 ? TYPE_SMT : level === 1 ? TYPE_CORE : TYPE_INVALID;
  table.setUint32(base + kvm_cpuid_entry2.at.flags, KVM.KVM_CPUID_FLAG_SIGNIFCANT_INDEX, true);
  table.setUint32(base + eax, type === TYPE_CORE ? apicBits : 0, true);
  table.setUint32(base + ebx, type === TYPE_SMT ? 1 : type === TYPE_CORE ? count : 0, true);
  table.setUint32(base + ecx, (type << 8) | level, true);
  table.setUint32(base + edx, index, true);
}
