// linux/neighbour.h: the neighbour (ARP) table.
import { i32, struct, u16, u8 } from "./layout.ts";

export const header = "linux/neighbour.h";
export const ndmsg = struct("struct ndmsg", header, {
  ndm_family: u8, ndm_pad1: u8, ndm_pad2: u16, ndm_ifindex: i32, ndm_state: u16, ndm_flags: u8, ndm_type: u8,
});
export const ND = { NDA_DST: 1, NDA_LLADDR: 2, NUD_PERMANENT: 0x80 } as const;
