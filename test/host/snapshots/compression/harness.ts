// Memory files as a save leaves them, and whether what comes back is the same.
import { closeSync, fstatSync, ftruncateSync, openSync, readSync, statSync, writeSync } from "node:fs";
import { openStore, type Store } from "../../../../src/host/store/store.ts";
import { snapshotMigrations } from "../../../../src/host/snapshots/migrations.ts";
import { compressionMigrations } from "../../../../src/host/snapshots/compression/migrations.ts";
import { pack, unpack, type Totals } from "../../../../src/host/snapshots/compression/pack.ts";
import type { Watch } from "../../../../src/host/snapshots/task-worker.ts";
import type { Algorithm } from "../../../../src/host/snapshots/compression/codec.ts";

export const PAGE = 4096;

/** Repeatable noise (xorshift32). */
export function noise(bytes: number, seed = 1): Buffer {
  const words = new Uint32Array(Math.ceil(bytes / 4));
  for (let i = 0, x = seed; i < words.length; i++) {
    x ^= x << 13; x ^= x >>> 17; x ^= x << 5;
    words[i] = x >>> 0;
  }
  return Buffer.from(words.buffer).subarray(0, bytes);
}

/** Like a program's memory: noise, text, zeroes, page by page. */
export function memoryLike(bytes: number, seed = 1): Buffer {
  const out = noise(bytes, seed);
  for (let at = 0; at < bytes; at += PAGE) {
    const kind = (at / PAGE + seed) % 3;
    if (kind === 1) out.fill(`page ${at} of a program's heap; `, at, Math.min(at + PAGE, bytes));
    else if (kind === 2) out.fill(0, at + 100, Math.min(at + PAGE, bytes));
  }
  return out;
}

export interface Piece { readonly at: number; readonly data: Buffer }

export function writeSparse(path: string, size: number, pieces: readonly Piece[]): void {
  const fd = openSync(path, "w", 0o600);
  ftruncateSync(fd, size);
  for (const { at, data } of pieces) writeSync(fd, data, 0, data.length, at);
  closeSync(fd);
}

export function readAt(path: string, at: number, bytes: number): Buffer {
  const fd = openSync(path, "r"), out = Buffer.alloc(bytes);
  readSync(fd, out, 0, bytes, at);
  closeSync(fd);
  return out;
}

export const allocated = (path: string): number => statSync(path).blocks * 512;

/** Hash of size and content. */
export function digest(path: string): string {
  const fd = openSync(path, "r"), hash = new Bun.CryptoHasher("sha256"), buffer = Buffer.alloc(1 << 20);
  hash.update(String(fstatSync(fd).size));
  for (let n = readSync(fd, buffer); n > 0; n = readSync(fd, buffer)) hash.update(buffer.subarray(0, n));
  closeSync(fd);
  return hash.digest("hex");
}

const watch: Watch = { stopped: () => false, progress: () => {} };

async function between(from: string, to: string, work: (from: number, to: number) => Promise<Totals>): Promise<Totals> {
  const source = openSync(from, "r"), target = openSync(to, "w+", 0o600);
  try {
    return await work(source, target);
  } finally {
    closeSync(source);
    closeSync(target);
  }
}
export const packFile = (raw: string, packed: string, algorithm: Algorithm, level: number, how = watch): Promise<Totals> =>
  between(raw, packed, (from, to) => pack(from, to, algorithm, level, how));
export const unpackFile = (packed: string, raw: string, how = watch): Promise<Totals> => between(packed, raw, (from, to) => unpack(from, to, how));

/** A database that has the generation `g`. */
export function openTables(path: string): Store {
  const store = openStore(path, [...snapshotMigrations, ...compressionMigrations])._unsafeUnwrap();
  store.db.run("INSERT OR IGNORE INTO generations (id, depth, state, created_at) VALUES ('g', 1, 'ready', 0), ('h', 1, 'ready', 0)");
  return store;
}
