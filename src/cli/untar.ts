// A tar stream from standard input, compressed or not, to a folder of a guest.
import { isUtf8 } from "node:buffer";
import { messageOf } from "../errors.ts";
import { TarReader, type TarEntry, type TarHandler } from "../host/tar/reader.ts";
import type { CpEnd, CpHeader } from "../routes/cp-protocol.ts";
import type { CopySender } from "./copy-connection.ts";
import { decompressed } from "./compressed.ts";
import { CliError } from "./fail.ts";

/** Frames of one piece of input, in order; they are sent before the next piece is read. */
class Frames implements TarHandler {
  private made: (CpHeader | CpEnd | Uint8Array)[] = [];
  private inFile = false;

  constructor(private readonly skipped: (path: string, why: string) => void) {}

  entry(entry: TarEntry): void {
    const path = nameIn(entry.path), { type, mode, uid, gid } = entry;
    const header = { type: "header", path, mode, uid, gid, mtime: Math.max(0, entry.mtimeSec) } as const;
    if (path === "") return; // the folder itself, which is there
    if (type === "dir") this.made.push({ ...header, is_dir: true });
    else if (type === "symlink") this.made.push({ ...header, is_symlink: true, link_target: textOf(entry.linkpath) });
    else if (type !== "file") this.skipped(path, type === "link" ? `it is a hard link to ${textOf(entry.linkpath)}` : `it is ${type === "fifo" ? "a FIFO" : "a device"}`);
    else if (entry.sparse !== null) throw new CliError(`Cannot read the tar stream: ${path} is sparse; make the archive without --sparse`, "copy_failed");
    else {
      this.inFile = true;
      this.made.push({ ...header, size: entry.size });
    }
  }

  data(chunk: Buffer): void {
    if (this.inFile) this.made.push(Uint8Array.from(chunk));
  }

  endEntry(): void {
    if (this.inFile) this.made.push({ type: "end" });
    this.inFile = false;
  }

  take(): readonly (CpHeader | CpEnd | Uint8Array)[] {
    const { made } = this;
    this.made = [];
    return made;
  }
}

export async function sendTar(input: AsyncIterable<Uint8Array>, sender: CopySender, skipped: (path: string, why: string) => void): Promise<void> {
  const frames = new Frames(skipped), reader = new TarReader(frames);
  try {
    for await (const chunk of decompressed(input)) {
      reader.push(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength));
      for (const frame of frames.take()) await sender.send(frame);
    }
    reader.finish();
  } catch (cause) {
    throw cause instanceof CliError ? cause : new CliError(`Cannot read the tar stream: ${messageOf(cause)}`, "copy_failed");
  }
}

/** Below the destination: absolute names lose their slash, as tar has it. */
function nameIn(path: string): string {
  const parts = textOf(path).split("/").filter((part) => part !== "" && part !== ".");
  if (parts.includes("..")) throw new CliError(`Cannot read the tar stream: ${JSON.stringify(textOf(path))} climbs out of its folder`, "copy_failed");
  return parts.join("/");
}

function textOf(bytes: string): string {
  const encoded = Buffer.from(bytes, "latin1");
  if (!isUtf8(encoded)) throw new CliError(`Cannot read the tar stream: the name ${JSON.stringify(bytes)} in it is not UTF-8`, "copy_failed");
  return encoded.toString("utf8");
}
