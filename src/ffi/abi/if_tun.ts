// linux/if_tun.h: TUN/TAP devices.
import { _IO, _IOR, _IOW, array, struct, u16, u32, u64, u8, type FieldType } from "./layout.ts";

export const header = "linux/if_tun.h";

/** Followed in C by the filter itself, here by its address (linux/filter.h). */
export const sock_fprog = struct("struct sock_fprog", "linux/filter.h", { len: u16, filter: u64 });
const int: FieldType = u32;

export const ioctls = {
  TUNSETIFF: _IOW(0x54, 202, int.size),
  TUNSETPERSIST: _IOW(0x54, 203, int.size),
  TUNSETOWNER: _IOW(0x54, 204, int.size),
  TUNGETFEATURES: _IOR(0x54, 207, u32.size),
  TUNSETOFFLOAD: _IOW(0x54, 208, u32.size),
  TUNGETIFF: _IOR(0x54, 210, u32.size),
  TUNSETSNDBUF: _IOW(0x54, 212, int.size),
  TUNATTACHFILTER: _IOW(0x54, 213, sock_fprog.size),
  TUNDETACHFILTER: _IOW(0x54, 214, sock_fprog.size),
  TUNGETVNETHDRSZ: _IOR(0x54, 215, int.size),
  TUNSETVNETHDRSZ: _IOW(0x54, 216, int.size),
  TUNSETQUEUE: _IOW(0x54, 217, int.size),
  TUNSETCARRIER: _IOW(0x54, 226, int.size),
  TUNGETDEVNETNS: _IO(0x54, 227),
} as const;

export const TUN = {
  IFF_TUN: 0x0001, IFF_TAP: 0x0002, IFF_MULTI_QUEUE: 0x0100, IFF_NO_PI: 0x1000, IFF_VNET_HDR: 0x4000, IFF_PERSIST: 0x0800,
  TUN_F_CSUM: 0x01, TUN_F_TSO4: 0x02, TUN_F_TSO6: 0x04, TUN_F_TSO_ECN: 0x08, TUN_F_UFO: 0x10,
} as const;

/** `struct ifreq` (linux/if.h) as TUNSETIFF and TUNGETIFF use it: a name, then a union that begins with u16 flags. */
export const ifreq = struct("struct ifreq", "linux/if.h", { ifr_name: array(u8, 16), ifr_ifru: array(u64, 3) });
