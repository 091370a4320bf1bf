// Writable disks of guests: sparse files with an ext4 in them. mkfs.ext4 runs once for each label and size; the empty file system that it
// made is kept as a template and copied, which costs a few milliseconds.
import { readdirSync, rmSync, statSync } from "node:fs";
import { mkdir, open, rename, rm, stat, utimes } from "node:fs/promises";
import { dirname, join } from "node:path";
import { ok, ResultAsync } from "neverthrow";
import { DormouseError, fail, messageOf, wrap, type AsyncRes, type Res } from "../errors.ts";
import { cloneFile } from "../ffi/sparse.ts";
import { sync } from "./sync.ts";

/** Changes with anything below that changes what mkfs makes, so that older templates are not used. */
const GEOMETRY = "g2";
const TEMPLATES_KEPT = 8;
const OWN_PART = `.${process.pid}.part`;
const MIB = 2 ** 20;
/** The monitor addresses writable disks in these (src/block-map.ts); mkfs alone takes smaller ones for small disks, as before g2. */
const BLOCK = 4096;
/** Below this the journal would take a good part of the disk. */
const SMALL = 512 * MIB;

const MIN_IMAGE = 64 * MIB;
/** What one file of ext4, the most common file system of hosts, may be long at most. */
const MAX_IMAGE = 16 * 2 ** 40 - 4096;

/** As people count memory and disks; what is no whole MiB stays in bytes, so that it shows. */
export const inMiB = (bytes: number): string => (bytes % MIB === 0 ? `${bytes / MIB} MiB` : `${bytes} bytes`);

/** `size.invalid`, where no image can be that long. `what` is given `bytes`. */
export const checkImageSize = (what: string, bytes: number): Res<void> => Number.isSafeInteger(bytes) && bytes >= MIN_IMAGE && bytes <= MAX_IMAGE && bytes % MIB === 0 ? ok()
  : fail("size.invalid", `Cannot give ${what} ${inMiB(bytes)}: it must be whole MiB, ${MIN_IMAGE / MIB} at least and 16 TiB less 1 MiB at most`);

/** ext2fs's words where blocks or inodes run out, and not the host's disk. */
const DOES_NOT_FIT = /Could not allocate (block|inode) in ext2 filesystem|Ext2 directory block not found|not enough space/i;

export interface RootMeta { readonly mode: number; readonly uid: number; readonly gid: number }
export interface Content { readonly folder: string; readonly entries: number; readonly root: RootMeta | null }

export class Ext4Images {
  private readonly making = new Map<string, Promise<string>>();
  /** Templates that somebody is about to copy, and how many are. */
  private readonly wanted = new Map<string, number>();

  /** `templates`: a folder on the same file system as the disks, so that clones can share blocks. */
  constructor(private readonly templates: string, private readonly mkfs = "mkfs.ext4") {}

  /** Makes `path` unless it is there. It is there only when it is whole. `label` is at most 16 bytes. `host.storage` otherwise. */
  ensure(path: string, bytes: number, label: string): AsyncRes<void> {
    return ResultAsync.fromPromise(this.make(path, bytes, label), (cause) => wrap("host.storage", `Cannot make the writable disk ${path}`, cause));
  }

  /**
   * Makes the new file `path` with all that `folder` holds: owners, modes, times, links, extended attributes; `entries` of them. False,
   * with nothing left, where that does not fit. What the root of the file system has is said by `root`.
   */
  fill(path: string, bytes: number, label: string, content: Content): AsyncRes<boolean> {
    return ResultAsync.fromPromise(this.makeFilled(path, bytes, label, content), (cause) => wrap("host.storage", `Cannot make the disk ${path}`, cause));
  }

  private async makeFilled(path: string, bytes: number, label: string, { folder, entries, root }: Content): Promise<boolean> {
    const part = `${path}.part`;
    await rm(part, { force: true });
    try {
      await this.format(part, bytes, label, ["-d", folder, ...inodesFor(entries, bytes)]);
      if (root !== null) await this.setRoot(part, root);
      await rename(part, path);
      return true;
    } catch (error) {
      await rm(part, { force: true });
      if (error instanceof DormouseError && DOES_NOT_FIT.test(error.message)) return false;
      throw error;
    }
  }

  /** mkfs takes everything from the folder but what the folder itself has. */
  private async setRoot(path: string, { mode, uid, gid }: RootMeta): Promise<void> {
    const set = (field: string, value: string) => `set_inode_field / ${field} ${value}\n`;
    const commands = set("mode", `04${mode.toString(8).padStart(4, "0")}`) + set("uid", String(uid)) + set("gid", String(gid));
    // Its status is 0 whatever happens; beside its version it says only what went wrong.
    const { words } = await this.spawn("debugfs", ["-w", "-f", "-", path], commands);
    const wrong = words.split("\n").filter((line) => line !== "" && !/^debugfs \d/.test(line));
    if (wrong.length > 0) throw new DormouseError("host.storage", `debugfs can't set the root folder's owner and mode: ${wrong.join(" ")}`);
    await sync(path);
  }

