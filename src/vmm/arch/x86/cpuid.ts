// The CPUID leaves that a guest sees: KVM_GET_SUPPORTED_CPUID made consistent for each vCPU.
// Leaves: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.
import { KVM, kvm_cpuid2, kvm_cpuid_entry2 } from "../../../ffi/abi/kvm.ts";

const ECX_TSC_DEADLINE = 1 << 24;
const ECX_HYPERVISOR = 1 << 31;
const EDX_HTT = 1 << 28;
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

/**
 * The table for vCPU `index` of `count`, from the host's `supported` one (left unchanged).
 * One package, `count` cores of one thread each; APIC id = index.
 */
export function cpuidFor(supported: DataView, index: number, count: number, tscDeadline: boolean): DataView {
  const bytes = new Uint8Array(supported.buffer, supported.byteOffset, supported.byteLength).slice();
  const table = new DataView(bytes.buffer);
  const all = entries(table);
  const xcr0 = xcr0Mask(table, all);
  const set = (at: number, value: number) => table.setUint32(at, value >>> 0, true);
  const get = (at: number) => table.getUint32(at, true);
  /** log2 of the smallest power of two that holds all APIC ids. */
  const apicBits = Math.ceil(Math.log2(Math.max(count, 1)));
  for (const { leaf, index: sub, base } of all) {
    switch (leaf) {
      case 0x1: {
        let features = get(base + ecx) | ECX_HYPERVISOR; // without it a guest looks for no KVM, and has no kvm-clock
        features = tscDeadline ? features | ECX_TSC_DEADLINE : features & ~ECX_TSC_DEADLINE;
        set(base + ecx, features);
        set(base + ebx, ((index << 24) | (Math.min(count, 255) << 16) | (get(base + ebx) & 0xffff)));
        set(base + edx, count > 1 ? get(base + edx) | EDX_HTT : get(base + edx) & ~EDX_HTT);
        break;
      }
      case 0x4: // cache topology: cores of this package in 31:26, threads that share the cache in 25:14
        if (get(base + eax) & 0x1f) set(base + eax, (get(base + eax) & 0x3fff) | ((2 ** apicBits - 1) << 26));
        break;
      case 0xb: case 0x1f: // extended topology: level 0 thread, level 1 core
        topologyLevel(table, base, sub, index, count, apicBits);
        break;
      case 0xd:
        // QEMU's emulated CPU passes sub-leaves of components on that sub-leaf 0 doesn't offer.
        if (sub >= 2 && sub < 64 && (xcr0 & (1n << BigInt(sub))) === 0n) for (const r of [eax, ebx, ecx, edx]) set(base + r, 0);
        break;
      case 0x80000007:
        // A snapshot may wake on a host with another frequency: the guest must not trust the TSC for ever.
        set(base + edx, get(base + edx) & ~EDX_INVARIANT_TSC);
        break;
      case 0x80000008: // ECX 7:0 cores - 1, 15:12 bits of the APIC id
        set(base + ecx, (apicBits << 12) | (count - 1));
        break;
      case 0x8000001e: // extended APIC id, core id, one node
        set(base + eax, index);
        set(base + ebx, index & 0xff);
        set(base + ecx, 0);
        break;
    }
  }
  return table;
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
