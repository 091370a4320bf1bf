// linux/kvm.h and asm/kvm.h, x86-64: layouts, ioctl numbers and constants of the KVM API in use here.
import { _IO, _IOR, _IOW, _IOWR, array, struct, u16, u32, u64, u8 } from "./layout.ts";

export const header = "linux/kvm.h";

const kvmIo = 0xae;

export const kvm_regs = struct("struct kvm_regs", header, {
  rax: u64, rbx: u64, rcx: u64, rdx: u64, rsi: u64, rdi: u64, rsp: u64, rbp: u64,
  r8: u64, r9: u64, r10: u64, r11: u64, r12: u64, r13: u64, r14: u64, r15: u64, rip: u64, rflags: u64,
});
export const kvm_segment = struct("struct kvm_segment", header, {
  base: u64, limit: u32, selector: u16, type: u8, present: u8, dpl: u8, db: u8, s: u8, l: u8, g: u8, avl: u8, unusable: u8, padding: u8,
});
export const kvm_dtable = struct("struct kvm_dtable", header, { base: u64, limit: u16, padding: array(u16, 3) });
export const kvm_sregs = struct("struct kvm_sregs", header, {
  cs: kvm_segment, ds: kvm_segment, es: kvm_segment, fs: kvm_segment, gs: kvm_segment, ss: kvm_segment, tr: kvm_segment, ldt: kvm_segment,
  gdt: kvm_dtable, idt: kvm_dtable, cr0: u64, cr2: u64, cr3: u64, cr4: u64, cr8: u64, efer: u64, apic_base: u64, interrupt_bitmap: array(u64, 4),
});
export const kvm_userspace_memory_region = struct("struct kvm_userspace_memory_region", header, {
  slot: u32, flags: u32, guest_phys_addr: u64, memory_size: u64, userspace_addr: u64,
});
export const kvm_pit_config = struct("struct kvm_pit_config", header, { flags: u32, pad: array(u32, 15) });
export const kvm_cpuid_entry2 = struct("struct kvm_cpuid_entry2", header, {
  function: u32, index: u32, flags: u32, eax: u32, ebx: u32, ecx: u32, edx: u32, padding: array(u32, 3),
});
/** Followed by `nent` entries. */
export const kvm_cpuid2 = struct("struct kvm_cpuid2", header, { nent: u32, padding: u32, entries: array(kvm_cpuid_entry2, 0) });
export const kvm_msr_entry = struct("struct kvm_msr_entry", header, { index: u32, reserved: u32, data: u64 });
export const kvm_msrs = struct("struct kvm_msrs", header, { nmsrs: u32, pad: u32, entries: array(kvm_msr_entry, 0) });
export const kvm_msr_list = struct("struct kvm_msr_list", header, { nmsrs: u32, indices: array(u32, 0) });
export const kvm_lapic_state = struct("struct kvm_lapic_state", header, { regs: array(u8, 0x400) });
export const kvm_irqchip = struct("struct kvm_irqchip", header, { chip_id: u32, pad: u32, chip: array(u64, 64) });
export const kvm_pit_state2 = struct("struct kvm_pit_state2", header, { channels: array(u64, 9), flags: u32, reserved: array(u32, 9) });
export const kvm_clock_data = struct("struct kvm_clock_data", header, {
  clock: u64, flags: u32, pad0: u32, realtime: u64, host_tsc: u64, pad: array(u32, 4),
});
export const kvm_mp_state = struct("struct kvm_mp_state", header, { mp_state: u32 });
export const kvm_vcpu_events = struct("struct kvm_vcpu_events", header, {
  exception: array(u8, 8), interrupt: array(u8, 4), nmi: array(u8, 4), sipi_vector: u32, flags: u32, smi: array(u8, 4),
  triple_fault: u8, reserved: array(u8, 26), exception_has_payload: u8, exception_payload: u64,
});
export const kvm_debugregs = struct("struct kvm_debugregs", header, { db: array(u64, 4), dr6: u64, dr7: u64, flags: u64, reserved: array(u64, 9) });
export const kvm_xsave = struct("struct kvm_xsave", header, { region: array(u32, 1024) });
export const kvm_xcrs = struct("struct kvm_xcrs", header, { nr_xcrs: u32, flags: u32, xcrs: array(u64, 32), padding: array(u64, 16) });
export const kvm_irqfd = struct("struct kvm_irqfd", header, { fd: u32, gsi: u32, flags: u32, resamplefd: u32, pad: array(u8, 16) });
export const kvm_ioeventfd = struct("struct kvm_ioeventfd", header, { datamatch: u64, addr: u64, len: u32, fd: u32, flags: u32, pad: array(u8, 36) });
/** `pad` is a union with `pio`, 1 for ports; here and in the next. */
export const kvm_coalesced_mmio_zone = struct("struct kvm_coalesced_mmio_zone", header, { addr: u64, size: u32, pad: u32 });
export const kvm_coalesced_mmio = struct("struct kvm_coalesced_mmio", header, { phys_addr: u64, len: u32, pad: u32, data: array(u8, 8) });
/** Followed by as many entries as fit the page. */
export const kvm_coalesced_mmio_ring = struct("struct kvm_coalesced_mmio_ring", header, { first: u32, last: u32 });
/** `u` is a union of 32 bytes: `irqchip` {u32 irqchip, u32 pin} or `msi` {u32 address_lo, u32 address_hi, u32 data, u32 devid}. */
export const kvm_irq_routing_entry = struct("struct kvm_irq_routing_entry", header, { gsi: u32, type: u32, flags: u32, pad: u32, u: array(u64, 4) });
export const kvm_irq_routing = struct("struct kvm_irq_routing", header, { nr: u32, flags: u32, entries: array(kvm_irq_routing_entry, 0) });

