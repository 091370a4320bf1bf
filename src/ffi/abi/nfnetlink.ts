// linux/netfilter/nfnetlink.h: the header and subsystems of netfilter's netlink family, and its transactions.
import { struct, u16, u8 } from "./layout.ts";

export const header = "linux/netfilter/nfnetlink.h";
/** `res_id` is big-endian. */
export const nfgenmsg = struct("struct nfgenmsg", header, { nfgen_family: u8, version: u8, res_id: u16 });
export const NFNL = {
  NFNETLINK_V0: 0, NFNL_SUBSYS_CTNETLINK: 1, NFNL_SUBSYS_NFTABLES: 10, NFNL_MSG_BATCH_BEGIN: 16, NFNL_MSG_BATCH_END: 17,
} as const;
