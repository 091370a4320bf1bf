// TAP devices (linux/if_tun.h). A device made here lives as long as somebody holds its descriptor.
import { ptr } from "bun:ffi";
import { E } from "./abi/errno.ts";
import { sock_filter } from "./abi/filter.ts";
import { ifreq, ioctls, sock_fprog, TUN } from "./abi/if_tun.ts";
import { SYS } from "./abi/syscalls.ts";
import { closeFd, O_NONBLOCK, O_RDWR, openFd } from "./fd.ts";
import { must, syscall, SysError } from "./syscall.ts";

export const { TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_UFO } = TUN;

/** Size of the `virtio_net_hdr` before each frame: with `num_buffers`, as virtio 1.x always has it. */
export const VNET_HDR_SIZE = 12;

/**
 * Creates the TAP `name` (at most 15 bytes), or attaches to it where it exists and nobody has it open (EBUSY otherwise).
 * Returns a non-blocking descriptor, owned by the caller; frames carry a header of VNET_HDR_SIZE bytes, offloads are off.
 */
export function openTapDevice(name: string): number {
  const fd = openFd("/dev/net/tun", O_RDWR | O_NONBLOCK);
  try {
    must(`Cannot create the TAP ${name}`, SYS.ioctl, fd, ioctls.TUNSETIFF, request(name, TUN.IFF_TAP | TUN.IFF_NO_PI | TUN.IFF_VNET_HDR));
    setVnetHeaderSize(fd, VNET_HDR_SIZE);
    setOffloads(fd, 0);
    return fd;
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}

function request(name: string, flags: number): Uint8Array {
  const bytes = new Uint8Array(ifreq.size);
  const encoded = Buffer.from(name);
  if (encoded.length >= ifreq.sizes.ifr_name) throw new SysError(`Cannot use the interface name ${name}`, E.ENAMETOOLONG);
  bytes.set(encoded);
  new DataView(bytes.buffer).setUint16(ifreq.at.ifr_ifru, flags, true);
  return bytes;
}

/** Which offloads the reader of the TAP takes (TUN_F_…); 0 has the kernel fill in checksums and cut segments. */
export const setOffloads = (fd: number, offloads: number): void => void must("Cannot set a TAP's offloads", SYS.ioctl, fd, ioctls.TUNSETOFFLOAD, offloads);

const setVnetHeaderSize = (fd: number, bytes: number): void =>
  void must("Cannot set a TAP's header size", SYS.ioctl, fd, ioctls.TUNSETVNETHDRSZ, new Int32Array([bytes]));

/** The name of the device behind a descriptor. */
export function tapName(fd: number): string {
  const bytes = request("", 0);
  must("Cannot name a TAP", SYS.ioctl, fd, ioctls.TUNGETIFF, bytes);
  return Buffer.from(bytes.subarray(0, bytes.indexOf(0))).toString();
}

/** False once the device was removed from the host, whoever has it open. */
export function isTapThere(fd: number): boolean {
  try {
    return tapName(fd) !== "";
  } catch (error) {
    if (error instanceof SysError && error.errno === E.EBADFD) return false;
    throw error;
  }
}

/** Has the kernel drop the frames for which the classic BPF program (one `struct sock_filter` after another) returns 0. Replaces the one before. */
export function attachFilter(fd: number, program: Uint8Array): void {
  const fprog = new DataView(new ArrayBuffer(sock_fprog.size));
  fprog.setUint16(sock_fprog.at.len, program.length / sock_filter.size, true);
  fprog.setBigUint64(sock_fprog.at.filter, BigInt(ptr(program)), true); // the kernel copies it inside the call, while `program` is referenced
  must("Cannot attach a filter to a TAP", SYS.ioctl, fd, ioctls.TUNATTACHFILTER, fprog);
}

/** Where there is none, or the device was removed meanwhile (EBADFD), that is fine. */
export function detachFilter(fd: number): void {
  const none = new Uint8Array(sock_fprog.size); // the kernel copies what it does not look at
  const result = syscall(SYS.ioctl, fd, ioctls.TUNDETACHFILTER, none);
  if (result < 0 && result !== -E.EBADFD) throw new SysError("Cannot detach a TAP's filter", -result);
}
