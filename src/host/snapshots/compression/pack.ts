// Memory file → compressed file and back, on descriptors, a chunk at a time. Runs in a Worker (worker.ts): every call blocks.
// Throws FormatError, Stopped, and SysError where the host fails.
import { randomBytes } from "node:crypto";
import { SYS } from "../../../ffi/abi/syscalls.ts";
import { closeFd, fileSize, O_RDONLY, openFd, pwriteAll } from "../../../ffi/fd.ts";
import { dataExtents } from "../../../ffi/sparse.ts";
import { must } from "../../../ffi/syscall.ts";
import { Stopped, type Watch } from "../task-worker.ts";
import { CODECS, type Algorithm } from "./codec.ts";
import { checkChunk, checkTrailer, CHUNK_BYTES, CHUNK_RUNS, damagedFile, decodeHeader, decodeRecord, decodeRuns, decodeTrailer, encodeChunk, encodeHeader, encodeRuns, encodeTrailer, hash, HEADER_BYTES, RECORD_BYTES, RUN_BYTES, type Header, type Run } from "./format.ts";

/** `dataBytes` of the memory, `fileBytes` compressed. */
export interface Totals { readonly dataBytes: number; readonly fileBytes: number }

/** Reads the data of `rawFd` and writes `packedFd` (empty, not shared with anyone) whole, synced. */
export async function pack(rawFd: number, packedFd: number, algorithm: Algorithm, level: number, watch: Watch): Promise<Totals> {
  const logicalBytes = fileSize(rawFd);
  const header: Header = { algorithm, level, chunkBytes: CHUNK_BYTES, logicalBytes, nonce: randomBytes(8).readBigUInt64LE() };
  pwriteAll(packedFd, encodeHeader(header), 0);
  let at = HEADER_BYTES, chunks = 0, dataBytes = 0;
  const buffer = new Uint8Array(CHUNK_BYTES);
  for (const runs of chunksOf(dataExtents(rawFd, logicalBytes))) {
    if (watch.stopped()) throw new Stopped();
    const raw = buffer.subarray(0, readRuns(rawFd, runs, buffer));
    at += await writeChunk(packedFd, at, header, runs, raw, chunks);
    dataBytes += raw.length;
    chunks++;
    watch.progress();
  }
  const fileBytes = at + RECORD_BYTES;
  pwriteAll(packedFd, encodeTrailer({ kind: "trailer", chunks, dataBytes, fileBytes }, header.nonce), at);
  must("Cannot sync", SYS.fsync, packedFd);
  return { dataBytes, fileBytes };
}

/** Groups of runs, CHUNK_BYTES in each but the last: extents are cut and gathered. */
export function* chunksOf(extents: Iterable<{ readonly start: number; readonly end: number }>): Generator<Run[]> {
  let runs: Run[] = [], total = 0;
  for (const { start, end } of extents)
    for (let offset = start; offset < end; ) {
      const bytes = Math.min(end - offset, CHUNK_BYTES - total);
      runs.push({ offset, bytes });
      offset += bytes;
      total += bytes;
      if (total < CHUNK_BYTES && runs.length < CHUNK_RUNS) continue;
      yield runs;
      runs = [];
      total = 0;
    }
  if (runs.length > 0) yield runs;
}

function readRuns(fd: number, runs: readonly Run[], into: Uint8Array): number {
  let at = 0;
  for (const { offset, bytes } of runs) {
    readAll(fd, into.subarray(at, at + bytes), offset, () => new Error("Cannot compress the memory: its file became shorter meanwhile"));
    at += bytes;
  }
  return at;
}

/** Answers the bytes written. What the compressor has made is decompressed again before it counts: the raw file goes away for it. */
async function writeChunk(fd: number, at: number, header: Header, runs: readonly Run[], raw: Uint8Array, index: number): Promise<number> {
  const codec = CODECS[header.algorithm];
  const rawHash = hash(raw);
  const made = await codec.compress(raw, header.level);
  const compressed = made.length < raw.length;
  const stored = compressed ? made : raw;
  const back = compressed ? await codec.decompress(made, raw.length) : raw;
  if (back === null || hash(back) !== rawHash) throw new Error(`Cannot compress the memory: what ${header.algorithm} made of chunk ${index} does not decompress to it`);
  const table = encodeRuns(runs);
  const record = encodeChunk({ kind: "chunk", runs: runs.length, rawBytes: raw.length, storedBytes: stored.length, compressed, rawHash }, table, stored, header.nonce, index);
  pwriteAll(fd, record, at);
  pwriteAll(fd, table, at + record.length);
  pwriteAll(fd, stored, at + record.length + table.length);
  return record.length + table.length + stored.length;
}

