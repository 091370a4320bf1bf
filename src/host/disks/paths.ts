// Where the files of owners and layers lie.
import { existsSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import type { Trash } from "../trash.ts";
import type { DiskRecords, Top } from "./records.ts";
import type { DiskLayer, DiskOwner } from "./service.ts";

export class DiskPaths {
  readonly layerDir: string;
  constructor(private readonly dataDir: string, private readonly records: DiskRecords) {
    this.layerDir = join(dataDir, "disks");
  }

  folder({ kind, id }: DiskOwner): string { return join(this.dataDir, `${kind}s`, id); }

  /** A snapshot's folder has nothing but its disk, and goes with it; one that isn't empty stays. */
  dropFolder(owner: DiskOwner): void {
    if (owner.kind !== "snapshot") return;
    try {
      rmdirSync(this.folder(owner));
    } catch (error) {
      if (!["ENOENT", "ENOTEMPTY"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
    }
  }

  /** The owner's own file. */
  own(owner: DiskOwner, { file, layer }: Top): DiskLayer | null {
    if (file === null) return null;
    const path = join(this.folder(owner), file);
    return { path: `${path}.ext4`, map: layer === null ? null : `${path}.map` };
  }

  layer(id: string, mapped: boolean): DiskLayer {
    const path = join(this.layerDir, id);
    return { path: `${path}.img`, map: mapped ? `${path}.map` : null };
  }

  /** All of the owner's disk, newest first. */
  stack(owner: DiskOwner, top: Top): DiskLayer[] {
    const own = this.own(owner, top), chain = this.records.chain(top.layer);
    return [...(own === null ? [] : [own]), ...chain.map((id, i) => this.layer(id, i < chain.length - 1))];
  }

  /** Every map on record. */
  maps(): string[] {
    const own = this.records.tops().map((top) => this.own({ kind: top.kind, id: top.owner }, top)?.map ?? null);
    return [...own, ...this.records.layers().map(({ id, parent }) => this.layer(id, parent !== null).map)].filter((map) => map !== null);
  }
}

/** After the record: what a crash leaves of them the next start sweeps. */
export function drop(trash: Trash, files: DiskLayer | null): void {
  for (const path of [files?.path, files?.map]) if (typeof path === "string") trash.drop(path);
}

/** Throws where a file is not there. */
export function requireAll(files: readonly DiskLayer[]): void {
  const missing = files.flatMap(({ path, map }) => [path, ...(map === null ? [] : [map])]).find((path) => !existsSync(path));
  if (missing !== undefined) throw new Error(`${missing} is missing`);
}
