// The file of compressed memory, version 1: header, chunk records, trailer. Little endian; README.md has the tables.
// Everything here looks at bytes only. A reader believes nothing before its checksum and its bounds were looked at.
import type { Algorithm } from "./codec.ts";

const MAGIC = Buffer.from("DMZMEM\x1a\n", "latin1");
export const VERSION = 1;
export const HEADER_BYTES = 64, RECORD_BYTES = 40, RUN_BYTES = 16;

/** Raw bytes of a chunk: one is compressed at a time, and a job that is called off ends after one. */
export const CHUNK_BYTES = 2 << 20;
/** Runs of a chunk: pages that lie alone. */
export const CHUNK_RUNS = 1024;
// What a reader takes, of any writer of this version.
const MAX_CHUNK_BYTES = 16 << 20, MAX_LOGICAL_BYTES = 2 ** 40;

const ALGORITHMS: readonly Algorithm[] = ["zstd", "lz4"];
const CHUNK = 1, TRAILER = 2;
const STORED = 0, COMPRESSED = 1;

export class FormatError extends Error {
  override readonly name = "FormatError";
  constructor(readonly code: "snapshot.damaged" | "snapshot.incompatible", message: string) { super(message); }
}
const damaged = (why: string): FormatError => new FormatError("snapshot.damaged", why);
const incompatible = (why: string): FormatError => new FormatError("snapshot.incompatible", why);

export interface Header {
  readonly algorithm: Algorithm;
  readonly level: number;
  readonly chunkBytes: number;
  /** Size of the raw file, holes and all. */
  readonly logicalBytes: number;
  /** Random; goes into every checksum, so that a record of another file is none of this one's. */
  readonly nonce: bigint;
}

/** A run of the raw file's data. */
export interface Run { readonly offset: number; readonly bytes: number }

export interface ChunkHead {
  readonly kind: "chunk";
  readonly runs: number;
  readonly rawBytes: number;
  readonly storedBytes: number;
  readonly compressed: boolean;
  /** xxHash64 of the raw bytes. */
  readonly rawHash: bigint;
}
export interface Trailer { readonly kind: "trailer"; readonly chunks: number; readonly dataBytes: number; readonly fileBytes: number }

export const hash = (bytes: Uint8Array, seed = 0n): bigint => Bun.hash.xxHash64(bytes as Uint8Array<ArrayBuffer>, seed);
const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
const number = (view: DataView, at: number): number => Number(view.getBigUint64(at, true));

export function encodeHeader(header: Header): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES), view = viewOf(bytes);
  bytes.set(MAGIC);
  view.setUint32(8, VERSION, true);
  view.setUint32(12, ALGORITHMS.indexOf(header.algorithm) + 1, true);
  view.setUint32(16, header.level, true);
  view.setUint32(20, header.chunkBytes, true);
  view.setBigUint64(24, BigInt(header.logicalBytes), true);
  view.setBigUint64(32, header.nonce, true);
  view.setBigUint64(56, hash(bytes.subarray(0, 56)), true);
  return bytes;
}

/** Throws FormatError: foreign, damaged, newer, or asking for more than there can be. */
export function decodeHeader(bytes: Uint8Array): Header {
  if (bytes.length < HEADER_BYTES) throw damaged("it is truncated in its header");
  if (!MAGIC.equals(bytes.subarray(0, MAGIC.length))) throw damaged("it is no compressed memory of Dormouse's");
  const view = viewOf(bytes);
  const version = view.getUint32(8, true);
  if (view.getBigUint64(56, true) !== hash(bytes.subarray(0, 56))) throw damaged("its header's checksum is wrong");
  if (version > VERSION) throw incompatible(`a newer version of Dormouse has written it (format ${version}, and this one reads up to ${VERSION})`);
  const algorithm = ALGORITHMS[view.getUint32(12, true) - 1];
  if (version !== VERSION || algorithm === undefined) throw incompatible("it is of a format or compression that this version of Dormouse doesn't know");
  const header = { algorithm, level: view.getUint32(16, true), chunkBytes: view.getUint32(20, true), logicalBytes: number(view, 24), nonce: view.getBigUint64(32, true) };
  if (header.chunkBytes === 0 || header.chunkBytes > MAX_CHUNK_BYTES) throw damaged(`it claims chunks of ${header.chunkBytes} bytes`);
  if (header.logicalBytes > MAX_LOGICAL_BYTES) throw damaged(`it claims ${header.logicalBytes} bytes of memory`);
  return header;
}

/** Checksum of a record and what follows it: of this file, at this place. */
function recordHash(head: Uint8Array, payload: readonly Uint8Array[], nonce: bigint, index: number): bigint {
  return payload.reduce((seed, part) => hash(part, seed), hash(head.subarray(0, 32), BigInt.asUintN(64, nonce + BigInt(index))));
}

