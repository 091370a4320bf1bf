// A host's disks over a folder of its own, as tests of the disk domain use them.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Disks } from "../../../src/host/disks/disks.ts";
import type { Clone, DiskLayer, DiskOwner } from "../../../src/host/disks/service.ts";
import type { Store } from "../../../src/host/store/store.ts";
import { content, makePlain, openDisks, write, Writer } from "./disk-files.ts";

/** Set where the tests run again on a file system that can share blocks. */
export const reflinks = process.env["DORMOUSE_TEST_REFLINKS"];
const base = reflinks ?? tmpdir();

export const cleanup: (() => void)[] = [];
/** Call in afterEach. */
export function cleanUp(): void { for (const step of cleanup.splice(0).reverse()) step(); }

export const instance = (id: string): DiskOwner => ({ kind: "instance", id });
export const snapshot = (id: string): DiskOwner => ({ kind: "snapshot", id });

/** A data folder in which instance `a` has a disk of an earlier version, with 1 in block 0. */
export function folder(): string {
  const dir = mkdtempSync(join(base, "dormouse-disks-"));
  cleanup.push(() => rmSync(dir, { recursive: true }));
  mkdirSync(join(dir, "instances/a"), { recursive: true });
  makePlain(join(dir, "instances/a/upper.ext4"), 1);
  return dir;
}

export class Host {
  private constructor(readonly dir: string, readonly disks: Disks, readonly store: Store) {}
  static async open(dir = folder(), onStep?: (step: string) => void): Promise<Host> {
    const { disks, store } = await openDisks(dir, onStep);
    return new Host(dir, disks, store);
  }
  async again(): Promise<Host> {
    this.store.close();
    return Host.open(this.dir);
  }
  files(owner: DiskOwner): readonly DiskLayer[] { return this.disks.files(owner)._unsafeUnwrap(); }
  content(owner: DiskOwner): number[] { return content(this.files(owner)); }
  write(owner: DiskOwner, block: number, value: number): void { write(this.files(owner), block, value); }
  async begin(from: DiskOwner, to: DiskOwner): Promise<Clone> { return (await this.disks.clone(from, to))._unsafeUnwrap(); }
  async clone(from: DiskOwner, to: DiskOwner): Promise<void> { (await this.begin(from, to)).finish()._unsafeUnwrap(); }
  remove(owner: DiskOwner): void { this.disks.remove(owner)._unsafeUnwrap(); }
  layerFiles(): string[] { return readdirSync(join(this.dir, "disks")); }
  ownFiles(owner: DiskOwner): string[] {
    const dir = join(this.dir, `${owner.kind}s`, owner.id);
    return existsSync(dir) ? readdirSync(dir) : [];
  }
}

/** Instance `a` over three layers, of which snapshots keep two apart: s the oldest, t the next. */
export async function chain(host: Host): Promise<void> {
  host.write(instance("a"), 1, 1);
  await host.clone(instance("a"), snapshot("s"));
  host.write(instance("a"), 0, 2);
  host.write(instance("a"), 2, 2);
  if (!reflinks) {
    const writer = new Writer(host.files(instance("a"))[0]!);
    writer.mark(1); // what the guest has discarded
    writer.close();
  }
  await host.clone(instance("a"), snapshot("t"));
  host.write(instance("a"), 2, 3);
  host.write(instance("a"), 3, 3);
}
