// A "newc" cpio archive in memory: the initramfs format (kernel documentation, driver-api/early-userspace/buffer-format).
export interface CpioEntry { readonly path: string; readonly mode: number; readonly data?: Uint8Array }

const pad4 = (n: number): number => (4 - (n % 4)) % 4;

function record(index: number, { path, mode, data = new Uint8Array() }: CpioEntry): Buffer {
  const name = Buffer.from(path + "\0");
  const fields = [index, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length, 0];
  const head = Buffer.from("070701" + fields.map((n) => n.toString(16).padStart(8, "0")).join(""));
  return Buffer.concat([head, name, Buffer.alloc(pad4(head.length + name.length)), data, Buffer.alloc(pad4(data.length))]);
}

/** Folders must come before what lies in them. `mode` is a whole st_mode (`0o040755`, `0o100755`). */
export const cpio = (entries: readonly CpioEntry[]): Buffer =>
  Buffer.concat([...entries, { path: "TRAILER!!!", mode: 0 }].map((entry, i) => record(i + 1, entry)));
