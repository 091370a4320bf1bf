// linux/filter.h, linux/bpf_common.h: classic BPF, the packet filters that a socket or a TAP takes.
import { struct, u16, u32, u8 } from "./layout.ts";

export const header = "linux/filter.h";
export const sock_filter = struct("struct sock_filter", header, { code: u16, jt: u8, jf: u8, k: u32 });
export const BPF = {
  BPF_LD: 0x00, BPF_LDX: 0x01, BPF_ALU: 0x04, BPF_JMP: 0x05, BPF_RET: 0x06, BPF_W: 0x00, BPF_H: 0x08, BPF_B: 0x10, BPF_ABS: 0x20, BPF_IND: 0x40,
  BPF_MSH: 0xa0, BPF_AND: 0x50, BPF_JEQ: 0x10, BPF_JSET: 0x40, BPF_K: 0x00,
} as const;
