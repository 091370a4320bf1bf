// Exits as KVM hands them over, and what is put into kvm_run for them.
import { expect, test } from "bun:test";
import { KVM, kvm_run } from "../../src/ffi/abi/kvm.ts";
import { answerExit, End, type ExitHandler } from "../../src/vmm/vcpu-exit.ts";

const DATA = 4096;

function rig() {
  const run = new DataView(new ArrayBuffer(3 * 4096)), heard: unknown[][] = [];
  let next = 0x1122_3344;
  const note = (what: string) => (...args: number[]) => void heard.push([what, ...args]);
  const answer = (what: string) => (...args: number[]) => {
    heard.push([what, ...args]);
    return next++;
  };
  const handler: ExitHandler = { portRead: answer("in"), portWrite: note("out"), memoryRead: answer("read"), memoryWrite: note("write"), ended: note("ended") };
  const exit = (reason: number) => {
    run.setUint32(kvm_run.exit_reason, reason, true);
    return answerExit(run, handler);
  };
  const io = (direction: number, size: number, count: number) => {
    run.setUint8(kvm_run["io.direction"], direction);
    run.setUint8(kvm_run["io.size"], size);
    run.setUint16(kvm_run["io.port"], 0x3f8, true);
    run.setUint32(kvm_run["io.count"], count, true);
    run.setBigUint64(kvm_run["io.data_offset"], BigInt(DATA), true);
    return exit(KVM.KVM_EXIT_IO);
  };
  const mmio = (gpa: bigint, size: number, value: bigint | null) => {
    run.setBigUint64(kvm_run["mmio.phys_addr"], gpa, true);
    run.setBigUint64(kvm_run["mmio.data"], value ?? 0n, true);
    run.setUint32(kvm_run["mmio.len"], size, true);
    run.setUint8(kvm_run["mmio.is_write"], value === null ? 0 : 1);
    exit(KVM.KVM_EXIT_MMIO);
    return run.getBigUint64(kvm_run["mmio.data"], true);
  };
  return { run, heard, exit, io, mmio };
}

test("a string of port accesses is answered element by element, and counted", () => {
  const { run, heard, io } = rig();
  run.setUint32(DATA, 0x0403_0201, true);
  expect(io(KVM.KVM_EXIT_IO_OUT, 1, 4)).toBe(4);
  expect(io(KVM.KVM_EXIT_IO_OUT, 2, 2)).toBe(2);
  expect(heard).toEqual([["out", 0x3f8, 1, 1], ["out", 0x3f8, 1, 2], ["out", 0x3f8, 1, 3], ["out", 0x3f8, 1, 4], ["out", 0x3f8, 2, 0x0201], ["out", 0x3f8, 2, 0x0403]]);
  expect(io(KVM.KVM_EXIT_IO_IN, 1, 3)).toBe(3);
  expect([0, 1, 2, 3].map((at) => run.getUint8(DATA + at))).toEqual([0x44, 0x45, 0x46, 4]);
  expect(io(KVM.KVM_EXIT_IO_IN, 4, 1)).toBe(1);
  expect(run.getUint32(DATA, true)).toBe(0x1122_3347);
});

test("memory is read and written by 1, 2 and 4 bytes, and by 8 as two of 4", () => {
  const { heard, mmio } = rig();
  expect(mmio(0xd000_0000n, 1, null)).toBe(0x44n);
  expect(mmio(0xd000_0000n, 8, null)).toBe(0x1122_3346_1122_3345n);
  mmio(0x1_d000_0004n, 2, 0xffff_ffff_aaaa_bbbbn);
  mmio(0xd000_0008n, 8, 0xaabb_ccdd_1122_3344n);
  expect(heard).toEqual([
    ["read", 0xd000_0000, 1], ["read", 0xd000_0000, 4], ["read", 0xd000_0004, 4], ["write", 0x1_d000_0004, 2, 0xbbbb], ["write", 0xd000_0008, 4, 0x1122_3344], ["write", 0xd000_000c, 4, 0xaabb_ccdd],
  ]);
});

test("accesses of other sizes, cut at the end of a page, reach no register", () => {
  const { heard, mmio } = rig();
  for (const size of [0, 3, 5, 6, 7]) {
    mmio(0xd000_0ffdn, size, 1n);
    expect(mmio(0xd000_0ffdn, size, null)).toBe(2n ** 64n - 1n);
  }
  expect(heard).toEqual([]);
});

test("what a vCPU can't go on after is told with its detail; an interruption is nothing", () => {
  const { run, heard, exit } = rig();
  exit(KVM.KVM_EXIT_INTR);
  exit(KVM.KVM_EXIT_SHUTDOWN);
  run.setUint32(kvm_run["internal.suberror"], 7, true);
  exit(KVM.KVM_EXIT_INTERNAL_ERROR);
  exit(KVM.KVM_EXIT_FAIL_ENTRY);
  exit(999);
  expect(heard).toEqual([["ended", End.SHUTDOWN, 0], ["ended", End.INTERNAL_ERROR, 7], ["ended", End.FAIL_ENTRY, 7], ["ended", End.UNKNOWN_EXIT, 999]]);
});
