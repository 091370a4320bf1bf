// The container of a saved machine: what was written is read back, and whatever else is refused by a named reason.
import { expect, test } from "bun:test";
import { kvm_clock_data, kvm_cpuid2, kvm_cpuid_entry2, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave } from "../../src/ffi/abi/kvm.ts";
import { decodeContainer, encodeContainer } from "../../src/machine-state/container.ts";
import { cpuFeatures, missingFeatures } from "../../src/machine-state/cpu.ts";
import { faultMessage, MachineStateError, type Fault } from "../../src/machine-state/fault.ts";
import { checkChain, checkParams, decodeBase, decodeMachine, encodeMachine, type SavedMachine } from "../../src/machine-state/saved-machine.ts";
import type { VcpuState } from "../../src/machine-state/x86.ts";

let seed = 11;
const random = (n: number) => { seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0; return Math.floor((seed / 2 ** 32) * n); };
const bytes = (length: number) => Uint8Array.from({ length }, () => random(256));

const vcpu = (): VcpuState => ({
  mpState: bytes(kvm_mp_state.size), regs: bytes(kvm_regs.size), sregs: bytes(kvm_sregs.size), xsave: bytes(kvm_xsave.size + 512), xcrs: bytes(kvm_xcrs.size),
  debugRegs: bytes(kvm_debugregs.size), lapic: bytes(kvm_lapic_state.size), msrs: bytes(5 * kvm_msr_entry.size), events: bytes(kvm_vcpu_events.size),
  cpuid: bytes(kvm_cpuid2.size + 3 * kvm_cpuid_entry2.size), tscKhz: 2_400_000,
});
const machine = (change: Partial<SavedMachine> = {}): SavedMachine => ({
  id: "g2", base: "g1", savedAt: 1_700_000_000_000,
  params: { memoryBytes: 2 ** 26, vcpus: 2, xsave: true, network: true, disks: [{ readonly: true, serial: "rootfs", bytes: 4096 }, { readonly: false, serial: "upper", bytes: 2 ** 30 }] },
  cpu: { vendor: "GenuineIntel", words: { "0x1.0.ecx": 0xffff_0000 } },
  guest: { bootedAt: 5, runningAt: null, agent: true },
  vcpus: [vcpu(), vcpu()], vm: { irqchips: [bytes(kvm_irqchip.size), bytes(kvm_irqchip.size), bytes(kvm_irqchip.size)], pit: bytes(kvm_pit_state2.size), clock: bytes(kvm_clock_data.size) },
  board: { pciAddress: 0x8000_0800, serial: [1, 2, 3], bars: [[], [0xd000_0000, 0]] },
  devices: [{ type: 3 }, { type: 2, queues: [{ enabled: true }] }],
  pages: [{ page: 0, pages: 7, content: "data" }, { page: 9, pages: 1, content: "zero" }],
  ...change,
});

/** The reason; anything else than a MachineStateError is a failure of the test. */
function reason(read: () => unknown): Fault | null {
  try {
    read();
    return null;
  } catch (error) {
    if (error instanceof MachineStateError) return error.reason;
    throw error;
  }
}

test("what was saved is read back, bit for bit", () => {
  const saved = machine();
  expect(decodeMachine(encodeMachine(saved))).toEqual(saved);
  const bare = machine({ base: null, devices: [], pages: [] });
  expect(decodeMachine(encodeMachine(bare))).toEqual(bare);
});

test("a file that ends anywhere before its end is truncated, or no saved machine at all", () => {
  const whole = encodeMachine(machine());
  for (let i = 0; i < 3000; i++) {
    const length = i < 400 ? i : random(whole.length);
    expect(reason(() => decodeMachine(whole.subarray(0, length)))).toBe("truncated");
  }
  expect(reason(() => decodeMachine(Buffer.concat([whole, new Uint8Array(1)])))).toBe("corrupted");
});

test("a flipped bit anywhere is noticed", () => {
  const whole = encodeMachine(machine());
  for (let i = 0; i < 3000; i++) {
    const copy = whole.slice(), at = i < 400 ? i : random(copy.length);
    copy[at]! ^= 1 << random(8);
    const found = reason(() => decodeMachine(copy));
    expect(found).toBe(at < 8 ? "foreign" : at < 12 ? "newer" : found === "truncated" && at >= 16 && at < 24 ? "truncated" : "corrupted");
  }
});

