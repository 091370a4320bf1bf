// One 512-byte tar header: ustar (POSIX.1-1988), the GNU variant (tar(5), "GNU tar archives") and v7.
// Names stay byte strings (one latin1 character a byte): tar says nothing about their encoding.
import { TarError } from "./error.ts";

export const BLOCK = 512;

/** Header fields as they stand in the block; PAX and GNU long names override some of them later. */
export interface RawHeader {
  readonly typeflag: string;
  readonly name: string;
  readonly linkname: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Bytes of data that follow in the archive. */
  readonly size: number;
  readonly mtime: number;
  readonly devmajor: number;
  readonly devminor: number;
  readonly gnu: boolean;
}

/** Text up to the first NUL, at most `length` bytes, as a byte string. */
function textField(block: Buffer, offset: number, length: number): string {
  let end = offset;
  while (end < offset + length && block[end] !== 0) end++;
  return block.toString("latin1", offset, end);
}

/** Octal with padding, or GNU's base-256 (first bit set, two's complement). */
export function numberField(block: Buffer, offset: number, length: number, what: string): number {
  const first = block[offset] ?? 0;
  if (first & 0x80) return base256(block, offset, length, what);
  const text = textField(block, offset, length).trim();
  if (text === "") return 0;
  if (!/^[0-7]+$/.test(text)) throw new TarError(`the header's ${what} is not a number`);
  return safe(Number.parseInt(text, 8), what);
}

function base256(block: Buffer, offset: number, length: number, what: string): number {
  const first = block[offset] ?? 0;
  // Bit 6 is the sign of what remains of the first byte.
  let value = first & 0x40 ? (first | 0x80) - 256 : first & 0x7f;
  for (let i = 1; i < length; i++) {
    value = value * 256 + (block[offset + i] ?? 0);
    safe(value, what);
  }
  return value;
}

function safe(value: number, what: string): number {
  if (!Number.isSafeInteger(value)) throw new TarError(`the header's ${what} is beyond what can be stored`);
  return value;
}

/** The checksum counts its own eight bytes as spaces; old writers summed signed bytes. */
function checksumHolds(block: Buffer): boolean {
  const digits = textField(block, 148, 8).trim();
  if (!/^[0-7]+$/.test(digits)) return false;
  const stated = Number.parseInt(digits, 8);
  let unsigned = 8 * 32;
  let negative = 0;
  for (let i = 0; i < BLOCK; i++) {
    if (i >= 148 && i < 156) continue;
    const byte = block[i] ?? 0;
    unsigned += byte;
    if (byte > 127) negative++;
  }
  return stated === unsigned || stated === unsigned - 256 * negative;
}

export function isZeroBlock(block: Buffer): boolean {
  for (let i = 0; i < BLOCK; i++) if (block[i] !== 0) return false;
  return true;
}

/** Parses a header block that is not all zero. */
export function parseHeader(block: Buffer): RawHeader {
  if (!checksumHolds(block)) throw new TarError("a header's checksum is wrong: this is not a tar archive, or it is damaged");
  const magic = block.toString("latin1", 257, 265);
  const gnu = magic === "ustar  \0";
  const ustar = magic.startsWith("ustar\0");
  const prefix = ustar ? textField(block, 345, 155) : "";
  const name = textField(block, 0, 100);
  return {
    typeflag: String.fromCharCode(block[156] ?? 0),
    name: prefix === "" ? name : `${prefix}/${name}`,
    linkname: textField(block, 157, 100),
    mode: numberField(block, 100, 8, "mode"),
    uid: numberField(block, 108, 8, "uid"),
    gid: numberField(block, 116, 8, "gid"),
    size: numberField(block, 124, 12, "size"),
    mtime: numberField(block, 136, 12, "mtime"),
    devmajor: gnu || ustar ? numberField(block, 329, 8, "device number") : 0,
    devminor: gnu || ustar ? numberField(block, 337, 8, "device number") : 0,
    gnu,
  };
}
