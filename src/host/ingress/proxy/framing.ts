// Where a body ends (RFC 9112 6 and 7): how long it is by its head, and readers that find its end in what comes.
import { asBuffer, type Field, Malformed, parseFields, type RequestHead, type ResponseHead, tokensOf, valuesOf } from "./head.ts";
import { EMPTY, join, latin1 } from "./wire.ts";

export type Framing = { readonly kind: "none" } | { readonly kind: "length"; readonly length: number } | { readonly kind: "chunked" } | { readonly kind: "close" };

export const NONE: Framing = { kind: "none" };
const CHUNKED: Framing = { kind: "chunked" };

export function requestFraming({ minor, fields }: RequestHead): Framing | Malformed {
  const lengths = valuesOf(fields, "content-length");
  if (valuesOf(fields, "transfer-encoding").length === 0) return lengths.length === 0 ? NONE : fromLength(lengths, 400);
  if (lengths.length > 0) return new Malformed(400, "it has both Content-Length and Transfer-Encoding");
  if (minor === 0) return new Malformed(400, "HTTP/1.0 knows no Transfer-Encoding");
  const codings = tokensOf(fields, "transfer-encoding");
  if (codings.length === 1 && codings[0] === "chunked") return CHUNKED;
  return codings.at(-1) === "chunked" ? new Malformed(501, "of transfer codings only chunked is understood") : new Malformed(400, "its last transfer coding is not chunked");
}

/** `method` is the request's. */
export function responseFraming({ status, minor, fields }: ResponseHead, method: string): Framing | Malformed {
  const lengths = valuesOf(fields, "content-length");
  const coded = valuesOf(fields, "transfer-encoding").length > 0;
  if (method === "HEAD" || status < 200 || status === 204 || status === 304) return NONE;
  if (coded) {
    if (lengths.length > 0) return new Malformed(502, "it has both Content-Length and Transfer-Encoding");
    const codings = tokensOf(fields, "transfer-encoding");
    return minor === 1 && codings.length === 1 && codings[0] === "chunked" ? CHUNKED : new Malformed(502, "its transfer coding is not chunked alone");
  }
  return lengths.length === 0 ? { kind: "close" } : fromLength(lengths, 502);
}

function fromLength(values: readonly string[], status: number): Framing | Malformed {
  const length = values.length === 1 && /^\d{1,16}$/.test(values[0]!) ? Number(values[0]) : Number.NaN;
  if (!Number.isSafeInteger(length)) return new Malformed(status, "its Content-Length is not one number");
  return { kind: "length", length };
}

type Take = (part: Uint8Array) => void;

/** Takes a body's bytes as they come. */
export interface BodyReader {
  /**
   * Hands the body's own bytes to `out`; gives back what comes after its end (empty before). `frame` is handed, in between, the
   * framing of a chunked body but for its end: bytes that were found to be right, where nothing but a size is in them.
   */
  read(bytes: Uint8Array, out: Take, frame?: Take | null): Uint8Array | Malformed;
  readonly done: boolean;
  /** Of a chunked body, once it is done. */
  readonly trailers: readonly Field[];
}

export function bodyReader(framing: Framing): BodyReader {
  if (framing.kind === "chunked") return new ChunkedReader();
  return new LengthReader(framing.kind === "none" ? 0 : framing.kind === "length" ? framing.length : Number.POSITIVE_INFINITY);
}

/** Also for bodies that end with their connection, whose length is infinite. */
class LengthReader implements BodyReader {
  readonly trailers: readonly Field[] = [];
  constructor(private left: number) {}
  get done(): boolean { return this.left === 0; }
  read(bytes: Uint8Array, out: Take): Uint8Array {
    if (this.left === 0) return bytes;
    const part = bytes.length <= this.left ? bytes : bytes.subarray(0, this.left);
    this.left -= part.length;
    if (part.length > 0) out(part);
    return part.length === bytes.length ? EMPTY : bytes.subarray(part.length);
  }
}

/** Bytes of a size line with its extensions, which say nothing to us; and of all trailers. */
const SIZE_LINE_MAX = 1024, TRAILERS_MAX = 16 * 1024;
const PLAIN_SIZE = /^[1-9a-fA-F][0-9a-fA-F]*$/;
const SIZE_LINE = /^([0-9a-fA-F]{1,13})(?:[\t ]*;[\t\x20-\x7e\x80-\xff]*)?$/;

class ChunkedReader implements BodyReader {
  done = false;
  trailers: readonly Field[] = [];
  private state: "size" | "data" | "after" | "trailers" = "size";
  private left = 0;
  /** A line that has not come in full. */
  private line: Uint8Array = EMPTY;
  private readonly trailerLines: string[] = [];
  private trailerBytes = 0;

  read(bytes: Uint8Array, out: Take, frame: Take | null = null): Uint8Array | Malformed {
    let rest = bytes;
    while (rest.length > 0 && !this.done) {
      if (this.state === "data") {
        const part = rest.length <= this.left ? rest : rest.subarray(0, this.left);
        rest = rest.subarray(part.length);
        this.left -= part.length;
        out(part);
        if (this.left === 0) this.state = "after";
        continue;
      }
      const end = asBuffer(rest).indexOf(10);
      this.line = join(this.line, end < 0 ? rest : rest.subarray(0, end + 1));
      rest = end < 0 ? EMPTY : rest.subarray(end + 1);
      if (this.line.length > (this.state === "trailers" ? TRAILERS_MAX : SIZE_LINE_MAX)) return new Malformed(400, "a line of its chunked body is too long");
      if (end < 0) break;
      const wrong = this.take(asBuffer(this.line), frame);
      this.line = EMPTY;
      if (wrong !== null) return wrong;
    }
    return rest;
  }

  private take(line: Buffer, frame: Take | null): Malformed | null {
    if (line.length < 2 || line[line.length - 2] !== 13) return new Malformed(400, "a line of its chunked body ends without CR LF");
    const text = line.toString("latin1", 0, line.length - 2);
    if (this.state === "trailers") return this.takeTrailer(text);
    if (this.state === "size") return this.takeSize(text, line, frame);
    if (text !== "") return new Malformed(400, "a chunk is longer than its size");
    this.state = "size";
    frame?.(line);
    return null;
  }

  private takeSize(text: string, line: Uint8Array, frame: Take | null): Malformed | null {
    const match = SIZE_LINE.exec(text);
    if (match === null) return new Malformed(400, "the size of a chunk is not a hexadecimal number");
    this.left = Number.parseInt(match[1]!, 16);
    this.state = this.left === 0 ? "trailers" : "data";
    if (this.left > 0) frame?.(PLAIN_SIZE.test(text) ? line : sizeLine(this.left));
    return null;
  }

  private takeTrailer(text: string): Malformed | null {
    if (text !== "") {
      this.trailerBytes += text.length;
      if (this.trailerBytes > TRAILERS_MAX) return new Malformed(400, "its trailers are too long");
      this.trailerLines.push(text);
      return null;
    }
    const fields = parseFields(this.trailerLines);
    if (fields instanceof Malformed) return fields;
    this.trailers = fields;
    this.done = true;
    return null;
  }
}

const CRLF = latin1("\r\n");

const sizeLine = (size: number): Uint8Array => latin1(`${size.toString(16)}\r\n`);

/** The pieces of one chunk of a chunked body. */
export const chunk = (part: Uint8Array): Uint8Array[] => [sizeLine(part.length), part, CRLF];
/** Its end. */
export const lastChunk = (trailers: readonly Field[]): Uint8Array => latin1(`0\r\n${trailers.map(({ name, value }) => `${name}: ${value}\r\n`).join("")}\r\n`);
