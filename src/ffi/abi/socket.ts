// sys/socket.h, sys/un.h, sys/uio.h: what passing messages and descriptors over Unix sockets needs (unix(7), cmsg(3)).
import { array, i32, struct, u16, u32, u64, u8 } from "./layout.ts";

export const header = "sys/socket.h";

export const SOCKET = {
  AF_UNIX: 1, SOCK_STREAM: 1, SOCK_SEQPACKET: 5, SOCK_NONBLOCK: 0o4000, SOCK_CLOEXEC: 0o2000000,
  SOL_SOCKET: 1, SO_SNDBUF: 7, SO_PEERCRED: 17, SCM_RIGHTS: 1,
  MSG_CTRUNC: 0x08, MSG_TRUNC: 0x20, MSG_DONTWAIT: 0x40, MSG_NOSIGNAL: 0x4000, MSG_CMSG_CLOEXEC: 0x40000000,
  SHUT_RD: 0, SHUT_WR: 1, SHUT_RDWR: 2,
} as const;

export const iovec = struct("struct iovec", "sys/uio.h", { iov_base: u64, iov_len: u64 });
export const msghdr = struct("struct msghdr", "sys/socket.h", {
  msg_name: u64, msg_namelen: u32, msg_iov: u64, msg_iovlen: u64, msg_control: u64, msg_controllen: u64, msg_flags: i32,
});
export const cmsghdr = struct("struct cmsghdr", "sys/socket.h", { cmsg_len: u64, cmsg_level: i32, cmsg_type: i32 });
export const sockaddr_un = struct("struct sockaddr_un", "sys/un.h", { sun_family: u16, sun_path: array(u8, 108) });
