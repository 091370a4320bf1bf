import { expect, test } from "bun:test";
import { kvm_cpuid_entry2, kvm_cpuid2 } from "../../src/ffi/abi/kvm.ts";
import { cpuidFor } from "../../src/vmm/arch/x86/cpuid.ts";
import { mpTable } from "../../src/vmm/arch/x86/mptable.ts";
import { MP_TABLE_ADDRESS } from "../../src/vmm/layout.ts";

const sum = (bytes: Uint8Array) => bytes.reduce((a, b) => (a + b) & 0xff, 0);

test("mpTable() has valid checksums and an entry for each CPU", () => {
  for (const cpus of [1, 2, 4, 16]) {
    const table = mpTable(cpus);
    const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
    expect(Buffer.from(table.subarray(0, 4)).toString()).toBe("_MP_");
    expect(view.getUint32(4, true)).toBe(MP_TABLE_ADDRESS + 16);
    expect(sum(table.subarray(0, 16))).toBe(0);
    const length = view.getUint16(16 + 4, true);
    expect(table.length).toBe(16 + length);
    expect(sum(table.subarray(16))).toBe(0);
    expect(table.length).toBeLessThanOrEqual(1024);
    const ids = Array.from({ length: cpus }, (_, i) => [table[16 + 44 + i * 20], table[16 + 44 + i * 20 + 1]]);
    expect(ids).toEqual(Array.from({ length: cpus }, (_, i) => [0, i]));
  }
});

/** A table as KVM_GET_SUPPORTED_CPUID returns it: [leaf, index, eax, ebx, ecx, edx]. */
function table(rows: number[][]): DataView {
  const view = new DataView(new ArrayBuffer(kvm_cpuid2.size + rows.length * kvm_cpuid_entry2.size));
  view.setUint32(0, rows.length, true);
  rows.forEach(([leaf, index, ...registers], i) => {
    const base = kvm_cpuid2.size + i * kvm_cpuid_entry2.size;
    view.setUint32(base, leaf!, true);
    view.setUint32(base + 4, index!, true);
    registers.forEach((value, r) => view.setUint32(base + kvm_cpuid_entry2.at.eax + r * 4, value, true));
  });
  return view;
}
const row = (view: DataView, i: number) =>
  [0, 1, 2, 3].map((r) => view.getUint32(kvm_cpuid2.size + i * kvm_cpuid_entry2.size + kvm_cpuid_entry2.at.eax + r * 4, true));

const host = table([
  [0x1, 0, 0, 0xff00_0800, (1 << 5) | (1 << 26) | (1 << 28), 0],
  [0x7, 0, 1, (1 << 5) | 1, 1 << 3, 0],
  [0xb, 0, 0, 0, 0, 0],
  [0xb, 1, 0, 0, 0, 0],
  [0xd, 0, 0x207, 576, 2696, 0],
  [0xd, 2, 256, 576, 0, 0],
  [0xd, 5, 64, 1088, 0, 0],
  [0x80000001, 0, 0, 0, 1 << 2, 0],
  [0x80000007, 0, 0, 0, 0, 1 << 8],
]);

test("cpuidFor() says hypervisor, TSC deadline and the vCPU's own APIC id, and hides nested virtualization", () => {
  const guest = cpuidFor(host, { index: 3, count: 4, tscDeadline: true, xsave: true });
  const [, ebx, ecx] = row(guest, 0);
  expect(ebx! >>> 24).toBe(3);
  expect((ebx! >>> 16) & 0xff).toBe(4);
  expect(ecx! >>> 31).toBe(1);
  expect((ecx! >>> 24) & 1).toBe(1);
  expect((ecx! >>> 5) & 1).toBe(0);
  expect(row(guest, 2)).toEqual([0, 1, 0x100, 3]);
  expect(row(guest, 3)).toEqual([2, 4, 0x201, 3]);
  expect(row(guest, 7)[2]).toBe(0);
  expect(row(guest, 8)[3]).toBe(0);
});

test("cpuidFor() keeps leaf 0xD consistent with the XCR0 that it offers", () => {
  const guest = cpuidFor(host, { index: 0, count: 1, tscDeadline: true, xsave: true });
  expect(row(guest, 5)).toEqual([256, 576, 0, 0]);
  expect(row(guest, 6)).toEqual([0, 0, 0, 0]);
});

test("cpuidFor() without xsave offers nothing that needs it", () => {
  const guest = cpuidFor(host, { index: 0, count: 1, tscDeadline: true, xsave: false });
  expect(row(guest, 0)[2]! & ((1 << 26) | (1 << 28))).toBe(0);
  expect(row(guest, 1)).toEqual([1, 1, 0, 0]);
  expect(row(guest, 4)).toEqual([0, 0, 0, 0]);
  expect(row(guest, 5)).toEqual([0, 0, 0, 0]);
});

test("cpuidFor() leaves the host's table as it was", () => {
  const before = new Uint8Array(host.buffer).slice();
  cpuidFor(host, { index: 1, count: 2, tscDeadline: false, xsave: false });
  expect(new Uint8Array(host.buffer)).toEqual(before);
});
