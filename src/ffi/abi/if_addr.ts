// linux/if_addr.h: addresses of links.
import { struct, u32, u8 } from "./layout.ts";

export const header = "linux/if_addr.h";
export const ifaddrmsg = struct("struct ifaddrmsg", header, {
  ifa_family: u8, ifa_prefixlen: u8, ifa_flags: u8, ifa_scope: u8, ifa_index: u32,
});
export const IFA = { IFA_ADDRESS: 1, IFA_LOCAL: 2 } as const;
