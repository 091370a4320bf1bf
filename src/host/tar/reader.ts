// A streaming tar reader: bytes are pushed in, entries come out, and nothing is kept but the header at hand.
// Read: v7, ustar, GNU (long names, old sparse, base-256) and PAX (with xattrs and GNU sparse 0.0, 0.1, 1.0).
// Own code because the libraries decode PAX values as text (which breaks security.capability) and know no sparse files.
import { TarError } from "./error.ts";
import { BLOCK, isZeroBlock, parseHeader, type RawHeader } from "./header.ts";
import { emptyPax, MAX_PAX, parsePax, paxInteger, paxTime, type PaxRecords } from "./pax.ts";
import { checkedMap, oldGnuExtension, oldGnuSegments, paxSparse, SparseMapReader, type SparseMap } from "./sparse.ts";

export type TarType = "file" | "link" | "symlink" | "char" | "block" | "dir" | "fifo";

/** Names and targets are byte strings (latin1), as they stand in the archive. */
export interface TarEntry {
  readonly type: TarType;
  readonly path: string;
  readonly linkpath: string;
  /** Permission bits, 0 to 0o7777. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Size of the file that comes out, holes included. */
  readonly size: number;
  readonly mtimeSec: number;
  readonly mtimeNsec: number;
  readonly major: number;
  readonly minor: number;
  readonly xattrs: readonly (readonly [name: string, value: Buffer])[] | null;
  readonly sparse: SparseMap | null;
}

export interface TarHandler {
  entry(entry: TarEntry): void;
  /** Stored bytes of the entry at hand; valid for this call only. */
  data(chunk: Buffer): void;
  endEntry(): void;
}

const TYPES: Readonly<Record<string, TarType>> = { "\0": "file", "0": "file", "7": "file", S: "file", "1": "link", "2": "symlink", "3": "char", "4": "block", "5": "dir", D: "dir", "6": "fifo" };

type State = "header" | "meta" | "sparseExtension" | "sparseMap" | "data" | "skip" | "end";

export class TarReader {
  private state: State = "header";
  private readonly block = Buffer.alloc(BLOCK);
  private filled = 0;
  /** Bytes still to come of the payload at hand, and the padding behind it. */
  private left = 0;
  private padding = 0;
  private header: RawHeader | null = null;
  private meta: Buffer = Buffer.alloc(0);
  private metaFilled = 0;
  private readonly globalPax: PaxRecords = emptyPax();
  private pax: PaxRecords | null = null;
  private longName: string | null = null;
  private longLink: string | null = null;
  private oldSparse: { segments: number[]; realSize: number } | null = null;
  private mapReader: SparseMapReader | null = null;
  /** The path at hand, for messages. */
  path = "";

  constructor(private readonly handler: TarHandler) {}

  push(chunk: Buffer): void {
    for (let at = 0; at < chunk.length && this.state !== "end"; ) at += this.consume(at === 0 ? chunk : chunk.subarray(at));
  }

  /**
   * For a reader that can seek, and needs no data: passes over what is left of the entry at hand.
   * Returns the number of bytes of input to leave out.
   */
  skipEntry(): number {
    const skipped = this.state === "data" ? this.left + this.padding : this.state === "skip" ? this.left : 0;
    if (this.state === "data") this.handler.endEntry();
    if (skipped > 0) this.state = "header";
    return skipped;
  }

  /** True once the end marker was read. */
  get ended(): boolean {
    return this.state === "end";
  }

  /** Call at the end of input; an archive may lack its end marker, but nothing of an entry. */
  finish(): void {
    if (this.state === "end") return;
    if (this.header === null && this.filled > 0) throw new TarError("it ends before its first header does: it is truncated, or not a tar archive");
    if (this.state !== "header" || this.filled !== 0 || this.pax !== null || this.longName !== null)
      throw new TarError(`the archive ends in the middle${this.path === "" ? "" : ` of ${JSON.stringify(this.path)}`}: it is truncated`);
  }

