// LZ4 frames (lz4_Frame_format.md of the lz4 project, version 1.6.4) around the blocks that numcodecs makes: its LZ4 codec is
// the fast compressor and the decompressor; the high compression of levels 1 to 9 it has only inside of its Blosc container
// (c-blosc, README_CHUNK_FORMAT.rst), from which the blocks are taken out as they are. Both are WebAssembly inlined in their module.
import Blosc from "numcodecs/blosc";
import LZ4 from "numcodecs/lz4";

const MAGIC = 0x184d2204;
/** Version 1, independent blocks, content size given; no checksums: the file around the frames has them. */
const FLG = 0b0110_1000;
/** Blocks of at most 4 MiB. */
const BD = 7 << 4, BLOCK_MAX = 4 << 20;
const FRAME_HEADER = 15, CONTENT_SIZE_AT = 6;
/** In a block's size: its bytes are not compressed. */
const STORED = 0x80000000;

/** A run of the input: what it compresses to, or itself. */
interface Block { readonly bytes: Uint8Array; readonly stored: boolean }

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
const fast = LZ4.fromConfig({ id: LZ4.codecId });

/** One frame of `raw`, which has 1 byte to 4 MiB. Level 0 is the fast compressor, 1 to 9 are LZ4 HC. */
export async function lz4Compress(raw: Uint8Array, level: number): Promise<Uint8Array> {
  if (raw.length === 0 || raw.length > BLOCK_MAX) throw new RangeError(`Cannot make an LZ4 frame of ${raw.length} bytes`);
  return frame(raw.length, level === 0 ? [await fastBlock(raw)] : hcBlocks(raw, await Blosc.fromConfig({ id: Blosc.codecId, cname: "lz4hc", clevel: level, shuffle: 0, blocksize: 0 }).encode(raw)));
}

/** numcodecs puts the size of the input before the block. */
const PREFIX = 4;

async function fastBlock(raw: Uint8Array): Promise<Block> {
  const block = (await fast.encode(raw)).subarray(PREFIX);
  return block.length < raw.length ? { bytes: block, stored: false } : { bytes: raw, stored: true };
}

const BLOSC_HEADER = 16, BLOSC_MEMCPY = 0x02, BLOSC_WHOLE_BLOCKS = 0x10;

/** The LZ4 blocks in a Blosc buffer: blocks of equal size, each in as many streams as an item has bytes; the last may be shorter and is one stream. */
function hcBlocks(raw: Uint8Array, blosc: Uint8Array): Block[] {
  const view = viewOf(blosc);
  const flags = view.getUint8(2), streams = view.getUint8(3), blockSize = view.getUint32(8, true);
  if ((flags & BLOSC_MEMCPY) !== 0) return [{ bytes: raw, stored: true }];
  const blocks: Block[] = [];
  for (let start = 0, index = 0; start < raw.length; start += blockSize, index++) {
    const size = Math.min(blockSize, raw.length - start);
    const parts = (flags & BLOSC_WHOLE_BLOCKS) !== 0 || size < blockSize ? 1 : streams;
    let at = view.getUint32(BLOSC_HEADER + index * 4, true);
    for (let part = 0; part < parts; part++) {
      const length = view.getUint32(at, true);
      blocks.push({ bytes: blosc.subarray(at + 4, at + 4 + length), stored: length === size / parts });
      at += 4 + length;
    }
  }
  return blocks;
}

function frame(contentSize: number, blocks: readonly Block[]): Uint8Array {
  const out = new Uint8Array(FRAME_HEADER + blocks.reduce((sum, block) => sum + 4 + block.bytes.length, 0) + 4);
  const view = viewOf(out);
  view.setUint32(0, MAGIC, true);
  view.setUint8(4, FLG);
  view.setUint8(5, BD);
  view.setBigUint64(CONTENT_SIZE_AT, BigInt(contentSize), true);
  view.setUint8(FRAME_HEADER - 1, headerChecksum(out));
  let at = FRAME_HEADER;
  for (const { bytes, stored } of blocks) {
    view.setUint32(at, stored ? bytes.length + STORED : bytes.length, true);
    out.set(bytes, at + 4);
    at += 4 + bytes.length;
  }
  return out; // the end mark, four zeroes, is there already
}

const headerChecksum = (bytes: Uint8Array): number => (Bun.hash.xxHash32(bytes.subarray(4, FRAME_HEADER - 1)) >>> 8) & 0xff;

/** What a frame of lz4Compress() was made of, `rawBytes` of it. Null where it is anything else; nothing larger is made than that. */
export async function lz4Decompress(bytes: Uint8Array, rawBytes: number): Promise<Uint8Array | null> {
  if (bytes.length < FRAME_HEADER + 4) return null;
  const view = viewOf(bytes);
  if (view.getUint32(0, true) !== MAGIC || view.getUint8(4) !== FLG || view.getUint8(5) !== BD) return null;
  if (view.getBigUint64(CONTENT_SIZE_AT, true) !== BigInt(rawBytes) || view.getUint8(FRAME_HEADER - 1) !== headerChecksum(bytes)) return null;
  const out = new Uint8Array(rawBytes);
  let at = FRAME_HEADER, made = 0;
  while (at + 4 <= bytes.length) {
    const size = view.getUint32(at, true), length = size % STORED;
    at += 4;
    if (size === 0) return at === bytes.length && made === rawBytes ? out : null;
    if (at + length > bytes.length) return null;
    const block = bytes.subarray(at, at + length);
    const raw = size >= STORED ? block : await rawBlock(block, rawBytes - made);
    if (raw === null || raw.length > rawBytes - made) return null;
    out.set(raw, made);
    made += raw.length;
    at += length;
  }
  return null;
}

/** At most `most` bytes: the library makes room for exactly what the prefix says, and the decompressor keeps to it. */
async function rawBlock(block: Uint8Array, most: number): Promise<Uint8Array | null> {
  const input = new Uint8Array(PREFIX + block.length);
  viewOf(input).setUint32(0, Math.min(most, BLOCK_MAX), true);
  input.set(block, PREFIX);
  try {
    return await fast.decode(input);
  } catch {
    return null; // a damaged block: the library makes a view of -1 bytes
  }
}
