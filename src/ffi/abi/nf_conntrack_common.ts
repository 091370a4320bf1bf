// linux/netfilter/nf_conntrack_common.h: bits of a connection's status.
export const header = "linux/netfilter/nf_conntrack_common.h";
export const IPS = { IPS_SEEN_REPLY: 2, IPS_ASSURED: 4, IPS_SRC_NAT: 16, IPS_DST_NAT: 32 } as const;
