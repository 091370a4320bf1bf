// Files of a guest to here. The guest is an adversary: nothing that it names may come to lie outside of the destination. So
// every name goes into a folder that this copy has made or looked at itself, symlinks are made and never followed, and a file
// is written beside its name, which it takes once it is whole.
import { chmodSync, closeSync, fchmodSync, futimesSync, lstatSync, mkdirSync, openSync, realpathSync, renameSync, rmSync, statSync, symlinkSync, utimesSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { randomHex } from "../ffi/random.ts";
import type { CpHeader } from "../routes/cp-protocol.ts";
import type { CopySink } from "./copy-connection.ts";
import { specialName } from "./copy-to.ts";
import { CliError, systemReason } from "./fail.ts";

interface Folder { readonly path: string; readonly local: string; readonly header: CpHeader; /** One that was there keeps its mode. */ readonly made: boolean }
interface OpenFile { readonly fd: number; readonly beside: string; readonly target: string; readonly header: CpHeader }

export interface Destination {
  readonly path: string;
  /** The name that the source gets in a folder that is there; null: what is in it goes there, without itself. */
  readonly name: string | null;
}

export class LocalSink implements CopySink {
  bytes = 0;
  /** The folder that is being filled, after those that it is in; its length is bounded by that of a path. */
  private readonly folders: Folder[] = [];
  private root: string | null = null;
  private file: OpenFile | null = null;

  constructor(private readonly destination: Destination, readonly skipped: (path: string, message: string) => void) {}

  header(header: CpHeader): void {
    if (this.file !== null) throw broken("a file began in the middle of another");
    const local = this.place(header);
    if (header.is_symlink === true) this.link(header, local);
    else if (header.is_dir === true) this.folder(header, local);
    else this.begin(header, local);
  }

  data(bytes: Uint8Array): void {
    const { file } = this;
    if (file === null) throw broken("bytes came that belong to no file");
    for (let done = 0; done < bytes.length; ) done += writing(file.target, () => writeSync(file.fd, bytes, done));
    this.bytes += bytes.length;
  }

  fileEnd(): void {
    const { file } = this;
    if (file === null) throw broken("the end of a file came without one");
    writing(file.target, () => {
      // Not its set-id bits: the file is ours now, and what is in it the guest's.
      fchmodSync(file.fd, (file.header.mode ?? 0o644) & 0o777);
      if (file.header.mtime) futimesSync(file.fd, file.header.mtime, file.header.mtime);
      renameSync(file.beside, file.target);
    });
    this.file = null;
    closeSync(file.fd);
  }

  finish(): void {
    if (this.file !== null || this.root === null) throw broken("the end came too early");
    this.leave(0);
  }

  abort(): void {
    if (this.file === null) return;
    closeSync(this.file.fd);
    rmSync(this.file.beside, { force: true });
    this.file = null;
  }

  /** Where it goes: the source itself as the destination says, all else into a folder that we are in. */
  private place(header: CpHeader): string {
    if (this.root === null) {
      if (header.path !== "") throw broken(`${JSON.stringify(header.path)} came before the source itself`);
      return (this.root = rootOf(this.destination, header));
    }
    const parts = header.path.split("/"), name = parts.pop()!;
    if ([...parts, name].some((part) => part === "" || part === "." || part === ".." || part.includes("\0"))) throw broken(`${JSON.stringify(header.path)} is no name below the source`);
    const above = parts.join("/");
    const depth = this.folders.findIndex(({ path }) => path === above);
    if (depth < 0) throw broken(`${JSON.stringify(header.path)} is in no folder that came before it`);
    this.leave(depth + 1);
    return join(this.folders[depth]!.local, name);
  }

  /** Out of all folders but the first `kept`: now they are as the guest has them. */
  private leave(kept: number): void {
    for (const { local, header, made } of this.folders.splice(kept).reverse()) {
      if (!made) continue;
      writing(local, () => {
        chmodSync(local, (header.mode ?? 0o755) & 0o777);
        if (header.mtime) utimesSync(local, header.mtime, header.mtime);
      });
    }
  }

  private folder(header: CpHeader, local: string): void {
    // The destination may be a symlink to a folder: it was named here. What a guest names must be one itself.
    const there = header.path === "" && local === this.destination.path ? seen(local) : itself(local);
    if (there !== undefined && !there.isDirectory()) throw new CliError(`Cannot create the folder ${local}: something else of that name is there`, "copy_failed");
    if (there === undefined) writing(local, () => mkdirSync(local, { mode: 0o700 }));
    this.folders.push({ path: header.path, local, header, made: there === undefined });
  }

  private begin(header: CpHeader, local: string): void {
    const target = header.path === "" ? resolved(local) : local;
    inTheWay(target);
    const beside = join(dirname(target), `.dormouse-cp-${randomHex(4)}`);
    const fd = writing(target, () => openSync(beside, "wx", 0o600));
    this.file = { fd, beside, target, header };
  }

  private link(header: CpHeader, local: string): void {
    if (!header.link_target) throw broken(`the symlink ${JSON.stringify(header.path)} has no target`);
    inTheWay(local);
    const beside = join(dirname(local), `.dormouse-cp-${randomHex(4)}`);
    writing(local, () => {
      symlinkSync(header.link_target!, beside);
      renameSync(beside, local);
    });
  }
}

/** docker cp's rules: into a folder that is there, or under the destination's own name. */
function rootOf({ path, name }: Destination, header: CpHeader): string {
  const there = seen(path);
  const isFolder = header.is_dir === true;
  if (there?.isDirectory()) return isFolder && name === null ? path : join(path, name ?? "");
  if (there !== undefined && isFolder) throw new CliError(`Cannot copy a folder to ${path}: it is a file`, "copy_failed");
  if (path.endsWith("/") && (there !== undefined || !isFolder)) throw new CliError(`Cannot copy to ${path}: there is no such folder`, "copy_failed");
  if (there === undefined && !seen(dirname(path))?.isDirectory()) throw new CliError(`Cannot copy to ${path}: there is no folder ${dirname(path)}`, "copy_failed");
  return path;
}

/** A destination that is a symlink to a file: the file is meant. */
function resolved(path: string): string {
  if (!itself(path)?.isSymbolicLink()) return path;
  return writing(path, () => realpathSync(path));
}

/** Files and symlinks are replaced; devices and the like would be lost to everybody. */
function inTheWay(path: string): void {
  const there = itself(path);
  if (there === undefined || there.isFile() || there.isSymbolicLink()) return;
  throw new CliError(`Cannot write ${path}: ${there.isDirectory() ? "a folder of that name is there" : `it is ${specialName(there)}`}`, "copy_failed");
}

const broken = (how: string): CliError => new CliError(`Cannot go on: what comes from the guest is not in order: ${how}`, "copy_failed");

/** What is there, through symlinks and without. */
const seen = (path: string) => writing(path, () => statSync(path, { throwIfNoEntry: false }));
const itself = (path: string) => writing(path, () => lstatSync(path, { throwIfNoEntry: false }));

function writing<T>(path: string, write: () => T): T {
  try {
    return write();
  } catch (cause) {
    throw new CliError(`Cannot write ${path}: ${systemReason(cause)}`, "copy_failed");
  }
}
