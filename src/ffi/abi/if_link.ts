// linux/if_link.h: attributes of a link.
export const header = "linux/if_link.h";
export const IFLA = {
  IFLA_ADDRESS: 1, IFLA_IFNAME: 3, IFLA_MTU: 4, IFLA_OPERSTATE: 16, IFLA_LINKINFO: 18, IFLA_CARRIER: 33,
  IFLA_INFO_KIND: 1,
} as const;