  private async make(path: string, bytes: number, label: string): Promise<void> {
    if (await exists(path)) return;
    const name = `${label}-${bytes}-${GEOMETRY}.ext4`, part = `${path}.part`;
    this.want(name, 1);
    try {
      const template = await this.template(name, bytes, label);
      await rm(part, { force: true });
      await mkdir(dirname(path), { recursive: true, mode: 0o700 });
      cloneFile(template, part);
    } finally {
      this.want(name, -1);
    }
    await rename(part, path);
  }

  private want(name: string, by: 1 | -1): void {
    const now = (this.wanted.get(name) ?? 0) + by;
    if (now === 0) this.wanted.delete(name);
    else this.wanted.set(name, now);
  }

  /** Concurrent requests for one template share one run of mkfs. */
  private template(name: string, bytes: number, label: string): Promise<string> {
    const running = this.making.get(name);
    if (running !== undefined) return running;
    const made = this.makeTemplate(join(this.templates, name), bytes, label).finally(() => this.making.delete(name));
    this.making.set(name, made);
    return made;
  }

  private async makeTemplate(path: string, bytes: number, label: string): Promise<string> {
    if (await exists(path)) {
      const now = new Date();
      await utimes(path, now, now); // the least recently used ones go first
      return path;
    }
    await mkdir(this.templates, { recursive: true, mode: 0o700 });
    // Of this daemon alone: the mkfs of one that was killed may still be writing.
    const part = `${path}${OWN_PART}`;
    await rm(part, { force: true });
    try {
      await this.format(part, bytes, label);
      await rename(part, path);
    } catch (error) {
      await rm(part, { force: true });
      throw error;
    }
    this.prune();
    return path;
  }

  private async format(path: string, bytes: number, label: string, more: readonly string[] = []): Promise<void> {
    const file = await open(path, "wx", 0o600);
    try {
      await file.truncate(bytes);
    } finally {
      await file.close();
    }
    // The file is new and all zero: with that said, nothing is written but the metadata in use, and the guest's kernel
    // doesn't zero the inode tables later either, which would fill the sparse file.
    const journal = bytes < SMALL ? 4 : 16;
    const options = (extra: string) => ["-q", "-F", "-b", String(BLOCK), "-m", "0", "-L", label, "-J", `size=${journal}`, "-E", `nodiscard,lazy_journal_init=1,${extra}`, ...more, path];
    const first = await this.run(options("assume_storage_prezeroed=1"));
    // e2fsprogs before 1.47 don't know that option.
    const last = first === null || !first.includes("assume_storage_prezeroed") ? first : await this.run(options("lazy_itable_init=1"));
    if (last !== null) throw new DormouseError("host.storage", last);
    await sync(path);
  }

  /** Null where mkfs succeeded; its words otherwise. */
  private async run(args: readonly string[]): Promise<string | null> {
    const { words, status } = await this.spawn(this.mkfs, args, "");
    return status === 0 ? null : `${this.mkfs} ended with status ${status}: ${words.trim().replaceAll(/\s+/g, " ")}`;
  }

  private async spawn(program: string, args: readonly string[], input: string): Promise<{ words: string; status: number }> {
    let child;
    try {
      child = Bun.spawn([program, ...args], { stdin: Buffer.from(input), stdout: "ignore", stderr: "pipe", env: { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin`, LC_ALL: "C" } });
    } catch (error) {
      throw new DormouseError("host.storage", `${program} can't be run (${messageOf(error)}); install e2fsprogs`);
    }
    const [words, status] = await Promise.all([new Response(child.stderr).text(), child.exited]);
    return { words, status };
  }

  /** In one go: what is not wanted now must still be there, or be gone, for whoever wants it next. */
  private prune(): void {
    const at = (name: string) => join(this.templates, name), all = readdirSync(this.templates), names = all.filter((name) => name.endsWith(".ext4"));
    for (const name of all) if (name.endsWith(".part") && !name.endsWith(OWN_PART)) rmSync(at(name), { force: true });
    const dated = names.map((name) => ({ name, usedMs: statSync(at(name)).mtimeMs })).sort((a, b) => b.usedMs - a.usedMs);
    for (const { name } of dated.slice(TEMPLATES_KEPT)) if (!this.wanted.has(name)) rmSync(at(name), { force: true });
  }
}

/** mkfs counts on files of 16 KiB (4 KiB in small disks); where they are smaller it needs to be told. */
function inodesFor(entries: number, bytes: number): string[] {
  const usual = bytes / (bytes < SMALL ? 4096 : 16_384);
  return entries * 4 < usual ? [] : ["-N", String(Math.ceil(Math.max(usual, entries * 1.25 + 64)))];
}

const exists = (path: string): Promise<boolean> => stat(path).then(() => true, (error: NodeJS.ErrnoException) => {
  if (error.code === "ENOENT") return false;
  throw error;
});
