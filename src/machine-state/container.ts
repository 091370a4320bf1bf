// The file format around a saved machine: numbered sections behind a table, a SHA-256 over all of it at the end. Integers are
// little-endian. Header: 8 bytes magic, u32 version, u32 sections, u64 length of the file; a table entry: u32 number, u32 0,
// u64 offset, u64 length.
import { MachineStateError } from "./fault.ts";

const MAGIC = Buffer.from("DORMOUSE");
/** What this code writes. A reader takes no other: what changes the meaning of a section changes the version. */
export const VERSION = 1;
const HEADER = 24, ENTRY = 24, HASH = 32;
const MAX_SECTIONS = 1024;

type Bytes = Uint8Array<ArrayBuffer>;

export function encodeContainer(sections: ReadonlyMap<number, Uint8Array>): Bytes {
  const table = HEADER + sections.size * ENTRY;
  const length = [...sections.values()].reduce((sum, section) => sum + section.length, table) + HASH;
  const bytes = new Uint8Array(length), view = new DataView(bytes.buffer);
  bytes.set(MAGIC);
  view.setUint32(8, VERSION, true);
  view.setUint32(12, sections.size, true);
  view.setBigUint64(16, BigInt(length), true);
  let at = table, entry = HEADER;
  for (const [number, section] of sections) {
    view.setUint32(entry, number, true);
    view.setBigUint64(entry + 8, BigInt(at), true);
    view.setBigUint64(entry + 16, BigInt(section.length), true);
    bytes.set(section, at);
    at += section.length;
    entry += ENTRY;
  }
  bytes.set(hash(bytes.subarray(0, at)), at);
  return bytes;
}

/** Sections by number, views of `bytes`. Throws MachineStateError and nothing else. */
export function decodeContainer(bytes: Uint8Array): Map<number, Uint8Array> {
  const magic = bytes.subarray(0, MAGIC.length);
  if (!MAGIC.subarray(0, magic.length).equals(magic)) throw new MachineStateError("foreign", "Cannot read the saved machine: the file is something else");
  if (bytes.length < HEADER + HASH) throw new MachineStateError("truncated", `Cannot read the saved machine: ${bytes.length} bytes are too few`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const version = view.getUint32(8, true);
  if (version !== VERSION) throw new MachineStateError("newer", `Cannot read the saved machine: it is of version ${version}, this program reads version ${VERSION}`);
  const length = Number(view.getBigUint64(16, true));
  if (bytes.length < length) throw new MachineStateError("truncated", `Cannot read the saved machine: ${bytes.length} of ${length} bytes are there`);
  const end = bytes.length - HASH;
  if (length !== bytes.length || !Buffer.from(hash(bytes.subarray(0, end))).equals(bytes.subarray(end))) throw corrupted("its checksum is wrong");
  return sectionsOf(view, bytes, end);
}

function sectionsOf(view: DataView, bytes: Uint8Array, end: number): Map<number, Uint8Array> {
  const count = view.getUint32(12, true);
  if (count > MAX_SECTIONS || HEADER + count * ENTRY > end) throw corrupted("its table does not fit");
  const sections = new Map<number, Uint8Array>();
  for (let entry = HEADER; entry < HEADER + count * ENTRY; entry += ENTRY) {
    const offset = Number(view.getBigUint64(entry + 8, true)), size = Number(view.getBigUint64(entry + 16, true));
    if (offset + size > end) throw corrupted("a section of it lies outside");
    sections.set(view.getUint32(entry, true), bytes.subarray(offset, offset + size));
  }
  return sections;
}

export const corrupted = (what: string): MachineStateError => new MachineStateError("corrupted", `Cannot read the saved machine: ${what}`);

const hash = (bytes: Uint8Array): Uint8Array => new Bun.CryptoHasher("sha256").update(bytes).digest();
