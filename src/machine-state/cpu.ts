// Which CPU features a saved guest counts on: the feature words of its CPUID, compared with those that a host can give.
// Leaves: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E; Documentation/virt/kvm/x86/cpuid.rst.
import { kvm_cpuid2, kvm_cpuid_entry2 } from "../ffi/abi/kvm.ts";

const REGISTERS = ["eax", "ebx", "ecx", "edx"] as const;
type Register = (typeof REGISTERS)[number];

/**
 * Leaf, sub-leaf, register, and bits that say nothing of the CPU: 0x1 ECX 27 (OSXSAVE) and 0x7 ECX 4 (OSPKE) follow CR4,
 * 0x1 EDX 28 (HTT) the number of vCPUs.
 */
const WORDS: readonly (readonly [leaf: number, index: number, register: Register, ignored?: number])[] = [
  [0x1, 0, "ecx", 1 << 27], [0x1, 0, "edx", 1 << 28],
  [0x7, 0, "ebx"], [0x7, 0, "ecx", 1 << 4], [0x7, 0, "edx"], [0x7, 1, "eax"],
  [0xd, 0, "eax"], [0xd, 0, "edx"], [0xd, 1, "eax"],
  [0x4000_0001, 0, "eax"],
  [0x8000_0001, 0, "ecx"], [0x8000_0001, 0, "edx"], [0x8000_0008, 0, "ebx"],
];

export interface CpuFeatures {
  /** As leaf 0 spells it: `GenuineIntel`, `AuthenticAMD`. */
  readonly vendor: string;
  /** By name, such as `0x7.0.ebx`; unsigned. */
  readonly words: Readonly<Record<string, number>>;
}

/** Of a `struct kvm_cpuid2` as a guest gets it. */
export function cpuFeatures(table: DataView): CpuFeatures {
  // The first entry of each leaf and sub-leaf. Looked for anew for each word, this took a millisecond of a new process's restore.
  const bases = new Map<number, number>(), key = (leaf: number, index: number) => index * 2 ** 32 + leaf;
  for (let base = kvm_cpuid2.size; base + kvm_cpuid_entry2.size <= table.byteLength; base += kvm_cpuid_entry2.size) {
    const at = key(table.getUint32(base, true), table.getUint32(base + kvm_cpuid_entry2.at.index, true));
    if (!bases.has(at)) bases.set(at, base);
  }
  const read = (leaf: number, index: number, register: Register): number => {
    const base = bases.get(key(leaf, index));
    return base === undefined ? 0 : table.getUint32(base + kvm_cpuid_entry2.at[register], true);
  };
  const vendor = new DataView(new ArrayBuffer(12));
  (["ebx", "edx", "ecx"] as const).forEach((register, i) => vendor.setUint32(i * 4, read(0, 0, register), true));
  const words = WORDS.map(([leaf, index, register, ignored = 0]) => [`0x${leaf.toString(16)}.${index}.${register}`, (read(leaf, index, register) & ~ignored) >>> 0]);
  return { vendor: Buffer.from(vendor.buffer).toString("latin1"), words: Object.fromEntries(words) };
}

/** What `host` lacks of `saved`; empty where a guest can go on there. */
export function missingFeatures(saved: CpuFeatures, host: CpuFeatures): string[] {
  if (saved.vendor !== host.vendor) return [`a CPU of ${JSON.stringify(saved.vendor)} (here: ${JSON.stringify(host.vendor)})`];
  return Object.entries(saved.words).flatMap(([name, word]) => {
    const missing = (word & ~(host.words[name] ?? 0)) >>> 0;
    if (missing === 0) return [];
    return Array.from({ length: 32 }, (_, bit) => bit).filter((bit) => ((missing >>> bit) & 1) === 1).map((bit) => `CPUID ${name} bit ${bit}`);
  });
}