/** Offsets in `struct kvm_run`; the exits' parts lie in a union at 32. */
export const kvm_run = {
  request_interrupt_window: 0, immediate_exit: 1, exit_reason: 8, ready_for_interrupt_injection: 12, if_flag: 13, flags: 14, cr8: 16, apic_base: 24,
  "io.direction": 32, "io.size": 33, "io.port": 34, "io.count": 36, "io.data_offset": 40,
  "mmio.phys_addr": 32, "mmio.data": 40, "mmio.len": 48, "mmio.is_write": 52,
  "internal.suberror": 32, "fail_entry.hardware_entry_failure_reason": 32, "system_event.type": 32,
} as const;

export const ioctls = {
  KVM_GET_API_VERSION: _IO(kvmIo, 0x00),
  KVM_CREATE_VM: _IO(kvmIo, 0x01),
  KVM_GET_MSR_INDEX_LIST: _IOWR(kvmIo, 0x02, kvm_msr_list.size),
  KVM_CHECK_EXTENSION: _IO(kvmIo, 0x03),
  KVM_GET_VCPU_MMAP_SIZE: _IO(kvmIo, 0x04),
  KVM_GET_SUPPORTED_CPUID: _IOWR(kvmIo, 0x05, kvm_cpuid2.size),
  KVM_CREATE_VCPU: _IO(kvmIo, 0x41),
  KVM_SET_USER_MEMORY_REGION: _IOW(kvmIo, 0x46, kvm_userspace_memory_region.size),
  KVM_SET_TSS_ADDR: _IO(kvmIo, 0x47),
  KVM_SET_IDENTITY_MAP_ADDR: _IOW(kvmIo, 0x48, 8),
  KVM_CREATE_IRQCHIP: _IO(kvmIo, 0x60),
  KVM_GET_IRQCHIP: _IOWR(kvmIo, 0x62, kvm_irqchip.size),
  KVM_SET_IRQCHIP: _IOR(kvmIo, 0x63, kvm_irqchip.size),
  KVM_REGISTER_COALESCED_MMIO: _IOW(kvmIo, 0x67, kvm_coalesced_mmio_zone.size),
  KVM_SET_GSI_ROUTING: _IOW(kvmIo, 0x6a, kvm_irq_routing.size),
  KVM_IRQFD: _IOW(kvmIo, 0x76, kvm_irqfd.size),
  KVM_CREATE_PIT2: _IOW(kvmIo, 0x77, kvm_pit_config.size),
  KVM_IOEVENTFD: _IOW(kvmIo, 0x79, kvm_ioeventfd.size),
  KVM_SET_CLOCK: _IOW(kvmIo, 0x7b, kvm_clock_data.size),
  KVM_GET_CLOCK: _IOR(kvmIo, 0x7c, kvm_clock_data.size),
  KVM_RUN: _IO(kvmIo, 0x80),
  KVM_GET_REGS: _IOR(kvmIo, 0x81, kvm_regs.size),
  KVM_SET_REGS: _IOW(kvmIo, 0x82, kvm_regs.size),
  KVM_GET_SREGS: _IOR(kvmIo, 0x83, kvm_sregs.size),
  KVM_SET_SREGS: _IOW(kvmIo, 0x84, kvm_sregs.size),
  KVM_GET_MSRS: _IOWR(kvmIo, 0x88, kvm_msrs.size),
  KVM_SET_MSRS: _IOW(kvmIo, 0x89, kvm_msrs.size),
  KVM_GET_LAPIC: _IOR(kvmIo, 0x8e, kvm_lapic_state.size),
  KVM_SET_LAPIC: _IOW(kvmIo, 0x8f, kvm_lapic_state.size),
  KVM_SET_CPUID2: _IOW(kvmIo, 0x90, kvm_cpuid2.size),
  KVM_GET_MP_STATE: _IOR(kvmIo, 0x98, kvm_mp_state.size),
  KVM_SET_MP_STATE: _IOW(kvmIo, 0x99, kvm_mp_state.size),
  KVM_GET_PIT2: _IOR(kvmIo, 0x9f, kvm_pit_state2.size),
  KVM_SET_PIT2: _IOW(kvmIo, 0xa0, kvm_pit_state2.size),
  KVM_GET_VCPU_EVENTS: _IOR(kvmIo, 0x9f, kvm_vcpu_events.size),
  KVM_SET_VCPU_EVENTS: _IOW(kvmIo, 0xa0, kvm_vcpu_events.size),
  KVM_GET_DEBUGREGS: _IOR(kvmIo, 0xa1, kvm_debugregs.size),
  KVM_SET_DEBUGREGS: _IOW(kvmIo, 0xa2, kvm_debugregs.size),
  KVM_SET_TSC_KHZ: _IO(kvmIo, 0xa2),
  KVM_GET_TSC_KHZ: _IO(kvmIo, 0xa3),
  KVM_GET_XSAVE: _IOR(kvmIo, 0xa4, kvm_xsave.size),
  KVM_SET_XSAVE: _IOW(kvmIo, 0xa5, kvm_xsave.size),
  KVM_GET_XCRS: _IOR(kvmIo, 0xa6, kvm_xcrs.size),
  KVM_SET_XCRS: _IOW(kvmIo, 0xa7, kvm_xcrs.size),
  KVM_KVMCLOCK_CTRL: _IO(kvmIo, 0xad),
  KVM_GET_XSAVE2: _IOR(kvmIo, 0xcf, kvm_xsave.size),
} as const;

