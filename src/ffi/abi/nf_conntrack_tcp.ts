// linux/netfilter/nf_conntrack_tcp.h: how far connection tracking has seen a TCP connection come.
export const header = "linux/netfilter/nf_conntrack_tcp.h";
export const TCP_CONNTRACK = {
  TCP_CONNTRACK_SYN_SENT: 1, TCP_CONNTRACK_SYN_RECV: 2, TCP_CONNTRACK_ESTABLISHED: 3, TCP_CONNTRACK_FIN_WAIT: 4, TCP_CONNTRACK_CLOSE_WAIT: 5,
  TCP_CONNTRACK_LAST_ACK: 6, TCP_CONNTRACK_TIME_WAIT: 7, TCP_CONNTRACK_CLOSE: 8,
} as const;