/** Reads `packedFd` and writes `rawFd` (empty) whole, sparse as it was, synced. */
export async function unpack(packedFd: number, rawFd: number, watch: Watch): Promise<Totals> {
  const fileBytes = fileSize(packedFd);
  const header = readHeader(packedFd, fileBytes);
  must("Cannot size the memory", SYS.ftruncate, rawFd, header.logicalBytes);
  let at = HEADER_BYTES, chunks = 0, dataBytes = 0, end = 0;
  const buffer = new Uint8Array(CHUNK_RUNS * RUN_BYTES + header.chunkBytes);
  for (;;) {
    if (watch.stopped()) throw new Stopped();
    const record = readRecord(packedFd, at, fileBytes);
    const head = decodeRecord(record, header, chunks, fileBytes - at - RECORD_BYTES);
    at += RECORD_BYTES;
    if (head.kind === "trailer") {
      checkTrailer(head, { chunks, dataBytes, fileBytes: at });
      if (at !== fileBytes) throw damagedFile("something follows its end");
      break;
    }
    const payload = buffer.subarray(0, head.runs * RUN_BYTES + head.storedBytes);
    readAll(packedFd, payload, at, () => damagedFile(`it is truncated in chunk ${chunks}`));
    const table = payload.subarray(0, head.runs * RUN_BYTES), stored = payload.subarray(table.length);
    checkChunk(record, table, stored, header, chunks);
    const runs = decodeRuns(table, header, head, end, chunks);
    const raw = head.compressed ? await CODECS[header.algorithm].decompress(stored, head.rawBytes) : stored;
    if (raw === null || hash(raw) !== head.rawHash) throw damagedFile(`chunk ${chunks} does not decompress to what it was`);
    writeRuns(rawFd, runs, raw);
    at += payload.length;
    dataBytes += head.rawBytes;
    end = runs.at(-1)!.offset + runs.at(-1)!.bytes;
    chunks++;
    watch.progress();
  }
  must("Cannot sync", SYS.fsync, rawFd);
  return { dataBytes, fileBytes };
}

/** What header and trailer tell of the file at `path`; the chunks are not looked at. */
export function inspect(path: string): Totals {
  const fd = openFd(path, O_RDONLY);
  try {
    const fileBytes = fileSize(fd);
    const header = readHeader(fd, fileBytes);
    const trailer = decodeTrailer(readRecord(fd, fileBytes - RECORD_BYTES, fileBytes), header);
    checkTrailer(trailer, { chunks: trailer.chunks, dataBytes: trailer.dataBytes, fileBytes });
    return { dataBytes: trailer.dataBytes, fileBytes };
  } finally {
    closeFd(fd);
  }
}

function readHeader(fd: number, fileBytes: number): Header {
  const bytes = new Uint8Array(Math.min(HEADER_BYTES, fileBytes));
  readAll(fd, bytes, 0, () => damagedFile("it is truncated in its header"));
  return decodeHeader(bytes);
}

function readRecord(fd: number, at: number, fileBytes: number): Uint8Array {
  if (at + RECORD_BYTES > fileBytes) throw damagedFile("it is truncated: it has no end");
  const bytes = new Uint8Array(RECORD_BYTES);
  readAll(fd, bytes, at, () => damagedFile("it is truncated: it has no end"));
  return bytes;
}

function writeRuns(fd: number, runs: readonly Run[], raw: Uint8Array): void {
  let at = 0;
  for (const { offset, bytes } of runs) {
    pwriteAll(fd, raw.subarray(at, at + bytes), offset);
    at += bytes;
  }
}

function readAll(fd: number, into: Uint8Array, offset: number, short: () => Error): void {
  for (let done = 0; done < into.length; ) {
    const part = into.subarray(done);
    const n = must("Cannot read", SYS.pread64, fd, part, part.length, offset + done);
    if (n === 0) throw short();
    done += n;
  }
}