test("sections of nonsense under a right checksum are corrupted, never another error", () => {
  const sections = decodeContainer(encodeMachine(machine()));
  for (const number of sections.keys()) {
    for (const nonsense of [new Uint8Array(0), new Uint8Array(3), bytes(100), Buffer.from("null"), Buffer.from("{}"), Buffer.from('{"id":1,"params":{},"cpu":{},"guest":{},"board":{}}')]) {
      // An empty page map is a sound one.
      if (nonsense.length === 0 && sections.get(number)!.length % 12 === 0 && number === 4) continue;
      expect(reason(() => decodeMachine(encodeContainer(new Map(sections).set(number, nonsense))))).toBe("corrupted");
    }
    const without = new Map(sections);
    without.delete(number);
    expect(reason(() => decodeMachine(encodeContainer(without)))).toBe("corrupted");
  }
  for (let i = 0; i < 500; i++) expect(["foreign", "truncated"]).toContain(reason(() => decodeMachine(bytes(random(200))))!);
});

test("decodeBase() brings what a chain needs, and reads past damage in nothing", () => {
  const saved = machine(), { id, base, params, pages } = saved, whole = encodeMachine(saved);
  expect(decodeBase(whole)).toMatchObject({ id, base, params, pages });
  expect("vcpus" in decodeBase(whole)).toBe(false);
  const damaged = Uint8Array.from(whole);
  damaged[damaged.length >> 1]! ^= 1;
  expect(reason(() => decodeBase(damaged))).toBe("corrupted");
});

test("checkChain() wants each generation over the next, of one size, under its own id", () => {
  const [newer, older] = [machine(), machine({ id: "g1", base: null })];
  expect(reason(() => checkChain([newer, older], ["g2", "g1"]))).toBeNull();
  for (const [machines, ids] of [[[newer], ["g2"]], [[older, newer], ["g1", "g2"]], [[newer, older], ["g2", "g0"]], [[], []], [[newer, machine({ id: "g1", base: null, params: { ...older.params, memoryBytes: 2 ** 27 } })], ["g2", "g1"]]] as const)
    expect(reason(() => checkChain(machines, ids))).toBe("foreign");
});

test("checkParams() refuses whatever another machine is made of", () => {
  const { params } = machine(), [root, upper] = [params.disks[0]!, params.disks[1]!];
  expect(reason(() => checkParams(params, params))).toBeNull();
  for (const change of [{ memoryBytes: 2 ** 27 }, { vcpus: 1 }, { xsave: false }, { network: false }, { disks: [root] }, { disks: [root, { ...upper, bytes: 1 }] }, { disks: [{ ...root, readonly: false }, upper] }])
    expect(reason(() => checkParams(params, { ...params, ...change }))).toBe("incompatible");
});

function cpuid(rows: readonly (readonly number[])[]): DataView {
  const table = new DataView(new ArrayBuffer(kvm_cpuid2.size + rows.length * kvm_cpuid_entry2.size));
  rows.forEach(([leaf, index, ...registers], i) => {
    const base = kvm_cpuid2.size + i * kvm_cpuid_entry2.size;
    table.setUint32(base, leaf!, true);
    table.setUint32(base + 4, index!, true);
    registers.forEach((value, r) => table.setUint32(base + kvm_cpuid_entry2.at.eax + r * 4, value, true));
  });
  return table;
}

test("missingFeatures() names what a host lacks, and lets more of them pass", () => {
  const vendor = [0, 0, 0, 0x756e6547, 0x6c65746e, 0x49656e69];
  const guest = cpuFeatures(cpuid([vendor, [1, 0, 0, 0, 0b1010 | (1 << 27), 1 << 28], [7, 0, 0, 1 << 31, 0, 0]]));
  expect(guest).toMatchObject({ vendor: "GenuineIntel", words: { "0x1.0.ecx": 0b1010, "0x1.0.edx": 0, "0x7.0.ebx": 2 ** 31 } });
  expect(missingFeatures(guest, guest)).toEqual([]);
  expect(missingFeatures(guest, cpuFeatures(cpuid([vendor, [1, 0, 0, 0, 0xffff, 0xffff], [7, 0, 0, 0xffff_ffff, 0, 0]])))).toEqual([]);
  expect(missingFeatures(guest, cpuFeatures(cpuid([vendor, [1, 0, 0, 0, 0b1000, 0]])))).toEqual(["CPUID 0x1.0.ecx bit 1", "CPUID 0x7.0.ebx bit 31"]);
  expect(missingFeatures(guest, cpuFeatures(cpuid([[0, 0, 0, 0x68747541, 0x444d4163, 0x69746e65]])))).toEqual(['a CPU of "GenuineIntel" (here: "AuthenticAMD")']);
});

test("faultMessage() begins with the code that the daemon answers", () => {
  expect((["foreign", "newer", "truncated", "corrupted", "incompatible"] as const).map((one) => faultMessage(new MachineStateError(one, "no")))).toEqual([
    "snapshot.damaged: no (foreign)", "snapshot.incompatible: no (newer)", "snapshot.damaged: no (truncated)", "snapshot.damaged: no (corrupted)", "snapshot.incompatible: no (incompatible)",
  ]);
});
