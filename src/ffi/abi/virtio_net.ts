// linux/virtio_net.h: network devices (virtio 1.2, 5.1).
import { array, struct, u16, u32, u8 } from "./layout.ts";

export const header = "linux/virtio_net.h";

export const virtio_net_config = struct("struct virtio_net_config", header, {
  mac: array(u8, 6), status: u16, max_virtqueue_pairs: u16, mtu: u16, speed: u32, duplex: u8, rss_max_key_size: u8,
  rss_max_indirection_table_length: u16, supported_hash_types: u32,
}, true);
/** What stands before each frame, on the TAP and in the queues; `num_buffers` is part of it in virtio 1.x. */
export const virtio_net_hdr_mrg_rxbuf = struct("struct virtio_net_hdr_mrg_rxbuf", header, {
  hdr: struct("struct virtio_net_hdr", header, { flags: u8, gso_type: u8, hdr_len: u16, gso_size: u16, csum_start: u16, csum_offset: u16 }), num_buffers: u16,
});
export const VIRTIO_NET = {
  VIRTIO_NET_F_CSUM: 0, VIRTIO_NET_F_GUEST_CSUM: 1, VIRTIO_NET_F_MTU: 3, VIRTIO_NET_F_MAC: 5, VIRTIO_NET_F_GUEST_TSO4: 7, VIRTIO_NET_F_GUEST_TSO6: 8,
  VIRTIO_NET_F_GUEST_ECN: 9, VIRTIO_NET_F_GUEST_UFO: 10, VIRTIO_NET_F_HOST_TSO4: 11, VIRTIO_NET_F_HOST_TSO6: 12, VIRTIO_NET_F_HOST_ECN: 13,
  VIRTIO_NET_F_HOST_UFO: 14, VIRTIO_NET_F_MRG_RXBUF: 15, VIRTIO_NET_F_STATUS: 16, VIRTIO_NET_S_LINK_UP: 1,
} as const;
