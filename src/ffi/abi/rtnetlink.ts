// linux/rtnetlink.h: links and routes.
import { i32, struct, u16, u32, u8 } from "./layout.ts";

export const header = "linux/rtnetlink.h";

export const ifinfomsg = struct("struct ifinfomsg", header, {
  ifi_family: u8, __ifi_pad: u8, ifi_type: u16, ifi_index: i32, ifi_flags: u32, ifi_change: u32,
});
export const rtmsg = struct("struct rtmsg", header, {
  rtm_family: u8, rtm_dst_len: u8, rtm_src_len: u8, rtm_tos: u8, rtm_table: u8, rtm_protocol: u8, rtm_scope: u8, rtm_type: u8, rtm_flags: u32,
});

export const RTNL = {
  RTM_NEWLINK: 16, RTM_DELLINK: 17, RTM_GETLINK: 18, RTM_NEWADDR: 20, RTM_DELADDR: 21, RTM_GETADDR: 22,
  RTM_NEWROUTE: 24, RTM_DELROUTE: 25, RTM_GETROUTE: 26, RTM_NEWNEIGH: 28, RTM_DELNEIGH: 29, RTM_GETNEIGH: 30,
  RTN_UNSPEC: 0, RTN_UNICAST: 1, RTN_LOCAL: 2, RTN_BROADCAST: 3, RTN_MULTICAST: 5, RTN_BLACKHOLE: 6, RTN_UNREACHABLE: 7,
  RTPROT_KERNEL: 2, RTPROT_BOOT: 3, RTPROT_STATIC: 4,
  RT_SCOPE_UNIVERSE: 0, RT_SCOPE_LINK: 253, RT_SCOPE_HOST: 254, RT_SCOPE_NOWHERE: 255,
  RT_TABLE_UNSPEC: 0, RT_TABLE_MAIN: 254, RT_TABLE_LOCAL: 255,
  RTA_DST: 1, RTA_OIF: 4, RTA_GATEWAY: 5, RTA_PRIORITY: 6, RTA_PREFSRC: 7, RTA_MULTIPATH: 9, RTA_TABLE: 15,
  RTM_F_CLONED: 0x200,
} as const;