  private consume(chunk: Buffer): number {
    switch (this.state) {
      case "data": return this.consumeData(chunk);
      case "skip": return this.consumeSkip(chunk);
      case "meta": return this.consumeMeta(chunk);
      default: return this.consumeBlock(chunk);
    }
  }

  private consumeBlock(chunk: Buffer): number {
    const taken = Math.min(BLOCK - this.filled, chunk.length);
    chunk.copy(this.block, this.filled, 0, taken);
    this.filled += taken;
    if (this.filled === BLOCK) {
      this.filled = 0;
      if (this.state === "header") this.onHeader();
      else if (this.state === "sparseExtension") this.onSparseExtension();
      else this.onSparseMap();
    }
    return taken;
  }

  private consumeData(chunk: Buffer): number {
    const taken = Math.min(this.left, chunk.length);
    this.handler.data(taken === chunk.length ? chunk : chunk.subarray(0, taken));
    this.left -= taken;
    if (this.left === 0) this.endData();
    return taken;
  }

  private consumeSkip(chunk: Buffer): number {
    const taken = Math.min(this.left, chunk.length);
    this.left -= taken;
    if (this.left === 0) this.state = "header";
    return taken;
  }

  private consumeMeta(chunk: Buffer): number {
    const taken = Math.min(this.left, chunk.length);
    chunk.copy(this.meta, this.metaFilled, 0, taken);
    this.metaFilled += taken;
    this.left -= taken;
    if (this.left === 0) {
      this.onMeta();
      this.skip(this.padding);
    }
    return taken;
  }

  private skip(bytes: number): void {
    this.left = bytes;
    this.state = bytes > 0 ? "skip" : "header";
  }

  private endData(): void {
    this.handler.endEntry();
    this.skip(this.padding);
  }

  private onHeader(): void {
    if (isZeroBlock(this.block)) {
      this.state = "end";
      return;
    }
    const header = parseHeader(this.block);
    if (header.size < 0) throw new TarError("a header's size is negative");
    this.header = header;
    if ("xXgLK".includes(header.typeflag)) this.beginMeta(header);
    else if (header.typeflag === "S") this.beginOldSparse();
    else if (header.typeflag in TYPES) this.beginEntry(header);
    else this.skipUnknown(header);
  }

  /** Volume labels and vendor types are not files: they are passed over, as other readers do. */
  private skipUnknown(header: RawHeader): void {
    this.resetOverrides();
    this.skip(Math.ceil(header.size / BLOCK) * BLOCK);
  }

  private beginMeta(header: RawHeader): void {
    if (header.size > MAX_PAX) throw new TarError(`an extended header of ${header.size} bytes is too large`);
    this.meta = Buffer.allocUnsafe(header.size);
    this.metaFilled = 0;
    this.left = header.size;
    this.padding = paddingOf(header.size);
    this.state = "meta";
    if (header.size === 0) {
      this.onMeta();
      this.state = "header";
    }
  }

  private onMeta(): void {
    switch (this.header?.typeflag) {
      case "g": return parsePax(this.meta, this.globalPax);
      case "L": this.longName = untilNul(this.meta); return;
      case "K": this.longLink = untilNul(this.meta); return;
      default: parsePax(this.meta, (this.pax ??= emptyPax()));
    }
  }

  private beginOldSparse(): void {
    const segments: number[] = [];
    const { extended, realSize } = oldGnuSegments(this.block, segments);
    this.oldSparse = { segments, realSize };
    if (extended) this.state = "sparseExtension";
    else this.beginEntry(this.header!);
  }

  private onSparseExtension(): void {
    if (!oldGnuExtension(this.block, this.oldSparse!.segments)) this.beginEntry(this.header!);
  }

