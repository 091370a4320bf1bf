// The two compressions behind one shape. Memory of a call: its input, its output, and what the compressor needs itself.
import { zstdDecompressSync } from "node:zlib";
import { lz4Compress, lz4Decompress } from "./lz4.ts";

export type Algorithm = "zstd" | "lz4";

export interface Codec {
  compress(raw: Uint8Array, level: number): Uint8Array | Promise<Uint8Array>;
  /** `rawBytes` bytes, or null where `bytes` does not decompress to as many. Never makes room for more than that. */
  decompress(bytes: Uint8Array, rawBytes: number): Uint8Array | null | Promise<Uint8Array | null>;
}

const zstd: Codec = {
  compress: (raw, level) => Bun.zstdCompressSync(raw as Uint8Array<ArrayBuffer>, { level }),
  decompress(bytes, rawBytes) {
    try {
      // Not Bun.zstdDecompress(): that one believes the size that the frame claims.
      const raw = zstdDecompressSync(bytes, { maxOutputLength: rawBytes });
      return raw.length === rawBytes ? raw : null;
    } catch {
      return null;
    }
  },
};

export const CODECS: Readonly<Record<Algorithm, Codec>> = { zstd, lz4: { compress: lz4Compress, decompress: lz4Decompress } };
