// The file of a block map: which blocks of a disk one of its layers holds. The monitor reads and writes it (src/vmm/devices/block),
// the daemon makes it and settles it after a crash of the host (src/host/disks).
//
//   page 0     header: magic, version, block size, bytes of the disk, CRC-32 of all these
//   `now`      a bit a block, lowest first: set once the block's data has been written
//   `flushed`  the same as of the last flush: bits only of blocks whose data is on the storage
//
// Why two: the page cache outlives every process, so `now` is the truth as long as the host runs. But a host that loses its power may
// have kept a bit of `now` and not the block's data, and the block would read as zeroes, neither old nor new: then `flushed` is the truth.
export const MAP_BLOCK = 4096;
const PAGE = 4096;
const MAGIC = 0x50414d4b434f4c42n; // "BLOCKMAP"
const VERSION = 1;
const AT = { magic: 0, version: 8, block: 12, bytes: 16, crc: 24 } as const;

export interface MapLayout {
  readonly blocks: number;
  /** Of each of the two regions; whole pages. */
  readonly regionBytes: number;
  readonly nowAt: number;
  readonly flushedAt: number;
  readonly fileBytes: number;
}

export function mapLayout(diskBytes: number): MapLayout {
  const blocks = Math.floor(diskBytes / MAP_BLOCK);
  const regionBytes = Math.max(Math.ceil(blocks / 8 / PAGE), 1) * PAGE;
  return { blocks, regionBytes, nowAt: PAGE, flushedAt: PAGE + regionBytes, fileBytes: PAGE + 2 * regionBytes };
}

/** The first page of the map of a disk of `diskBytes`; the rest of a new map is zero. */
export function mapHeader(diskBytes: number): Uint8Array<ArrayBuffer> {
  const page = new Uint8Array(PAGE), v = new DataView(page.buffer);
  v.setBigUint64(AT.magic, MAGIC, true);
  v.setUint32(AT.version, VERSION, true);
  v.setUint32(AT.block, MAP_BLOCK, true);
  v.setBigUint64(AT.bytes, BigInt(diskBytes), true);
  v.setUint32(AT.crc, Bun.hash.crc32(page.subarray(0, AT.crc)), true);
  return page;
}

/** What is wrong with the header of a map file of `fileBytes`, that should belong to a disk of `diskBytes`; null where nothing is. */
export function mapFault(header: Uint8Array<ArrayBuffer>, fileBytes: number, diskBytes: number): string | null {
  if (header.length < AT.crc + 4) return `it has ${fileBytes} bytes only`;
  const v = new DataView(header.buffer, header.byteOffset, header.length);
  if (v.getBigUint64(AT.magic, true) !== MAGIC) return "it is no block map";
  if (v.getUint32(AT.crc, true) !== Bun.hash.crc32(header.subarray(0, AT.crc))) return "the checksum of its header is wrong";
  if (v.getUint32(AT.version, true) !== VERSION || v.getUint32(AT.block, true) !== MAP_BLOCK) return "it is of another version";
  const bytes = Number(v.getBigUint64(AT.bytes, true));
  if (bytes !== diskBytes) return `it belongs to a disk of ${bytes} bytes, and this one has ${diskBytes}`;
  const wanted = mapLayout(diskBytes).fileBytes;
  return fileBytes === wanted ? null : `it has ${fileBytes} bytes instead of ${wanted}`;
}
