// linux/netfilter.h: hooks, verdicts and families.
export const header = "linux/netfilter.h";
export const NF = {
  NF_DROP: 0, NF_ACCEPT: 1, NF_INET_PRE_ROUTING: 0, NF_INET_LOCAL_IN: 1, NF_INET_FORWARD: 2, NF_INET_LOCAL_OUT: 3, NF_INET_POST_ROUTING: 4,
  NFPROTO_UNSPEC: 0, NFPROTO_INET: 1, NFPROTO_IPV4: 2, NFPROTO_IPV6: 10,
} as const;
