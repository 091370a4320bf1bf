// linux/netfilter/nfnetlink_conntrack.h: connection tracking over netlink.
export const header = "linux/netfilter/nfnetlink_conntrack.h";
export const CT = {
  IPCTNL_MSG_CT_NEW: 0, IPCTNL_MSG_CT_GET: 1, IPCTNL_MSG_CT_DELETE: 2,
  CTA_TUPLE_ORIG: 1, CTA_TUPLE_REPLY: 2, CTA_STATUS: 3, CTA_PROTOINFO: 4, CTA_TIMEOUT: 7, CTA_ID: 12, CTA_TUPLE_IP: 1, CTA_TUPLE_PROTO: 2, CTA_IP_V4_SRC: 1, CTA_IP_V4_DST: 2,
  CTA_PROTO_NUM: 1, CTA_PROTO_SRC_PORT: 2, CTA_PROTO_DST_PORT: 3, CTA_PROTOINFO_TCP: 1, CTA_PROTOINFO_TCP_STATE: 1,
} as const;