export const KVM = {
  KVM_API_VERSION: 12,
  KVM_EXIT_UNKNOWN: 0, KVM_EXIT_EXCEPTION: 1, KVM_EXIT_IO: 2, KVM_EXIT_HYPERCALL: 3, KVM_EXIT_DEBUG: 4, KVM_EXIT_HLT: 5, KVM_EXIT_MMIO: 6,
  KVM_EXIT_IRQ_WINDOW_OPEN: 7, KVM_EXIT_SHUTDOWN: 8, KVM_EXIT_FAIL_ENTRY: 9, KVM_EXIT_INTR: 10, KVM_EXIT_INTERNAL_ERROR: 17, KVM_EXIT_SYSTEM_EVENT: 24,
  KVM_EXIT_IO_IN: 0, KVM_EXIT_IO_OUT: 1,
  KVM_CAP_IRQCHIP: 0, KVM_CAP_USER_MEMORY: 3, KVM_CAP_SET_TSS_ADDR: 4, KVM_CAP_NR_VCPUS: 9, KVM_CAP_MP_STATE: 14, KVM_CAP_COALESCED_MMIO: 15, KVM_CAP_IRQ_ROUTING: 25,
  KVM_CAP_IRQFD: 32, KVM_CAP_PIT2: 33, KVM_CAP_IOEVENTFD: 36, KVM_CAP_VCPU_EVENTS: 41, KVM_CAP_XCRS: 56, KVM_CAP_TSC_CONTROL: 60,
  KVM_CAP_GET_TSC_KHZ: 61, KVM_CAP_MAX_VCPUS: 66, KVM_CAP_TSC_DEADLINE_TIMER: 72, KVM_CAP_IMMEDIATE_EXIT: 136, KVM_CAP_COALESCED_PIO: 162, KVM_CAP_XSAVE2: 208,
  KVM_CPUID_FLAG_SIGNIFCANT_INDEX: 1,
  KVM_IRQ_ROUTING_IRQCHIP: 1, KVM_IRQ_ROUTING_MSI: 2,
  KVM_IRQCHIP_PIC_MASTER: 0, KVM_IRQCHIP_PIC_SLAVE: 1, KVM_IRQCHIP_IOAPIC: 2,
  KVM_IOEVENTFD_FLAG_DATAMATCH: 1, KVM_IOEVENTFD_FLAG_PIO: 2, KVM_IOEVENTFD_FLAG_DEASSIGN: 4,
  KVM_IRQFD_FLAG_DEASSIGN: 1,
  KVM_PIT_SPEAKER_DUMMY: 1,
  KVM_MP_STATE_RUNNABLE: 0, KVM_MP_STATE_UNINITIALIZED: 1,
} as const;
