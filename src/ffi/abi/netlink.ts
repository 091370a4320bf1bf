// linux/netlink.h: message headers, flags and acknowledgements of every netlink family.
import { i32, struct, u16, u32 } from "./layout.ts";

export const header = "linux/netlink.h";

export const nlmsghdr = struct("struct nlmsghdr", header, {
  nlmsg_len: u32, nlmsg_type: u16, nlmsg_flags: u16, nlmsg_seq: u32, nlmsg_pid: u32,
});
export const nlattr = struct("struct nlattr", header, { nla_len: u16, nla_type: u16 });
/** Followed by the rest of the refused message, or, with NLM_F_CAPPED, at once by attributes. */
export const nlmsgerr = struct("struct nlmsgerr", header, { error: i32, msg: nlmsghdr });
export const sockaddr_nl = struct("struct sockaddr_nl", header, { nl_family: u16, nl_pad: u16, nl_pid: u32, nl_groups: u32 });

export const NETLINK = {
  NETLINK_ROUTE: 0, NETLINK_NETFILTER: 12,
  NETLINK_CAP_ACK: 10, NETLINK_EXT_ACK: 11, NETLINK_GET_STRICT_CHK: 12,
  NLM_F_REQUEST: 0x01, NLM_F_MULTI: 0x02, NLM_F_ACK: 0x04, NLM_F_ECHO: 0x08, NLM_F_DUMP_INTR: 0x10,
  NLM_F_DUMP: 0x300, NLM_F_REPLACE: 0x100, NLM_F_EXCL: 0x200, NLM_F_CREATE: 0x400, NLM_F_APPEND: 0x800,
  NLM_F_CAPPED: 0x100, NLM_F_ACK_TLVS: 0x200,
  NLMSG_NOOP: 1, NLMSG_ERROR: 2, NLMSG_DONE: 3, NLMSG_OVERRUN: 4, NLMSG_MIN_TYPE: 0x10,
  NLMSGERR_ATTR_MSG: 1, NLMSGERR_ATTR_OFFS: 2,
  NLA_F_NESTED: 0x8000, NLA_F_NET_BYTEORDER: 0x4000, NLA_ALIGNTO: 4, NLA_HDRLEN: 4,
} as const;
