// Extended attributes in the form in which they stand behind an inode (fs/erofs/erofs_fs.h, inline xattrs).
import { TarError } from "../../tar/error.ts";
import { XATTR_ENTRY, XATTR_HEADER, XATTR_PREFIX } from "./layout.ts";

/** Linux's XATTR_NAME_MAX and XATTR_SIZE_MAX; i_xattr_icount bounds the sum. */
const NAME_MAX = 255, VALUE_MAX = 65535, TOTAL_MAX = 4 * 65534;

/**
 * Encodes name and value pairs (names are byte strings), later ones over earlier; null where nothing is left.
 * Left out: namespaces that Linux does not know, and trusted.overlay.*, which the guest's overlay would take for orders.
 */
export function encodeXattrs(pairs: readonly (readonly [string, Buffer])[], path: string): Uint8Array | null {
  const kept = [...new Map(pairs)].flatMap(([name, value]) => {
    const prefix = XATTR_PREFIX.find(([text]) => name.startsWith(text));
    if (prefix === undefined || name.startsWith("trusted.overlay.") || (name === prefix[0] && name.endsWith("."))) return [];
    return [{ index: prefix[1], suffix: name.slice(prefix[0].length), value }];
  });
  if (kept.length === 0) return null;
  const total = kept.reduce((sum, { suffix, value }) => sum + entrySize(suffix, value), XATTR_HEADER);
  if (total > TOTAL_MAX || kept.some(({ suffix, value }) => suffix.length > NAME_MAX || value.length > VALUE_MAX))
    throw new TarError(`the extended attributes of ${path} are too large`);
  const out = Buffer.alloc(total);
  let at = XATTR_HEADER;
  for (const { index, suffix, value } of kept) {
    out[at] = suffix.length;
    out[at + 1] = index;
    out.writeUInt16LE(value.length, at + 2);
    out.write(suffix, at + XATTR_ENTRY, "latin1");
    out.set(value, at + XATTR_ENTRY + suffix.length);
    at += entrySize(suffix, value);
  }
  return out;
}

const entrySize = (suffix: string, value: Buffer): number => (XATTR_ENTRY + suffix.length + value.length + 3) & ~3;

/** What i_xattr_icount says for `xattrs`. */
export const xattrIcount = (xattrs: Uint8Array | null): number => (xattrs === null ? 0 : (xattrs.length - XATTR_HEADER) / 4 + 1);