  private onSparseMap(): void {
    this.left -= BLOCK;
    if (this.mapReader!.pushBlock(this.block)) this.emit(this.header!, this.left, this.mapReader!.segments);
    else if (this.left < BLOCK) throw new TarError("a sparse map is truncated");
  }

  private beginEntry(header: RawHeader): void {
    const size = this.paxNumber("size") ?? header.size;
    this.padding = paddingOf(size);
    this.left = size;
    if (this.paxText("GNU.sparse.major") === "1" && this.paxText("GNU.sparse.minor") === "0") {
      this.mapReader = new SparseMapReader();
      this.state = "sparseMap";
      if (size < BLOCK) throw new TarError("a sparse map is truncated");
    } else this.emit(header, size, this.oldSparse?.segments ?? paxSparse(this.pax ?? this.globalPax));
  }

  private emit(header: RawHeader, stored: number, segments: readonly number[] | null): void {
    const entry = this.describe(header, stored, segments);
    this.resetOverrides();
    this.path = entry.path;
    this.handler.entry(entry);
    if (entry.type !== "file") {
      // Only files have data; a size in another's header is what it says of a file elsewhere (as in Go's archive/tar).
      this.handler.endEntry();
      this.skip(header.typeflag === "D" ? stored + this.padding : 0);
      return;
    }
    this.left = stored;
    this.state = "data";
    if (stored === 0) this.endData();
  }

  private describe(header: RawHeader, stored: number, segments: readonly number[] | null): TarEntry {
    const path = this.paxText("GNU.sparse.name") ?? this.paxText("path") ?? this.longName ?? header.name;
    const linkpath = this.paxText("linkpath") ?? this.longLink ?? header.linkname;
    if (path.includes("\0") || linkpath.includes("\0")) throw new TarError("a name contains a NUL byte");
    let type = TYPES[header.typeflag] ?? "file";
    // v7 marks directories by their name alone.
    if (type === "file" && path.endsWith("/")) type = "dir";
    const realSize = this.oldSparse?.realSize ?? this.paxNumber("GNU.sparse.realsize") ?? this.paxNumber("GNU.sparse.size") ?? stored;
    const sparse = segments === null || type !== "file" ? null : checkedMap(segments, realSize, stored);
    const mtime = this.paxValue("mtime");
    const time = mtime === undefined ? { sec: header.mtime, nsec: 0 } : paxTime(mtime);
    return {
      type, path, linkpath, sparse,
      mode: header.mode & 0o7777,
      uid: this.paxNumber("uid") ?? header.uid,
      gid: this.paxNumber("gid") ?? header.gid,
      size: type === "file" ? (sparse?.realSize ?? stored) : 0,
      mtimeSec: time.sec,
      mtimeNsec: time.nsec,
      major: header.devmajor,
      minor: header.devminor,
      xattrs: this.xattrs(),
    };
  }

  private xattrs(): [string, Buffer][] | null {
    const found: [string, Buffer][] = [];
    for (const values of [this.globalPax.values, this.pax?.values])
      for (const [key, value] of values ?? []) if (key.startsWith("SCHILY.xattr.")) found.push([key.slice("SCHILY.xattr.".length), value]);
    return found.length > 0 ? found : null;
  }

  private resetOverrides(): void {
    this.pax = this.longName = this.longLink = this.oldSparse = this.mapReader = null;
  }

  private paxValue(key: string): Buffer | undefined {
    return this.pax?.values.get(key) ?? this.globalPax.values.get(key);
  }

  private paxText(key: string): string | undefined {
    return this.paxValue(key)?.toString("latin1");
  }

  private paxNumber(key: string): number | undefined {
    const value = this.paxValue(key);
    return value === undefined ? undefined : paxInteger(value.toString("latin1"), key);
  }
}

const paddingOf = (size: number): number => (BLOCK - (size % BLOCK)) % BLOCK;

function untilNul(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString("latin1", 0, end < 0 ? bytes.length : end);
}
