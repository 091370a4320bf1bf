// A saved machine that is sound and can't run: for tests of what is done with its files.
import { kvm_clock_data, kvm_cpuid2, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave } from "../../src/ffi/abi/kvm.ts";
import type { SavedMachine } from "../../src/machine-state/saved-machine.ts";

const bytes = (length: number) => new Uint8Array(length).fill(7);

export const sampleMachine = ({ memoryBytes, ...content }: Pick<SavedMachine, "id" | "base" | "pages" | "devices"> & { readonly memoryBytes: number }): SavedMachine => ({
  ...content, savedAt: 1_700_000_000_000,
  params: { memoryBytes, vcpus: 1, xsave: true, network: false, disks: [] },
  cpu: { vendor: "GenuineIntel", words: {} }, guest: { bootedAt: 5, runningAt: null, agent: true },
  vcpus: [{
    mpState: bytes(kvm_mp_state.size), regs: bytes(kvm_regs.size), sregs: bytes(kvm_sregs.size), xsave: bytes(kvm_xsave.size), xcrs: bytes(kvm_xcrs.size),
    debugRegs: bytes(kvm_debugregs.size), lapic: bytes(kvm_lapic_state.size), msrs: bytes(kvm_msr_entry.size), events: bytes(kvm_vcpu_events.size), cpuid: bytes(kvm_cpuid2.size), tscKhz: 1000,
  }],
  vm: { irqchips: [bytes(kvm_irqchip.size), bytes(kvm_irqchip.size), bytes(kvm_irqchip.size)], pit: bytes(kvm_pit_state2.size), clock: bytes(kvm_clock_data.size) },
  board: { pciAddress: 0, serial: [], bars: [] },
});
