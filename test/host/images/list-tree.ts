// Everything that a program can see of a file tree, as JSON: `bun list-tree.ts FOLDER` (run inside the mount namespace of mounted.ts).
import { lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { syscall } from "../../../src/ffi/syscall.ts";

export interface Listed {
  readonly mode: number; readonly uid: number; readonly gid: number; readonly rdev: number; readonly mtime: string;
  /** Of what is no directory. */
  readonly size?: number; readonly nlink?: number; readonly content?: string; readonly target?: string;
  /** The first of the names of this inode. */
  readonly same?: string;
  readonly xattrs: Readonly<Record<string, string>>;
}

const LGETXATTR = 192, LLISTXATTR = 195;
const S_IFMT = 0o170000, S_IFREG = 0o100000, S_IFDIR = 0o040000, S_IFLNK = 0o120000;
const bytes = (path: Buffer): Buffer => Buffer.concat([path, Buffer.from([0])]);

/** Names are latin1 strings, one character a byte. SELinux labels are the host's, not the tree's. */
function xattrsOf(path: Buffer): Record<string, string> {
  const names = Buffer.alloc(65536), value = Buffer.alloc(65536);
  const length = syscall(LLISTXATTR, bytes(path), names, names.length);
  const found: Record<string, string> = {};
  for (const name of names.toString("latin1", 0, Math.max(length, 0)).split("\0").filter((one) => one !== "" && one !== "security.selinux").sort()) {
    const size = syscall(LGETXATTR, bytes(path), Buffer.from(`${name}\0`, "latin1"), value, value.length);
    if (size < 0) throw new Error(`Cannot read ${name} of ${path}: ${size}`);
    found[name] = value.toString("hex", 0, size);
  }
  return found;
}

function listTree(root: string): Record<string, Listed> {
  const found: Record<string, Listed> = {};
  const inodes = new Map<bigint, string>();
  const visit = (path: Buffer, name: string): void => {
    const stat = lstatSync(path, { bigint: true });
    const type = Number(stat.mode) & S_IFMT;
    const same = inodes.get(stat.ino) ?? name;
    inodes.set(stat.ino, same);
    found[name] = {
      mode: Number(stat.mode), uid: Number(stat.uid), gid: Number(stat.gid), rdev: Number(stat.rdev), mtime: String(stat.mtimeNs), xattrs: xattrsOf(path),
      ...(type === S_IFDIR ? {} : { size: Number(stat.size), nlink: Number(stat.nlink), same }),
      ...(type === S_IFREG ? { content: new Bun.CryptoHasher("sha256").update(readFileSync(path)).digest("hex") } : {}),
      ...(type === S_IFLNK ? { target: readlinkSync(path, { encoding: "buffer" }).toString("latin1") } : {}),
    };
    if (type !== S_IFDIR) return;
    const names = readdirSync(path, { encoding: "buffer" }).map((one) => one.toString("latin1")).sort();
    for (const child of names) visit(Buffer.concat([path, Buffer.from(`/${child}`, "latin1")]), name === "" ? child : `${name}/${child}`);
  };
  visit(Buffer.from(root), "");
  return found;
}

if (import.meta.main) await Bun.write(Bun.stdout, JSON.stringify(listTree(process.argv[2]!)));
