// PAX extended headers (POSIX.1-2001 pax, "pax Header Block"): records `LENGTH KEY=VALUE\n`, LENGTH counts all of itself.
// Values stay bytes: SCHILY.xattr.* carries binary (security.capability has NULs).
import { TarError } from "./error.ts";

/** What the records of one or more extended headers say. Keys and texts are byte strings. */
export interface PaxRecords {
  readonly values: Map<string, Buffer>;
  /** Bytes of all records that were read into this, replaced ones too. */
  bytes: number;
  /** GNU sparse 0.0 repeats GNU.sparse.offset and GNU.sparse.numbytes: offset, length, offset, length, … */
  readonly sparse00: number[];
}

export const emptyPax = (): PaxRecords => ({ values: new Map(), bytes: 0, sparse00: [] });

/** Any number of headers may follow each other, and a global one holds for the whole archive: their sum is bounded. */
export const MAX_PAX = 8 << 20;

/** Adds the records in `bytes` to `into`; a later value replaces an earlier one, an empty one takes it away. */
export function parsePax(bytes: Buffer, into: PaxRecords): void {
  into.bytes += bytes.length;
  if (into.bytes > MAX_PAX) throw new TarError(`extended headers of ${into.bytes} bytes are too large`);
  for (let at = 0; at < bytes.length; ) {
    const space = bytes.indexOf(0x20, at);
    const digits = space < 0 || space - at > 12 ? "" : bytes.toString("latin1", at, space);
    const end = at + Number(digits);
    if (!/^[1-9][0-9]*$/.test(digits) || end > bytes.length || bytes[end - 1] !== 0x0a) throw new TarError("a PAX record is malformed");
    const equals = bytes.indexOf(0x3d, space + 1);
    if (equals < 0 || equals >= end) throw new TarError("a PAX record has no value");
    const key = bytes.toString("latin1", space + 1, equals);
    addRecord(into, key, bytes.subarray(equals + 1, end - 1));
    at = end;
  }
}

function addRecord(into: PaxRecords, key: string, value: Buffer): void {
  if (key === "GNU.sparse.offset" || key === "GNU.sparse.numbytes") into.sparse00.push(paxInteger(value.toString("latin1"), key));
  // A copy, because the payload's buffer is used again; an empty value means "as if it were not there" (POSIX),
  // but an extended attribute may well be empty.
  else if (value.length > 0 || key.startsWith("SCHILY.xattr.")) into.values.set(key, Buffer.from(value));
  else into.values.delete(key);
}

/** A non-negative decimal integer. */
export function paxInteger(text: string, key: string): number {
  const number = Number(text);
  if (!/^[0-9]+$/.test(text) || !Number.isSafeInteger(number)) throw new TarError(`the PAX record ${key} is not a number`);
  return number;
}

/** Seconds with an optional fraction, possibly before 1970; `nsec` always counts forward. */
export function paxTime(value: Buffer): { sec: number; nsec: number } {
  const match = /^(-?)([0-9]{1,15})(?:\.([0-9]*))?$/.exec(value.toString("latin1"));
  if (match === null) throw new TarError("a PAX time is malformed");
  const whole = Number(match[2]);
  const fraction = Number((match[3] ?? "").slice(0, 9).padEnd(9, "0"));
  if (match[1] !== "-") return { sec: whole, nsec: fraction };
  return fraction === 0 ? { sec: -whole, nsec: 0 } : { sec: -whole - 1, nsec: 1_000_000_000 - fraction };
}
