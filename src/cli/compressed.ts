// Archives as people have them, compressed or not: what a stream is, its first bytes tell.
import { type Duplex, pipeline, Readable } from "node:stream";
import { constants, createGzip } from "node:zlib";
import { checkProduced, type Compression, compressionOf, damage, decoderOf, HEAD_BYTES } from "../host/images/decompress.ts";

type Bytes = AsyncIterable<Uint8Array>;

const CHUNK = 256 << 10;

/** The bytes of a tar stream that may be a tar.gz or tar.zst, as docker cp takes them. Throws CompressionError for what it can't read. */
export async function* decompressed(input: Bytes): AsyncGenerator<Uint8Array> {
  const { kind, all } = await recognized(input);
  if (kind === "none") return yield* all;
  let produced = 0;
  try {
    for await (const chunk of through(all, decoderOf(kind, CHUNK))) {
      produced += chunk.length;
      yield chunk;
    }
  } catch (cause) {
    throw damage(kind, cause);
  }
  checkProduced(kind, produced);
}

/** A tar.gz of any tar stream; one that is a tar.gz goes through as it is. What goes wrong, now or later, is as `named` makes it. */
export async function gzipped(input: Bytes, named: (cause: unknown) => Error): Promise<ReadableStream<Uint8Array>> {
  const archive = async function* (): AsyncGenerator<Uint8Array> {
    try {
      yield* kind === "gzip" ? all : through(decompressed(all), createGzip({ level: constants.Z_BEST_SPEED, chunkSize: CHUNK }));
    } catch (cause) {
      throw named(cause);
    }
  };
  const { kind, all } = await recognized(input).catch((cause: unknown) => { throw named(cause); });
  return Readable.toWeb(Readable.from(archive())) as ReadableStream<Uint8Array>;
}

async function recognized(input: Bytes): Promise<{ kind: Compression; all: Bytes }> {
  const rest = input[Symbol.asyncIterator]();
  let head = Buffer.alloc(0);
  for (let next; head.length < HEAD_BYTES && !(next = await rest.next()).done; ) head = Buffer.concat([head, next.value]);
  const all = async function* (): AsyncGenerator<Uint8Array> {
    yield head;
    yield* { [Symbol.asyncIterator]: () => rest };
  };
  return { kind: compressionOf(head), all: all() };
}

/** What comes out of `coder`; an error of either side comes with it. */
const through = (input: Bytes, coder: Duplex): AsyncIterable<Buffer> => pipeline(Readable.from(input), coder, () => {});
