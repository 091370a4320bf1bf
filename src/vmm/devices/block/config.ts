// What a block device says of itself: virtio_blk_config (virtio 1.2, 5.2.4) and its features.
import { MAP_BLOCK } from "../../../block-map.ts";
import { VIRTIO_BLK, virtio_blk_config } from "../../../ffi/abi/virtio_blk.ts";
import { bits } from "../../virtio/device.ts";

export const SECTOR = 512;
/** What a disk that is only read is addressed in; one that is written, in the blocks of its maps, whether it has layers yet or not. */
export const READONLY_BLOCK = 512, WRITABLE_BLOCK = MAP_BLOCK;
export const SEG_MAX = 126;
/** Linux caps a discard at this anyway; 1 GiB keeps one fallocate short. */
export const MAX_RANGE_SECTORS = 2 ** 21;

/** All but the capacity. `block` is the logical block size. */
export function blockConfig(block: number): DataView {
  const c = new DataView(new ArrayBuffer(virtio_blk_config.at.unused1)), at = virtio_blk_config.at;
  c.setUint32(at.seg_max, SEG_MAX, true);
  c.setUint32(at.blk_size, block, true);
  c.setUint8(at.physical_block_exp, Math.log2(MAP_BLOCK / block)); // smaller writes cost a read
  c.setUint16(at.min_io_size, 1, true);
  c.setUint16(at.num_queues, 1, true);
  c.setUint32(at.max_discard_sectors, MAX_RANGE_SECTORS, true);
  c.setUint32(at.max_discard_seg, 1, true);
  c.setUint32(at.discard_sector_alignment, MAP_BLOCK / SECTOR, true);
  c.setUint32(at.max_write_zeroes_sectors, MAX_RANGE_SECTORS, true);
  c.setUint32(at.max_write_zeroes_seg, 1, true);
  c.setUint8(at.write_zeroes_may_unmap, 1);
  return c;
}

export function blockFeatures(readonly: boolean): bigint {
  const common = bits(VIRTIO_BLK.VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK.VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK.VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK.VIRTIO_BLK_F_FLUSH);
  if (readonly) return common | bits(VIRTIO_BLK.VIRTIO_BLK_F_RO);
  return common | bits(VIRTIO_BLK.VIRTIO_BLK_F_DISCARD, VIRTIO_BLK.VIRTIO_BLK_F_WRITE_ZEROES);
}
