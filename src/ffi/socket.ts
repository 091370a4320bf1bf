// Unix sockets whose packets carry descriptors: SOCK_SEQPACKET with SCM_RIGHTS (unix(7), cmsg(3)), and stream pairs.
import { ptr } from "bun:ffi";
import { cstring, must, syscall } from "./syscall.ts";
import { SYS } from "./abi/syscalls.ts";
import { E } from "./abi/errno.ts";
import { closeFd, O_CLOEXEC, O_NONBLOCK } from "./fd.ts";

const AF_UNIX = 1, SOCK_STREAM = 1, SOCK_SEQPACKET = 5;
const SOL_SOCKET = 1, SCM_RIGHTS = 1;
const MSG_NOSIGNAL = 0x4000, MSG_CMSG_CLOEXEC = 0x40000000, MSG_TRUNC = 0x20, MSG_CTRUNC = 0x8;
/** SCM_MAX_FD, net/scm.h. */
export const MAX_FDS = 253;
const SUN_PATH_MAX = 108;
const CMSG_HEADER = 16; // struct cmsghdr: size_t len, int level, int type
const MSGHDR_SIZE = 56, IOVEC_SIZE = 16;

/** struct sockaddr_un for a path; the length counts the terminating NUL. */
function unixAddress(path: string): Uint8Array {
  const name = cstring(path);
  if (name.length > SUN_PATH_MAX) throw new Error(`Cannot use ${path} as a socket: longer than ${SUN_PATH_MAX - 1} bytes`);
  const address = new Uint8Array(2 + name.length);
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  address.set(name, 2);
  return address;
}

const socket = (type: number) => must("Cannot create a socket", SYS.socket, AF_UNIX, type | O_CLOEXEC | O_NONBLOCK, 0);

/** A listening socket at `path`, which must not exist. Non-blocking, owned by the caller. */
export function listenSeqpacket(path: string): number {
  const fd = socket(SOCK_SEQPACKET);
  try {
    const address = unixAddress(path);
    must(`Cannot bind ${path}`, SYS.bind, fd, address, address.length);
    must(`Cannot listen on ${path}`, SYS.listen, fd, 8);
    return fd;
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}

/** A connection to `path`; throws SysError (ECONNREFUSED: nobody listens any more, ENOENT: no such socket). */
export function connectSeqpacket(path: string): number {
  const fd = socket(SOCK_SEQPACKET);
  try {
    const address = unixAddress(path);
    must(`Cannot connect to ${path}`, SYS.connect, fd, address, address.length);
    return fd;
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}

/** A waiting connection (non-blocking), or -errno. */
export const acceptConnection = (fd: number): number => syscall(SYS.accept4, fd, 0, 0, O_CLOEXEC | O_NONBLOCK);

/** Two connected stream sockets, non-blocking, close-on-exec; both owned by the caller. */
export function streamPair(): [number, number] {
  const pair = new Int32Array(2);
  must("Cannot create a socket pair", SYS.socketpair, AF_UNIX, SOCK_STREAM | O_CLOEXEC | O_NONBLOCK, 0, pair);
  return [pair[0]!, pair[1]!];
}

/** struct msghdr over one iovec; the buffers stay referenced by the caller for the time of the call. */
function messageHeader(iovec: BigUint64Array, control: Uint8Array | null): DataView {
  const header = new DataView(new ArrayBuffer(MSGHDR_SIZE));
  header.setBigUint64(16, BigInt(ptr(iovec)), true);
  header.setBigUint64(24, 1n, true);
  if (control !== null) {
    header.setBigUint64(32, BigInt(ptr(control)), true);
    header.setBigUint64(40, BigInt(control.length), true);
  }
  return header;
}

const iovecOf = (bytes: Uint8Array) => new BigUint64Array([BigInt(ptr(bytes)), BigInt(bytes.length)]);

/** Sends one packet with descriptors, which stay the caller's too. Returns bytes sent or -errno (-EAGAIN: the peer reads too slowly). */
export function sendPacket(fd: number, bytes: Uint8Array, fds: readonly number[]): number {
  if (fds.length > MAX_FDS) return -E.EINVAL;
  let control: Uint8Array | null = null;
  if (fds.length > 0) {
    const length = CMSG_HEADER + fds.length * 4;
    control = new Uint8Array(Math.ceil(length / 8) * 8);
    const view = new DataView(control.buffer);
    view.setBigUint64(0, BigInt(length), true);
    view.setInt32(8, SOL_SOCKET, true);
    view.setInt32(12, SCM_RIGHTS, true);
    fds.forEach((n, i) => view.setInt32(CMSG_HEADER + i * 4, n, true));
  }
  const iovec = iovecOf(bytes);
  const header = messageHeader(iovec, control);
  for (;;) {
    const sent = syscall(SYS.sendmsg, fd, header, MSG_NOSIGNAL);
    if (sent !== -E.EINTR) return keep(sent, iovec, control, bytes);
  }
}

/** Keeps buffers whose addresses stand in a header referenced until the call has returned. */
const keep = <T>(value: T, ..._referenced: unknown[]): T => value;

export interface Packet { readonly bytes: Uint8Array; readonly fds: readonly number[] }

/**
 * The next packet, its bytes copied, its descriptors owned by the caller; "again" where none waits; null where the peer
 * has gone or the packet was longer than `buffer` (its descriptors are closed).
 */
export function receivePacket(fd: number, buffer: Uint8Array): Packet | "again" | null {
  const control = new Uint8Array(CMSG_HEADER + MAX_FDS * 4 + 4);
  const iovec = iovecOf(buffer);
  const header = messageHeader(iovec, control);
  let received = syscall(SYS.recvmsg, fd, header, MSG_CMSG_CLOEXEC);
  while (received === -E.EINTR) received = syscall(SYS.recvmsg, fd, header, MSG_CMSG_CLOEXEC);
  if (received === -E.EAGAIN) return "again";
  if (received < 0) return null;
  const fds = descriptorsOf(control, Number(header.getBigUint64(40, true)));
  const flags = header.getInt32(48, true);
  if (received === 0 || (flags & (MSG_TRUNC | MSG_CTRUNC)) !== 0) {
    fds.forEach(closeFd);
    return null;
  }
  return keep({ bytes: buffer.slice(0, received), fds }, iovec, control);
}

function descriptorsOf(control: Uint8Array, length: number): number[] {
  const view = new DataView(control.buffer);
  const fds: number[] = [];
  for (let at = 0; at + CMSG_HEADER <= length; ) {
    const size = Number(view.getBigUint64(at, true));
    if (size < CMSG_HEADER) break;
    if (view.getInt32(at + 8, true) === SOL_SOCKET && view.getInt32(at + 12, true) === SCM_RIGHTS)
      for (let n = at + CMSG_HEADER; n + 4 <= at + size; n += 4) fds.push(view.getInt32(n, true));
    at += Math.ceil(size / 8) * 8;
  }
  return fds;
}
