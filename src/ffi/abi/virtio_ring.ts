// linux/virtio_ring.h and linux/virtio_config.h: split virtqueues (virtio 1.2, 2.7), status and reserved feature bits.
import { array, struct, u16, u32, u64 } from "./layout.ts";

export const header = "linux/virtio_ring.h";

export const vring_desc = struct("struct vring_desc", header, { addr: u64, len: u32, flags: u16, next: u16 });
/** `used_event` (u16) follows the ring. */
export const vring_avail = struct("struct vring_avail", header, { flags: u16, idx: u16, ring: array(u16, 0) });
export const vring_used_elem = struct("struct vring_used_elem", header, { id: u32, len: u32 });
/** `avail_event` (u16) follows the ring. */
export const vring_used = struct("struct vring_used", header, { flags: u16, idx: u16, ring: array(vring_used_elem, 0) });

export const VRING = { VRING_DESC_F_NEXT: 1, VRING_DESC_F_WRITE: 2, VRING_DESC_F_INDIRECT: 4, VRING_AVAIL_F_NO_INTERRUPT: 1 } as const;
/** Feature bits 24 to 41 belong to queue and transport. */
export const VIRTIO_F = { VIRTIO_RING_F_INDIRECT_DESC: 28, VIRTIO_RING_F_EVENT_IDX: 29, VIRTIO_F_VERSION_1: 32 } as const;
export const STATUS = {
  VIRTIO_CONFIG_S_ACKNOWLEDGE: 1, VIRTIO_CONFIG_S_DRIVER: 2, VIRTIO_CONFIG_S_DRIVER_OK: 4, VIRTIO_CONFIG_S_FEATURES_OK: 8,
  VIRTIO_CONFIG_S_NEEDS_RESET: 0x40, VIRTIO_CONFIG_S_FAILED: 0x80,
} as const;
