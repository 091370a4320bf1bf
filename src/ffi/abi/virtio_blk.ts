// linux/virtio_blk.h: block devices (virtio 1.2, 5.2).
import { struct, u16, u32, u64, u8 } from "./layout.ts";

export const header = "linux/virtio_blk.h";

/** `geometry` is {u16 cylinders, u8 heads, u8 sectors}. */
export const virtio_blk_config = struct("struct virtio_blk_config", header, {
  capacity: u64, size_max: u32, seg_max: u32, geometry: u32, blk_size: u32, physical_block_exp: u8, alignment_offset: u8, min_io_size: u16,
  opt_io_size: u32, wce: u8, unused: u8, num_queues: u16, max_discard_sectors: u32, max_discard_seg: u32, discard_sector_alignment: u32,
  max_write_zeroes_sectors: u32, max_write_zeroes_seg: u32, write_zeroes_may_unmap: u8, unused1: { size: 3, align: 1 },
  max_secure_erase_sectors: u32, max_secure_erase_seg: u32, secure_erase_sector_alignment: u32,
}, true);
export const virtio_blk_outhdr = struct("struct virtio_blk_outhdr", header, { type: u32, ioprio: u32, sector: u64 });
export const virtio_blk_discard_write_zeroes = struct("struct virtio_blk_discard_write_zeroes", header, { sector: u64, num_sectors: u32, flags: u32 });

export const VIRTIO_BLK = {
  VIRTIO_BLK_F_SEG_MAX: 2, VIRTIO_BLK_F_RO: 5, VIRTIO_BLK_F_BLK_SIZE: 6, VIRTIO_BLK_F_FLUSH: 9, VIRTIO_BLK_F_TOPOLOGY: 10, VIRTIO_BLK_F_DISCARD: 13, VIRTIO_BLK_F_WRITE_ZEROES: 14,
  VIRTIO_BLK_T_IN: 0, VIRTIO_BLK_T_OUT: 1, VIRTIO_BLK_T_FLUSH: 4, VIRTIO_BLK_T_GET_ID: 8, VIRTIO_BLK_T_DISCARD: 11, VIRTIO_BLK_T_WRITE_ZEROES: 13,
  VIRTIO_BLK_S_OK: 0, VIRTIO_BLK_S_IOERR: 1, VIRTIO_BLK_S_UNSUPP: 2, VIRTIO_BLK_ID_BYTES: 20, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP: 1,
} as const;
