// A tar stream (POSIX.1-2001 pax) of what comes out of a guest, to standard output.
import { Header } from "tar/header";
import { Pax } from "tar/pax";
import type { EntryTypeName } from "tar/types";
import type { CpHeader } from "../routes/cp-protocol.ts";
import type { CopySink } from "./copy-connection.ts";
import { CliError } from "./fail.ts";
import { writeAll } from "./output.ts";

const BLOCK = 512;
/** The last second that a Date can hold. */
const LATEST = 8_640_000_000_000;

export class TarSink implements CopySink {
  bytes = 0;
  private current: CpHeader | null = null;
  private left = 0;

  /** `name`: what paths begin with, as docker cp has it; null: nothing. `write` takes all that it is given. */
  constructor(private readonly name: string | null, readonly skipped: (path: string, message: string) => void, private readonly write: (bytes: Uint8Array) => void = (bytes) => writeAll(1, bytes)) {}

  header(header: CpHeader): void {
    const path = [this.name ?? ".", header.path].filter(Boolean).join("/");
    if (path.split("/").includes("..")) throw new CliError(`Cannot go on: what comes from the guest is not in order: ${JSON.stringify(path)} climbs`, "copy_failed");
    if (header.is_symlink === true) return this.entry(path, "SymbolicLink", header, 0, header.link_target ?? "");
    if (header.is_dir === true) return this.entry(`${path}/`, "Directory", header, 0, "");
    this.current = header;
    this.left = header.size ?? 0;
    this.entry(path, "File", header, this.left, "");
  }

  data(bytes: Uint8Array): void {
    if (bytes.length > this.left) throw new CliError(`Cannot go on: ${this.current?.path ?? "a file"} is longer than it was said to be; copy it to a file`, "copy_failed");
    this.left -= bytes.length;
    this.bytes += bytes.length;
    this.write(bytes);
  }

  /** One that was cut short meanwhile is filled up with zeros, as tar does it. */
  fileEnd(): void {
    const size = this.current?.size ?? 0;
    for (; this.left > 0; this.left -= Math.min(this.left, ZEROS.length)) this.write(ZEROS.subarray(0, Math.min(this.left, ZEROS.length)));
    this.write(ZEROS.subarray(0, padding(size)));
  }

  finish(): void {
    this.write(ZEROS.subarray(0, 2 * BLOCK));
  }

  abort(): void {}

  /** What the old fields can't hold goes before it in a header of its own. */
  private entry(path: string, type: EntryTypeName, { mode = 0o644, mtime = 0, uid = 0, gid = 0 }: CpHeader, size: number, linkpath: string): void {
    const fields = { path, type, mode, uid, gid, size, linkpath, mtime: new Date(Math.min(mtime, LATEST) * 1000) };
    const block = Buffer.alloc(BLOCK);
    if (new Header(fields).encode(block)) this.write(new Pax(fields).encode());
    this.write(block);
  }
}

const ZEROS = new Uint8Array(64 * 1024);
const padding = (size: number): number => (BLOCK - (size % BLOCK)) % BLOCK;
