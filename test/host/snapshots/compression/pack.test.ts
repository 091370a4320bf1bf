import { afterAll, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { TempDir } from "../../../support/paths.ts";
import type { Algorithm } from "../../../../src/host/snapshots/compression/codec.ts";
import { encodeChunk, encodeHeader, encodeRuns, encodeTrailer, FormatError, hash, HEADER_BYTES, RECORD_BYTES } from "../../../../src/host/snapshots/compression/format.ts";
import { lz4Compress, lz4Decompress } from "../../../../src/host/snapshots/compression/lz4.ts";
import { Stopped } from "../../../../src/host/snapshots/task-worker.ts";
import { chunksOf, inspect } from "../../../../src/host/snapshots/compression/pack.ts";
import { allocated, digest, memoryLike, noise, packFile, PAGE, readAt, unpackFile, writeSparse, type Piece } from "./harness.ts";

const dir = new TempDir("pack");
afterAll(() => dir[Symbol.dispose]());
const raw = dir.join("raw"), packed = dir.join("packed"), back = dir.join("back");
const LEVELS: [Algorithm, number][] = [...[1, 6, 19].map((level): [Algorithm, number] => ["zstd", level]), ...[0, 1, 9].map((level): [Algorithm, number] => ["lz4", level])];

const MEMORIES: Record<string, { size: number; pieces: Piece[] }> = {
  "no bytes": { size: 0, pieces: [] },
  "a hole of 64 GiB": { size: 64 * 2 ** 30, pieces: [] },
  "pages at both ends of 64 GiB": { size: 64 * 2 ** 30, pieces: [{ at: 0, data: memoryLike(PAGE) }, { at: 64 * 2 ** 30 - PAGE, data: memoryLike(PAGE, 2) }] },
  "every other page": { size: 16 << 20, pieces: Array.from({ length: 2048 }, (_, i) => ({ at: i * 2 * PAGE, data: memoryLike(PAGE, i + 1) })) },
  "noise": { size: 5 << 20, pieces: [{ at: 0, data: noise(5 << 20) }] },
  "a program": { size: 32 << 20, pieces: [{ at: 3 << 20, data: memoryLike(7 << 20) }, { at: 20 << 20, data: memoryLike(123 * PAGE, 5) }] },
  "zeroes that were written": { size: 8 << 20, pieces: [{ at: PAGE, data: Buffer.alloc(6 << 20) }] },
  "an odd end": { size: 3 * PAGE + 77, pieces: [{ at: 2 * PAGE, data: noise(PAGE + 77) }] },
};

for (const [algorithm, level] of LEVELS)
  test(`pack() and unpack() give back every memory, sparse: ${algorithm} ${level}`, async () => {
    for (const [name, { size, pieces }] of Object.entries(MEMORIES)) {
      writeSparse(raw, size, pieces);
      const totals = await packFile(raw, packed, algorithm, level);
      expect(inspect(packed), name).toEqual(totals);
      expect(await unpackFile(packed, back), name).toEqual(totals);
      expect(totals.dataBytes, name).toBe(pieces.reduce((sum, piece) => sum + Math.ceil(piece.data.length / PAGE) * PAGE, 0) - (size % PAGE === 0 ? 0 : PAGE - (size % PAGE)));
      // 64 GiB of holes are not read byte by byte here: what was written is compared where it was written.
      if (size <= 32 << 20) expect(digest(back), name).toBe(digest(raw));
      expect(pieces.filter(({ at, data }) => !readAt(back, at, data.length).equals(data)), name).toEqual([]);
      expect(Bun.file(back).size, name).toBe(size);
      expect(allocated(back), name).toBeLessThanOrEqual(totals.dataBytes + 64 * PAGE);
    }
  });

test("pack() makes a program's memory smaller, and noise larger by less than a thousandth", async () => {
  for (const [algorithm, level] of LEVELS) {
    writeSparse(raw, 8 << 20, [{ at: 0, data: memoryLike(8 << 20) }]);
    expect((await packFile(raw, packed, algorithm, level)).fileBytes).toBeLessThan(8 << 19);
    writeSparse(raw, 8 << 20, [{ at: 0, data: noise(8 << 20) }]);
    expect((await packFile(raw, packed, algorithm, level)).fileBytes).toBeLessThan((8 << 20) * 1.001);
  }
});

test("chunksOf() cuts and gathers extents", () => {
  const M = 1 << 20;
  const sizes = (extents: { start: number; end: number }[]) => [...chunksOf(extents)].map((runs) => runs.map((run) => [run.offset, run.bytes]));
  expect(sizes([{ start: 0, end: 5 * M }, { start: 8 * M, end: 8 * M + 10 }])).toEqual([[[0, 2 * M]], [[2 * M, 2 * M]], [[4 * M, M], [8 * M, 10]]]);
  expect([...chunksOf(Array.from({ length: 3000 }, (_, i) => ({ start: i * 10, end: i * 10 + 1 })))].map((runs) => runs.length)).toEqual([1024, 1024, 952]);
});

test("pack() and unpack() end when they are called off", async () => {
  writeSparse(raw, 8 << 20, [{ at: 0, data: memoryLike(8 << 20) }]);
  let chunks = 0;
  const twice = { stopped: () => chunks === 2, progress: () => { chunks++; } };
  await expect(packFile(raw, packed, "zstd", 1, twice)).rejects.toThrow(Stopped);
  chunks = 0;
  await packFile(raw, packed, "zstd", 1);
  await expect(unpackFile(packed, back, twice)).rejects.toThrow(Stopped);
});

/** How reading `bytes` ends: the code and reason of its refusal, or "read". Anything else is thrown on. */
async function reading(bytes: Uint8Array): Promise<string> {
  writeFileSync(packed, bytes);
  try {
    await unpackFile(packed, back);
    return "read";
  } catch (error) {
    if (error instanceof FormatError) return `${error.code}: ${error.message}`;
    throw error;
  }
}

async function sample(algorithm: Algorithm): Promise<Buffer> {
  writeSparse(raw, 1 << 20, [{ at: 0, data: memoryLike(6 * PAGE) }, { at: 40 * PAGE, data: memoryLike(2 * PAGE, 9) }]);
  await packFile(raw, packed, algorithm, 1);
  return readFileSync(packed);
}

for (const algorithm of ["zstd", "lz4"] as const)
  test(`unpack() refuses a file of ${algorithm} that was cut anywhere or has any byte changed, with a reason`, async () => {
    const whole = await sample(algorithm);
    expect(await reading(whole)).toBe("read");
    for (let length = 0; length < whole.length; length += length < 200 ? 1 : 61) expect(await reading(whole.subarray(0, length)), `cut to ${length}`).toMatch(/^snapshot\.damaged: .*truncated/);
    for (let at = 0; at < whole.length; at += at < 200 || at > whole.length - 60 ? 1 : 37) {
      const changed = Buffer.from(whole);
      changed[at]! ^= 1 << at % 8;
      expect(await reading(changed), `byte ${at}`).toMatch(/^snapshot\.(damaged|incompatible): ./);
    }
    expect(await reading(Buffer.concat([whole, Buffer.of(0)]))).toMatch(/^snapshot\.damaged: ./);
  });

test("unpack() names what else a file may be", async () => {
  const nonce = 7n, size = 1 << 20;
  const header = (change = {}) => encodeHeader({ algorithm: "zstd", level: 1, chunkBytes: 2 << 20, logicalBytes: size, nonce, ...change });
  const end = (chunks: number, dataBytes: number, fileBytes: number) => encodeTrailer({ kind: "trailer", chunks, dataBytes, fileBytes }, nonce);
  expect(await reading(Buffer.concat([header(), end(0, 0, HEADER_BYTES + RECORD_BYTES)]))).toBe("read");
  expect(await reading(noise(5000))).toContain("no compressed memory of Dormouse's");
  expect(await reading(header({ logicalBytes: 2 ** 50 }))).toMatch(/damaged: it claims 1125899906842624 bytes of memory/);
  expect(await reading(header({ chunkBytes: 2 ** 31 }))).toMatch(/damaged: it claims chunks of 2147483648 bytes/);
  expect(await reading(Buffer.concat([header(), end(3, 0, HEADER_BYTES + RECORD_BYTES)]))).toMatch(/other chunks than it has/);
  const newer = Buffer.from(header());
  newer.writeUInt32LE(2, 8);
  newer.writeBigUInt64LE(hash(newer.subarray(0, 56)), 56);
  expect(await reading(newer)).toMatch(/^snapshot\.incompatible: a newer version of Dormouse has written it \(format 2/);
});

/** A file of one chunk whose checksums are right whatever it says. */
function forged(algorithm: Algorithm, rawBytes: number, stored: Uint8Array, compressed: boolean, at = 0): Buffer {
  const nonce = 3n, runs = encodeRuns([{ offset: at, bytes: rawBytes }]);
  const chunk = encodeChunk({ kind: "chunk", runs: 1, rawBytes, storedBytes: stored.length, compressed, rawHash: 0n }, runs, stored, nonce, 0);
  return Buffer.concat([encodeHeader({ algorithm, level: 1, chunkBytes: 2 << 20, logicalBytes: 8 << 20, nonce }), chunk, runs, stored, encodeTrailer({ kind: "trailer", chunks: 1, dataBytes: rawBytes, fileBytes: HEADER_BYTES + 2 * RECORD_BYTES + 16 + stored.length }, nonce)]);
}

test("unpack() keeps to what a chunk may hold, also where its checksums are right", async () => {
  const bomb = Bun.zstdCompressSync(Buffer.alloc(512 << 20), { level: 1 });
  expect(await reading(forged("zstd", 2 << 20, bomb, true))).toMatch(/does not decompress to what it was/);
  const frame = Buffer.from(await lz4Compress(Buffer.alloc(4 << 20), 0));
  expect(await reading(forged("lz4", 2 << 20, frame, true))).toMatch(/does not decompress to what it was/);
  for (const garbage of [noise(1000), Buffer.alloc(1000), bomb.subarray(0, 1000)])
    for (const algorithm of ["zstd", "lz4"] as const) expect(await reading(forged(algorithm, 1 << 20, garbage, true))).toMatch(/does not decompress to what it was/);
  expect(await reading(forged("zstd", 1000, noise(1000), false, 8 << 20))).toMatch(/outside of the memory/);
  expect(await reading(forged("zstd", 1000, noise(1001), true))).toMatch(/claims what can't be/);
});

test("LZ4 frames that lie about their content make nothing larger", async () => {
  const input = memoryLike(300_000);
  for (const level of [0, 1, 9]) {
    const frame = await lz4Compress(input, level);
    expect(Buffer.from((await lz4Decompress(frame, input.length))!).equals(input)).toBe(true);
    expect(await lz4Decompress(frame, input.length - 1)).toBeNull();
    for (let at = 0; at < frame.length; at += 1 + Math.floor(frame.length / 300)) {
      const changed = Uint8Array.from(frame);
      changed[at]! ^= 0x41;
      const out = await lz4Decompress(changed, input.length);
      expect(out === null || out.length === input.length).toBe(true);
    }
  }
});
