// linux/if.h: flags of a link, and the size of its name.
export const header = "linux/if.h";
export const IF = { IFNAMSIZ: 16, IFF_UP: 1, IFF_LOOPBACK: 8 } as const;
