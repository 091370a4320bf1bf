// Guest physical addresses, x86-64. Constants only.

/** The 32-bit hole: BARs, IOAPIC and local APIC live in it, RAM doesn't. */
export const HOLE_START = 0xc000_0000;
export const HOLE_END = 0x1_0000_0000;
/** 32-bit memory BARs are given out from here, upwards. */
export const BAR_START = 0xd000_0000;
export const BAR_END = 0xe000_0000;
export const IOAPIC_ADDRESS = 0xfec0_0000;
export const LAPIC_ADDRESS = 0xfee0_0000;
/** Three pages that KVM on Intel wants for itself (KVM_SET_TSS_ADDR), and one before them (KVM_SET_IDENTITY_MAP_ADDR). */
export const TSS_ADDRESS = 0xfffb_d000;
export const IDENTITY_MAP_ADDRESS = 0xfffb_c000;

export const GDT_ADDRESS = 0x500;
export const ZERO_PAGE_ADDRESS = 0x7000;
export const STACK_TOP = 0x8ff0;
export const PAGE_TABLE_ADDRESS = 0x9000;
export const CMDLINE_ADDRESS = 0x2_0000;
export const CMDLINE_MAX = 0x1000;
/** Extended BIOS data area: the end of low RAM, where the MP table stands. */
export const MP_TABLE_ADDRESS = 0x9_fc00;
export const HIMEM_START = 0x10_0000;
