// Tar archives byte by byte, for entries that GNU tar would not write.

export interface Made {
  readonly name: string;
  readonly type?: string;
  readonly link?: string;
  readonly data?: Uint8Array | string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtime?: number;
  readonly major?: number;
  readonly minor?: number;
  /** What the header says, where it is not the data's length. */
  readonly size?: number;
  readonly pax?: Readonly<Record<string, string | Uint8Array>>;
}

const BLOCK = 512;
const octal = (value: number, width: number): string => value.toString(8).padStart(width - 1, "0") + "\0";

function header(entry: Made, size: number): Buffer {
  const block = Buffer.alloc(BLOCK);
  const put = (text: string, at: number): void => void block.write(text, at, "latin1");
  put(entry.name.slice(0, 100), 0);
  put(octal(entry.mode ?? 0o644, 8), 100);
  put(octal(entry.uid ?? 0, 8), 108);
  put(octal(entry.gid ?? 0, 8), 116);
  put(octal(size, 12), 124);
  put(octal(entry.mtime ?? 0, 12), 136);
  put("        ", 148);
  put(entry.type ?? "0", 156);
  put((entry.link ?? "").slice(0, 100), 157);
  put("ustar\0" + "00", 257);
  put(octal(entry.major ?? 0, 8), 329);
  put(octal(entry.minor ?? 0, 8), 337);
  put(octal(block.reduce((sum, byte) => sum + byte, 0), 7), 148);
  return block;
}

const padded = (data: Uint8Array): Buffer => Buffer.concat([data, Buffer.alloc((BLOCK - (data.length % BLOCK)) % BLOCK)]);

export function paxRecord(key: string, value: string | Uint8Array): Buffer {
  const body = Buffer.concat([Buffer.from(` ${key}=`, "latin1"), typeof value === "string" ? Buffer.from(value, "latin1") : value, Buffer.from("\n")]);
  let length = body.length;
  while (String(length).length + body.length !== length) length = String(length).length + body.length;
  return Buffer.concat([Buffer.from(String(length)), body]);
}

export function entryBytes(entry: Made): Buffer {
  const data = typeof entry.data === "string" ? Buffer.from(entry.data) : Buffer.from(entry.data ?? []);
  const parts: Buffer[] = [];
  if (entry.pax !== undefined) {
    const records = Buffer.concat(Object.entries(entry.pax).map(([key, value]) => paxRecord(key, value)));
    parts.push(header({ name: "PaxHeaders/x", type: "x" }, records.length), padded(records));
  }
  parts.push(header(entry, entry.size ?? data.length), padded(data));
  return Buffer.concat(parts);
}

/** The entries and the end marker. */
export const tar = (entries: readonly Made[]): Buffer => Buffer.concat([...entries.map(entryBytes), Buffer.alloc(2 * BLOCK)]);

export const dir = (name: string, more: Partial<Made> = {}): Made => ({ name, type: "5", mode: 0o755, ...more });
export const file = (name: string, data: Uint8Array | string = "", more: Partial<Made> = {}): Made => ({ name, data, ...more });
export const symlink = (name: string, link: string): Made => ({ name, type: "2", link, mode: 0o777 });
export const hardlink = (name: string, link: string): Made => ({ name, type: "1", link });
