// A cpio archive in the "newc" format, as the kernel unpacks it behind the initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst): 110 bytes of hexadecimal header, name, data, each padded to 4.

export interface CpioEntry { readonly name: string; /** Type and permissions, as in st_mode. */ readonly mode: number; readonly data?: Uint8Array }

const MAGIC = "070701";
const TRAILER = "TRAILER!!!";

export const cpio = (entries: readonly CpioEntry[]): Uint8Array =>
  Buffer.concat([...entries, { name: TRAILER, mode: 0 }].flatMap((entry, i) => encodeEntry(entry, i + 1)));

function encodeEntry({ name, mode, data = new Uint8Array() }: CpioEntry, inode: number): Uint8Array[] {
  const encoded = Buffer.from(`${name}\0`);
  const links = (mode & 0o170000) === 0o040000 ? 2 : 1;
  // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
  const fields = [inode, mode, 0, 0, links, 0, data.length, 0, 0, 0, 0, encoded.length, 0];
  const header = Buffer.from(MAGIC + fields.map((field) => field.toString(16).padStart(8, "0")).join(""));
  return [padded(Buffer.concat([header, encoded])), padded(data)];
}

const padded = (bytes: Uint8Array): Uint8Array => Buffer.concat([bytes, new Uint8Array(-bytes.length & 3)]);
