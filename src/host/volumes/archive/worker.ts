// Worker: one archive into a folder, off the daemon's event loop. It asks for each piece of the archive when it is done with the last one
// (so a large archive costs no memory), answers the outcome, and is terminated.
import { createGunzip } from "node:zlib";
import { messageOf, type ErrorCode } from "../../../errors.ts";
import { SysError } from "../../../ffi/syscall.ts";
import { TarError } from "../../tar/error.ts";
import { TarReader } from "../../tar/reader.ts";
import { Staging, TooLarge, type Unpacked, type UnpackLimits } from "./staging.ts";

export type UnpackOrder =
  | { readonly kind: "begin"; readonly folder: string; readonly limits: UnpackLimits }
  | { readonly kind: "bytes"; readonly bytes: Uint8Array }
  | { readonly kind: "end" }
  | { readonly kind: "broken"; readonly why: string };

export type UnpackMessage =
  | { readonly kind: "more" }
  | { readonly kind: "done"; readonly unpacked: Unpacked }
  | { readonly kind: "failed"; readonly code: ErrorCode; readonly why: string };

declare const self: Worker;

const CHUNK = 1 << 20;
/** Writers fill the last record (20 blocks, mostly) with zeroes; what goes on for longer is no padding. */
const MAX_PADDING = 1 << 20;
/** Besides content: headers and padding, which an entry has up to a few KiB of. */
const MAX_HEADERS = 64 << 20;

/** The sender has gone, or what it sent could not be read. */
class Broken extends Error {
  override readonly name = "Broken";
}

const say = (message: UnpackMessage) => self.postMessage(message);
const gunzip = createGunzip({ chunkSize: CHUNK });

self.onmessage = ({ data }: MessageEvent<UnpackOrder>) => {
  if (data.kind === "begin") void unpack(data.folder, data.limits).then((unpacked) => say({ kind: "done", unpacked }), (error: unknown) => say({ kind: "failed", ...faultOf(error) }));
  else if (data.kind === "bytes") gunzip.write(data.bytes, (error) => (error == null ? say({ kind: "more" }) : undefined)); // who reads it hears of errors
  else if (data.kind === "end") gunzip.end();
  else gunzip.destroy(new Broken(data.why));
};

async function unpack(folder: string, limits: UnpackLimits): Promise<Unpacked> {
  const staging = new Staging(folder, limits);
  try {
    const reader = new TarReader(staging);
    say({ kind: "more" });
    let total = 0, padding = 0;
    for await (const chunk of gunzip as AsyncIterable<Buffer>) {
      total += chunk.length;
      if (total > 2 * limits.maxBytes + MAX_HEADERS) throw new TooLarge(`it takes more than ${2 * limits.maxBytes + MAX_HEADERS} bytes with its headers; give a larger size`);
      if (reader.ended && (padding += chunk.length) > MAX_PADDING) throw new TarError("it goes on after its end");
      reader.push(chunk);
    }
    if (total === 0) throw new TarError("it is empty");
    reader.finish();
    return staging.finish();
  } finally {
    staging.close();
  }
}

function faultOf(error: unknown): { readonly code: ErrorCode; readonly why: string } {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  if (error instanceof TooLarge) return { code: "volume.archive_too_large", why: error.message };
  if (error instanceof TarError || error instanceof Broken) return { code: "volume.archive_invalid", why: error.message };
  if (code.startsWith("Z_")) return { code: "volume.archive_invalid", why: `it is no gzip, or damaged or cut off (${code}); a tar.gz is wanted` };
  return { code: error instanceof SysError ? "host.storage" : "internal", why: messageOf(error) };
}
