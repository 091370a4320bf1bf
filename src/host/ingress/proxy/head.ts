// Heads of HTTP/1.1 messages (RFC 9112): requests are read as strictly as the grammar is written, for what we read one way and
// a target another is how requests are smuggled; answers as leniently as does no harm, for they are written anew.
import { EMPTY } from "./wire.ts";

export interface Field { readonly name: string; /** In small letters. */ readonly key: string; readonly value: string }

export interface RequestHead {
  readonly method: string;
  readonly target: string;
  readonly minor: 0 | 1;
  readonly fields: readonly Field[];
}
export interface ResponseHead {
  readonly status: number;
  readonly reason: string;
  readonly minor: 0 | 1;
  readonly fields: readonly Field[];
}

/** A message that can't be taken: the status to answer a request with, and why. */
export class Malformed {
  constructor(readonly status: number, readonly why: string) {}
}

/** Bytes of a head; more than any browser or common server makes. */
const HEAD_MAX = 64 * 1024;
const FIELDS_MAX = 256;

const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/; // RFC 9110 5.6.2
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/; // RFC 9110 5.5, obs-text included
const REQUEST_LINE = /^([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e\x80-\xff]+) HTTP\/(\d)\.(\d)$/;
const STATUS_LINE = /^HTTP\/1\.([01]) (\d{3})(?: ([\t\x20-\x7e\x80-\xff]*))?$/;

/** Cuts the head, with its empty line, off `bytes`; null where it is not all there. `lenient`: lines may end by LF alone. */
export function cutHead(bytes: Uint8Array, lenient: boolean): { readonly text: string; readonly rest: Uint8Array } | Malformed | null {
  const buffer = asBuffer(bytes);
  const found = lenient ? findEmptyLine(buffer) : findStrictly(buffer);
  if ((found?.end ?? bytes.length) > HEAD_MAX) return new Malformed(431, `its head is larger than ${HEAD_MAX} bytes`);
  if (found === null) return null;
  return { text: buffer.toString("latin1", 0, found.end), rest: bytes.length === found.next ? EMPTY : bytes.subarray(found.next) };
}

interface EmptyLine { /** Where the text before it ends. */ readonly end: number; readonly next: number }

function findStrictly(buffer: Buffer): EmptyLine | null {
  const end = buffer.indexOf("\r\n\r\n");
  return end < 0 ? null : { end, next: end + 4 };
}

const CR = 13, LF = 10;

function findEmptyLine(buffer: Buffer): EmptyLine | null {
  for (let at = buffer.indexOf(LF); at >= 0; at = buffer.indexOf(LF, at + 1)) {
    const end = buffer[at - 1] === CR ? at - 1 : at;
    if (buffer[at + 1] === LF) return { end, next: at + 2 };
    if (buffer[at + 1] === CR && buffer[at + 2] === LF) return { end, next: at + 3 };
  }
  return null;
}

/** Empty lines before a request are no part of it (RFC 9112 2.2). */
export function skipEmptyLines(bytes: Uint8Array): Uint8Array {
  let at = 0;
  while (bytes[at] === CR && bytes[at + 1] === LF) at += 2;
  return at === 0 ? bytes : bytes.subarray(at);
}

export function parseRequest(text: string): RequestHead | Malformed {
  const lines = text.split("\r\n");
  const match = REQUEST_LINE.exec(lines[0]!);
  if (match === null) return new Malformed(400, "its first line is not METHOD TARGET HTTP/1.1");
  const [, method = "", target = "", major, minor] = match;
  if (major !== "1" || (minor !== "0" && minor !== "1")) return new Malformed(505, "this port speaks HTTP/1.1");
  const fields = parseFields(lines.slice(1));
  if (fields instanceof Malformed) return fields;
  return { method, target, minor: minor === "0" ? 0 : 1, fields };
}

export function parseResponse(text: string): ResponseHead | Malformed {
  const lines = text.split(/\r?\n/);
  const match = STATUS_LINE.exec(lines[0]!);
  if (match === null || match[2]! < "100") return new Malformed(502, "its first line is not HTTP/1.1 STATUS");
  const fields = parseFields(lines.slice(1));
  if (fields instanceof Malformed) return fields;
  return { status: Number(match[2]), reason: match[3] ?? "", minor: match[1] === "0" ? 0 : 1, fields };
}

/** Fields of a head or of trailers, a line each. */
export function parseFields(lines: readonly string[]): readonly Field[] | Malformed {
  if (lines.length > FIELDS_MAX) return new Malformed(431, `it has more than ${FIELDS_MAX} fields`);
  const fields: Field[] = [];
  for (const line of lines) {
    if (line.startsWith(" ") || line.startsWith("\t")) return new Malformed(400, "a field is folded over lines (obs-fold)");
    const at = line.indexOf(":");
    const name = line.slice(0, at);
    if (at < 1 || !TOKEN.test(name)) return new Malformed(400, "a line is no field (NAME: VALUE)");
    const value = line.slice(at + 1).replace(/^[\t ]+|[\t ]+$/g, "");
    if (!VALUE.test(value)) return new Malformed(400, "the value of a field has a control character");
    fields.push({ name, key: name.toLowerCase(), value });
  }
  return fields;
}

export const valuesOf = (fields: readonly Field[], key: string): string[] => fields.filter((one) => one.key === key).map(({ value }) => value);

/** The tokens of a list field such as Connection, in small letters. */
export const tokensOf = (fields: readonly Field[], key: string): string[] =>
  valuesOf(fields, key).flatMap((value) => value.toLowerCase().split(",").map((token) => token.trim())).filter((token) => token !== "");

export const asBuffer = (bytes: Uint8Array): Buffer =>
  bytes instanceof Buffer ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
