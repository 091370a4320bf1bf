// linux/virtio_balloon.h: memory balloons (virtio 1.2, 5.5).
import { struct, u16, u32, u64 } from "./layout.ts";

export const header = "linux/virtio_balloon.h";

export const virtio_balloon_config = struct("struct virtio_balloon_config", header, { num_pages: u32, actual: u32, free_page_hint_cmd_id: u32, poison_val: u32 });
export const virtio_balloon_stat = struct("struct virtio_balloon_stat", header, { tag: u16, val: u64 }, true);
export const VIRTIO_BALLOON = {
  VIRTIO_BALLOON_F_STATS_VQ: 1, VIRTIO_BALLOON_F_DEFLATE_ON_OOM: 2, VIRTIO_BALLOON_F_REPORTING: 5, VIRTIO_BALLOON_PFN_SHIFT: 12,
  VIRTIO_BALLOON_S_SWAP_IN: 0, VIRTIO_BALLOON_S_SWAP_OUT: 1, VIRTIO_BALLOON_S_MAJFLT: 2, VIRTIO_BALLOON_S_MINFLT: 3, VIRTIO_BALLOON_S_MEMFREE: 4,
  VIRTIO_BALLOON_S_MEMTOT: 5, VIRTIO_BALLOON_S_AVAIL: 6, VIRTIO_BALLOON_S_CACHES: 7,
} as const;
