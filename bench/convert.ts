// Layers to EROFS: throughput of one core, and memory for a 2 GB image. The layers are made here, from noise and text,
// with the sizes of a distribution's files. Each run is a process of its own: its CPU time and peak memory are the conversion's.
import { closeSync, createReadStream, createWriteStream, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { convert, CONVERT_LIMITS, type ConvertJob } from "../src/host/images/convert.ts";
import { figure, judged, type Metrics } from "./metric.ts";

const GOAL_MB_PER_CPU_S = 150;
const GOAL_MIB = 256;
const RUNS = 3;
const LAYER_BYTES = 512 << 20;
const LAYERS = 4;

interface Sample { readonly mbPerCpuSecond: number; readonly mbPerSecond: number; readonly peakMiB: number }

/** Throughput counts uncompressed tar bytes (MB = 10⁶) a second of processor time, all threads together. */
export async function run(): Promise<Metrics> {
  const folder = mkdtempSync(join(tmpdir(), "dormouse-bench-convert-"));
  try {
    const layers = await makeLayers(folder);
    const plain = await samples(layers.map(({ tar, diffId }) => ({ path: tar, diffId })), folder);
    const gzip = await samples(layers.map(({ gzip, diffId }) => ({ path: gzip, diffId })), folder);
    return {
      plain_throughput: judged(plain.map((one) => one.mbPerCpuSecond), "MB/s/core", "at least", GOAL_MB_PER_CPU_S, 0),
      gzip_throughput: judged(gzip.map((one) => one.mbPerCpuSecond), "MB/s/core", "at least", GOAL_MB_PER_CPU_S, 0),
      gzip_wall: figure(gzip.map((one) => one.mbPerSecond), "MB/s", 0),
      plain_memory: judged(plain.map((one) => one.peakMiB), "MiB", "at most", GOAL_MIB, 0),
      gzip_memory: judged(gzip.map((one) => one.peakMiB), "MiB", "at most", GOAL_MIB, 0),
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function samples(layers: ConvertJob["layers"], folder: string): Promise<Sample[]> {
  const found: Sample[] = [];
  for (let i = 0; i < RUNS; i++) {
    const child = Bun.spawn([process.execPath, import.meta.path, join(folder, "out.erofs"), JSON.stringify(layers)], { stdin: "ignore", stdout: "pipe", stderr: "inherit" });
    const [text, status] = await Promise.all([child.stdout.text(), child.exited]);
    if (status !== 0) throw new Error(`The conversion ended with status ${status}`);
    const { bytes, seconds } = JSON.parse(text) as { bytes: number; seconds: number };
    const usage = child.resourceUsage()!;
    const cpu = Number(usage.cpuTime.total) / 1e6;
    found.push({ mbPerCpuSecond: bytes / 1e6 / cpu, mbPerSecond: bytes / 1e6 / seconds, peakMiB: usage.maxRSS / 2 ** 20 });
  }
  return found;
}

// ---- layers

/** Most files are small, half of the bytes are in large ones: about 65,000 files in 2 GB, as in a large application's image. */
const SIZES = [200, 700, 1500, 3000, 6000, 12_000, 30_000, 90_000] as const;
const LARGE = 1_500_000, LARGE_EVERY = 97;

async function makeLayers(folder: string): Promise<{ tar: string; gzip: string; diffId: string }[]> {
  const made: { tar: string; gzip: string; diffId: string }[] = [];
  for (let layer = 0; layer < LAYERS; layer++) {
    const path = join(folder, `${layer}.tar`);
    const diffId = writeTar(path, layer);
    await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), createGzip({ level: 1, chunkSize: 1 << 20 }), createWriteStream(`${path}.gz`));
    made.push({ tar: path, gzip: `${path}.gz`, diffId });
  }
  return made;
}

/** Writes one layer; returns its diff id. */
function writeTar(path: string, layer: number): string {
  const fd = openSync(path, "w");
  const hash = new Bun.CryptoHasher("sha256");
  const write = (bytes: Uint8Array): number => {
    hash.update(bytes);
    return writeSync(fd, bytes);
  };
  try {
    const pool = contentPool(layer + 1);
    let written = 0;
    for (let i = 0; written < LAYER_BYTES; i++) {
      const size = i % LARGE_EVERY === 0 ? LARGE : SIZES[(i * 7 + layer) % SIZES.length]!;
      const at = (i * 4093) % (pool.length - size);
      const padding = (512 - (size % 512)) % 512;
      written += write(Buffer.concat([header(`layer${layer}/dir${i % 97}/file-${i}`, size), pool.subarray(at, at + size), Buffer.alloc(padding)]));
    }
    write(Buffer.alloc(1024));
    return `sha256:${hash.digest("hex")}`;
  } finally {
    closeSync(fd);
  }
}

/** Half of it noise, half words: gzip makes about 60 % of it, as of programs. */
function contentPool(seed: number): Buffer {
  const pool = Buffer.alloc(8 << 20);
  let x = seed;
  const next = (): number => (x = (Math.imul(x, 1103515245) + 12345) & 0x7fffffff) >> 12;
  for (let at = 0; at < pool.length; ) {
    if (next() & 1) for (const end = Math.min(at + 64, pool.length); at < end; at++) pool[at] = next();
    else at += Math.max(pool.write(`word${next() % 50} `, at, "latin1"), 1);
  }
  return pool;
}

/** A ustar header (POSIX.1-1988). */
function header(name: string, size: number): Buffer {
  const block = Buffer.alloc(512);
  const put = (text: string, at: number): void => void block.write(text, at, "latin1");
  put(name, 0);
  put("0000644\0" + "0000000\0" + "0000000\0" + `${size.toString(8).padStart(11, "0")}\0` + "14000000000\0" + "        " + "0", 100);
  put("ustar\0" + "00", 257);
  put(`${block.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, "0")}\0`, 148);
  return block;
}

/** The process that is measured: `bun convert.ts OUTPUT LAYERS`. Digests are checked, as after a pull. */
async function convertOnce(output: string, layers: ConvertJob["layers"]): Promise<void> {
  const started = performance.now();
  const result = await convert({ layers, output, uuidSeed: "00".repeat(16), label: "bench", limits: CONVERT_LIMITS });
  const seconds = (performance.now() - started) / 1000;
  await Bun.write(Bun.stdout, JSON.stringify({ bytes: result.unpackedBytes, seconds }));
}

if (import.meta.main) await convertOnce(process.argv[2]!, JSON.parse(process.argv[3]!) as ConvertJob["layers"]);
