// Which of the kernel's offloads a guest can have on its way in: TUNSETOFFLOAD (linux/if_tun.h) against virtio's feature bits.
import { TUN } from "../../../ffi/abi/if_tun.ts";
import { VIRTIO_NET } from "../../../ffi/abi/virtio_net.ts";
import { setOffloads } from "../../../ffi/tun.ts";
import { SysError } from "../../../ffi/syscall.ts";
import { bits, hasBit } from "../../virtio/device.ts";

/** virtio bit, TUN_F flag; the checksum first, as the others build on it. */
const PAIRS = [
  [VIRTIO_NET.VIRTIO_NET_F_GUEST_CSUM, TUN.TUN_F_CSUM],
  [VIRTIO_NET.VIRTIO_NET_F_GUEST_TSO4, TUN.TUN_F_TSO4],
  [VIRTIO_NET.VIRTIO_NET_F_GUEST_TSO6, TUN.TUN_F_TSO6],
  [VIRTIO_NET.VIRTIO_NET_F_GUEST_ECN, TUN.TUN_F_TSO_ECN],
] as const;
const ALL = PAIRS.reduce((flags, [, flag]) => flags | flag, 0);

/** The guest's receive features that this TAP can serve; none where it can't (or is no TAP). */
export function guestOffloads(fd: number): bigint {
  try {
    setOffloads(fd, ALL);
    setOffloads(fd, 0);
  } catch (error) {
    if (error instanceof SysError) return 0n;
    throw error;
  }
  return bits(...PAIRS.map(([bit]) => bit));
}

/** Sets what a driver has agreed to. True if segments longer than the MTU may come. */
export function applyOffloads(fd: number, features: bigint): boolean {
  let flags = 0;
  if (hasBit(features, VIRTIO_NET.VIRTIO_NET_F_GUEST_CSUM)) for (const [bit, flag] of PAIRS) if (hasBit(features, bit)) flags |= flag;
  try {
    setOffloads(fd, flags);
  } catch (error) {
    // Nothing was offered if the probe failed; then nothing can be set, and nothing is needed.
    if (!(error instanceof SysError) || flags !== 0) throw error;
  }
  return (flags & ~TUN.TUN_F_CSUM) !== 0;
}
