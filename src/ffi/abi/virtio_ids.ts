// linux/virtio_ids.h: device types.
export const header = "linux/virtio_ids.h";
export const VIRTIO_ID = {
  VIRTIO_ID_NET: 1, VIRTIO_ID_BLOCK: 2, VIRTIO_ID_CONSOLE: 3, VIRTIO_ID_RNG: 4, VIRTIO_ID_BALLOON: 5, VIRTIO_ID_VSOCK: 19,
} as const;
