// Unix sockets that carry packets and descriptors: unix(7), SOCK_SEQPACKET and SCM_RIGHTS. All descriptors are
// close-on-exec and non-blocking unless said otherwise; errors are thrown as SysError where no -errno is returned.
import { ptr } from "bun:ffi";
import { E } from "./abi/errno.ts";
import { cmsghdr, iovec, msghdr, SOCKET, sockaddr_un } from "./abi/socket.ts";
import { SYS } from "./abi/syscalls.ts";
import { closeFd, openFd } from "./fd.ts";
import { must, syscall } from "./syscall.ts";

const FLAGS = SOCKET.SOCK_NONBLOCK | SOCKET.SOCK_CLOEXEC;
/** SCM_MAX_FD of the kernel is 253; nothing of ours sends near as many. */
const MAX_FDS = 64;
/** A daemon connects, and the next one: more at once never do. */
const BACKLOG = 8;
const CONTROL_SIZE = cmsghdr.size + MAX_FDS * 4;
const O_PATH = 0o10000000, O_DIRECTORY = 0o200000;

function socketPair(type: number): [number, number] {
  const pair = new Int32Array(2);
  must("Cannot make a pair of sockets", SYS.socketpair, SOCKET.AF_UNIX, type | FLAGS, 0, pair);
  return [pair[0]!, pair[1]!];
}

/** Two connected sockets; both owned by the caller. */
export const streamPair = (): [number, number] => socketPair(SOCKET.SOCK_STREAM);
export const packetPair = (): [number, number] => socketPair(SOCKET.SOCK_SEQPACKET);

/** Binds and listens at `path`, which must not exist. Mode is what umask leaves. */
export function listenSeqpacket(path: string): number {
  return withSocket(path, (fd, address) => {
    must(`Cannot bind a socket to ${path}`, SYS.bind, fd, address, address.length);
    must(`Cannot listen on ${path}`, SYS.listen, fd, BACKLOG);
  });
}

/** Connects to the listener at `path`. ECONNREFUSED: nobody holds it any more; EAGAIN: its backlog is full. */
export function connectSeqpacket(path: string): number {
  return withSocket(path, (fd, address) => must(`Cannot connect to ${path}`, SYS.connect, fd, address, address.length));
}

/**
 * A socket set up by `use`. The address goes through a descriptor of its folder: `sun_path` has only 108 bytes, and
 * a data folder may lie deep.
 */
function withSocket(path: string, use: (fd: number, address: Uint8Array) => void): number {
  const slash = path.lastIndexOf("/");
  const folder = openFd(slash < 0 ? "." : path.slice(0, slash + 1), O_PATH | O_DIRECTORY);
  let fd = -1;
  try {
    fd = must("Cannot make a socket", SYS.socket, SOCKET.AF_UNIX, SOCKET.SOCK_SEQPACKET | FLAGS, 0);
    use(fd, unixAddress(`/proc/self/fd/${folder}/${path.slice(slash + 1)}`));
    return fd;
  } catch (error) {
    if (fd >= 0) closeFd(fd);
    throw error;
  } finally {
    closeFd(folder);
  }
}

function unixAddress(path: string): Uint8Array {
  const encoded = Buffer.from(path);
  if (encoded.length >= sockaddr_un.sizes.sun_path) throw new Error(`Cannot use ${path} as a socket's address: it is too long`);
  const bytes = new Uint8Array(sockaddr_un.size);
  new DataView(bytes.buffer).setUint16(sockaddr_un.at.sun_family, SOCKET.AF_UNIX, true);
  bytes.set(encoded, sockaddr_un.at.sun_path);
  return bytes;
}

/** The next connection of a listener (non-blocking), or -errno (-EAGAIN: none waits). */
export const acceptConnection = (listener: number): number => syscall(SYS.accept4, listener, 0, 0, FLAGS);

/**
 * Sends one packet with descriptors, which stay the caller's too. Returns its length or -errno: -EAGAIN while the
 * receiver's queue is full, -EPIPE or -ECONNRESET when there is none, -EMSGSIZE above the socket's buffer.
 */
