// A tar stream (POSIX.1-2001 pax) of what comes out of a guest, to standard output.
import type { CpHeader } from "../routes/cp-protocol.ts";
import type { CopySink } from "./copy-connection.ts";
import { CliError } from "./fail.ts";
import { writeAll } from "./output.ts";

const BLOCK = 512;
const NAME_MAX = 100;
/** Eleven octal digits of the size field. */
const SIZE_MAX = 0o77_777_777_777;
/** Ids of seven octal digits. */
const ID_MAX = 0o7_777_777;

type Kind = "0" | "2" | "5" | "x";

export class TarSink implements CopySink {
  bytes = 0;
  private current: CpHeader | null = null;
  private left = 0;

  /** `name`: what paths begin with, as docker cp has it; null: nothing. `write` takes all that it is given. */
  constructor(private readonly name: string | null, readonly skipped: (path: string, message: string) => void, private readonly write: (bytes: Uint8Array) => void = (bytes) => writeAll(1, bytes)) {}

  header(header: CpHeader): void {
    const path = [this.name ?? ".", header.path].filter(Boolean).join("/");
    if (path.split("/").includes("..")) throw new CliError(`Cannot go on: what comes from the guest is not in order: ${JSON.stringify(path)} climbs`, "copy_failed");
    if (header.is_symlink === true) return this.entry(path, "2", header, 0, header.link_target ?? "");
    if (header.is_dir === true) return this.entry(`${path}/`, "5", header, 0, "");
    this.current = header;
    this.left = header.size ?? 0;
    this.entry(path, "0", header, this.left, "");
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
  private entry(path: string, kind: Kind, header: CpHeader, size: number, target: string): void {
    const { mode = 0o644, mtime = 0, uid = 0, gid = 0 } = header;
    const long: Record<string, string> = {};
    if (!fits(path, NAME_MAX)) long["path"] = path;
    if (!fits(target, NAME_MAX)) long["linkpath"] = target;
    if (size > SIZE_MAX) long["size"] = String(size);
    if (uid > ID_MAX) long["uid"] = String(uid);
    if (gid > ID_MAX) long["gid"] = String(gid);
    if (mtime > SIZE_MAX) long["mtime"] = String(mtime);
    const records = Buffer.concat(Object.entries(long).map(([key, value]) => record(key, value)));
    if (records.length > 0) {
      this.write(block({ path: "pax", kind: "x", size: records.length, target: "", mode: 0o644, mtime: 0, uid: 0, gid: 0 }));
      this.write(records);
      this.write(ZEROS.subarray(0, padding(records.length)));
    }
    this.write(block({ path, kind, size, target, mode, mtime, uid, gid }));
  }
}

const ZEROS = new Uint8Array(64 * 1024);
const padding = (size: number): number => (BLOCK - (size % BLOCK)) % BLOCK;
const fits = (text: string, max: number): boolean => Buffer.byteLength(text) <= max && !/[^\x20-\x7e]/.test(text);

/** `LENGTH KEY=VALUE\n`, where the length counts itself. */
function record(key: string, value: string): Buffer {
  const rest = Buffer.from(` ${key}=${value}\n`);
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

interface Fields { readonly path: string; readonly kind: Kind; readonly size: number; readonly target: string; readonly mode: number; readonly mtime: number; readonly uid: number; readonly gid: number }

/** The ustar header; what does not fit is cut, and stands in the pax header before it. */
function block({ path, kind, size, target, mode, mtime, uid, gid }: Fields): Uint8Array {
  const out = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, digits: number) => void out.write(Math.min(value, 8 ** digits - 1).toString(8).padStart(digits, "0"), at);
  out.write(path, 0, NAME_MAX);
  octal(mode, 100, 7);
  octal(uid, 108, 7);
  octal(gid, 116, 7);
  octal(size, 124, 11);
  octal(mtime, 136, 11);
  out.write(`        ${kind}`, 148);
  out.write(target, 157, NAME_MAX);
  out.write("ustar\x0000", 257, "latin1");
  octal(out.reduce((sum, byte) => sum + byte, 0), 148, 6);
  out.write("\0 ", 154, "latin1");
  return out;
}