export function encodeChunk(chunk: ChunkHead, runs: Uint8Array, stored: Uint8Array, nonce: bigint, index: number): Uint8Array {
  const bytes = new Uint8Array(RECORD_BYTES), view = viewOf(bytes);
  view.setUint32(0, CHUNK, true);
  view.setUint32(4, chunk.runs, true);
  view.setUint32(8, chunk.rawBytes, true);
  view.setUint32(12, chunk.storedBytes, true);
  view.setUint32(16, chunk.compressed ? COMPRESSED : STORED, true);
  view.setBigUint64(24, chunk.rawHash, true);
  view.setBigUint64(32, recordHash(bytes, [runs, stored], nonce, index), true);
  return bytes;
}

export function encodeTrailer(trailer: Trailer, nonce: bigint): Uint8Array {
  const bytes = new Uint8Array(RECORD_BYTES), view = viewOf(bytes);
  view.setUint32(0, TRAILER, true);
  view.setBigUint64(8, BigInt(trailer.chunks), true);
  view.setBigUint64(16, BigInt(trailer.dataBytes), true);
  view.setBigUint64(24, BigInt(trailer.fileBytes), true);
  view.setBigUint64(32, recordHash(bytes, [], nonce, trailer.chunks), true);
  return bytes;
}

/** The trailer in `bytes`, for checkTrailer(). Throws FormatError. */
export function decodeTrailer(bytes: Uint8Array, header: Header): Trailer {
  const view = viewOf(bytes);
  if (view.getUint32(0, true) !== TRAILER) throw damaged("it is truncated: it has no end");
  const trailer: Trailer = { kind: "trailer", chunks: number(view, 8), dataBytes: number(view, 16), fileBytes: number(view, 24) };
  if (!Number.isSafeInteger(trailer.chunks) || view.getBigUint64(32, true) !== recordHash(bytes, [], header.nonce, trailer.chunks)) throw damaged("its trailer's checksum is wrong");
  return trailer;
}

/** The record at the start of `bytes`; its bounds hold, its payload is not looked at (checkChunk()). Throws FormatError. */
export function decodeRecord(bytes: Uint8Array, header: Header, index: number, bytesAfter: number): ChunkHead | Trailer {
  const view = viewOf(bytes);
  const kind = view.getUint32(0, true);
  if (kind === TRAILER) return decodeTrailer(bytes, header);
  if (kind !== CHUNK) throw damaged(`chunk ${index} is none`);
  const encoding = view.getUint32(16, true);
  const chunk: ChunkHead = { kind: "chunk", runs: view.getUint32(4, true), rawBytes: view.getUint32(8, true), storedBytes: view.getUint32(12, true), compressed: encoding === COMPRESSED, rawHash: view.getBigUint64(24, true) };
  const { runs, rawBytes, storedBytes, compressed } = chunk;
  if (runs === 0 || runs > CHUNK_RUNS || rawBytes === 0 || rawBytes > header.chunkBytes || encoding > COMPRESSED || (compressed ? storedBytes >= rawBytes : storedBytes !== rawBytes))
    throw damaged(`chunk ${index} claims what can't be`);
  if (runs * RUN_BYTES + storedBytes > bytesAfter) throw damaged(`it is truncated in chunk ${index}`);
  return chunk;
}

/** Throws FormatError unless the chunk's checksum is that of its record and payload. */
export function checkChunk(record: Uint8Array, runs: Uint8Array, stored: Uint8Array, header: Header, index: number): void {
  if (viewOf(record).getBigUint64(32, true) !== recordHash(record, [runs, stored], header.nonce, index)) throw damaged(`the checksum of chunk ${index} is wrong`);
}

export function encodeRuns(runs: readonly Run[]): Uint8Array {
  const bytes = new Uint8Array(runs.length * RUN_BYTES), view = viewOf(bytes);
  runs.forEach(({ offset, bytes: length }, i) => {
    view.setBigUint64(i * RUN_BYTES, BigInt(offset), true);
    view.setBigUint64(i * RUN_BYTES + 8, BigInt(length), true);
  });
  return bytes;
}

/** The runs of a chunk: ascending from `from`, inside of the file, `rawBytes` in all. Throws FormatError. */
export function decodeRuns(bytes: Uint8Array, header: Header, chunk: ChunkHead, from: number, index: number): Run[] {
  const view = viewOf(bytes);
  const runs: Run[] = [];
  let end = from, total = 0;
  for (let at = 0; at < bytes.length; at += RUN_BYTES) {
    const offset = number(view, at), length = number(view, at + 8);
    if (offset < end || length === 0 || offset + length > header.logicalBytes) throw damaged(`chunk ${index} lies outside of the memory or out of order`);
    runs.push({ offset, bytes: length });
    end = offset + length;
    total += length;
  }
  if (total !== chunk.rawBytes) throw damaged(`chunk ${index} claims what can't be`);
  return runs;
}

/** What decodeRecord() can't know: the trailer agrees with what was read. Throws FormatError. */
export function checkTrailer(trailer: Trailer, read: Omit<Trailer, "kind">): void {
  if (trailer.chunks !== read.chunks || trailer.dataBytes !== read.dataBytes) throw damaged("its trailer tells of other chunks than it has");
  if (trailer.fileBytes !== read.fileBytes) throw damaged(`it has ${read.fileBytes} bytes, and its trailer tells of ${trailer.fileBytes}`);
}

export { damaged as damagedFile };