export function sendPacket(fd: number, bytes: Uint8Array, fds: readonly number[] = []): number {
  if (fds.length > MAX_FDS) return -E.EINVAL;
  const control = new Uint8Array(fds.length === 0 ? 0 : cmsgSpace(fds.length));
  if (fds.length > 0) {
    const view = new DataView(control.buffer);
    view.setBigUint64(cmsghdr.at.cmsg_len, BigInt(cmsghdr.size + fds.length * 4), true);
    view.setInt32(cmsghdr.at.cmsg_level, SOCKET.SOL_SOCKET, true);
    view.setInt32(cmsghdr.at.cmsg_type, SOCKET.SCM_RIGHTS, true);
    fds.forEach((one, i) => view.setInt32(cmsghdr.size + i * 4, one, true));
  }
  const message = messageHeader(bytes, control);
  for (;;) {
    const n = syscall(SYS.sendmsg, fd, message.header, SOCKET.MSG_NOSIGNAL);
    if (n !== -E.EINTR) return keep(n, message);
  }
}

/** Keeps the buffers whose addresses stand in a header referenced until the call has returned. */
const keep = <T>(value: T, _referenced: object): T => value;

export interface Packet { readonly bytes: Uint8Array; readonly fds: readonly number[] }

/**
 * The next packet, its bytes copied, its descriptors owned by the caller; "again" where none waits; null where the peer
 * has gone or the packet was longer than `buffer` (its descriptors are closed). Empty packets are never sent.
 */
export function receivePacket(fd: number, buffer: Uint8Array): Packet | "again" | null {
  const message = messageHeader(buffer, new Uint8Array(CONTROL_SIZE));
  let received: number;
  // A peer that ended before it had read all that it was sent shows first as ECONNRESET, once; its own last packets still come behind that.
  do received = syscall(SYS.recvmsg, fd, message.header, SOCKET.MSG_CMSG_CLOEXEC);
  while (received === -E.EINTR || received === -E.ECONNRESET);
  if (received === -E.EAGAIN) return "again";
  if (received < 0) return null;
  const fds = descriptorsIn(message.control, Number(message.header.getBigUint64(msghdr.at.msg_controllen, true)));
  const flags = message.header.getInt32(msghdr.at.msg_flags, true);
  if (received === 0 || (flags & (SOCKET.MSG_TRUNC | SOCKET.MSG_CTRUNC)) !== 0) {
    fds.forEach(closeFd);
    return null;
  }
  return keep({ bytes: buffer.slice(0, received), fds }, message);
}

/** `struct msghdr` over the two buffers. It holds their addresses, so all three stay referenced by the answer. */
function messageHeader(bytes: Uint8Array, control: Uint8Array) {
  const vector = new DataView(new ArrayBuffer(iovec.size));
  vector.setBigUint64(iovec.at.iov_base, BigInt(bytes.length === 0 ? 0 : ptr(bytes)), true);
  vector.setBigUint64(iovec.at.iov_len, BigInt(bytes.length), true);
  const header = new DataView(new ArrayBuffer(msghdr.size));
  header.setBigUint64(msghdr.at.msg_iov, BigInt(ptr(vector)), true);
  header.setBigUint64(msghdr.at.msg_iovlen, 1n, true);
  header.setBigUint64(msghdr.at.msg_control, BigInt(control.length === 0 ? 0 : ptr(control)), true);
  header.setBigUint64(msghdr.at.msg_controllen, BigInt(control.length), true);
  return { header, vector, bytes, control };
}

/** CMSG_SPACE: the data follow the header, and the whole is aligned to 8 bytes. */
const cmsgSpace = (fds: number) => Math.ceil((cmsghdr.size + fds * 4) / 8) * 8;

function descriptorsIn(control: Uint8Array, used: number): number[] {
  const view = new DataView(control.buffer);
  const fds: number[] = [];
  for (let at = 0; at + cmsghdr.size <= used; ) {
    const length = Number(view.getBigUint64(at + cmsghdr.at.cmsg_len, true));
    if (length < cmsghdr.size || at + length > used) break;
    const rights = view.getInt32(at + cmsghdr.at.cmsg_level, true) === SOCKET.SOL_SOCKET && view.getInt32(at + cmsghdr.at.cmsg_type, true) === SOCKET.SCM_RIGHTS;
    if (rights) for (let i = at + cmsghdr.size; i + 4 <= at + length; i += 4) fds.push(view.getInt32(i, true));
    at += Math.ceil(length / 8) * 8;
  }
  return fds;
}
