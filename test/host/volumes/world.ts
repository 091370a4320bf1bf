// A data folder with volumes in it, as a daemon has it.
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openStore, type Store } from "../../../src/host/store/store.ts";
import type { Trash } from "../../../src/host/trash.ts";
import { openVolumes, volumeMigrations, type VolumeDeps } from "../../../src/host/volumes/volumes.ts";
import type { CreateVolume, VolumeMount, VolumeOwner, VolumeService } from "../../../src/host/volumes/service.ts";
import { trashIn } from "../../support/trash.ts";

export const MIB = 2 ** 20;

export const wanted = (name: string, change: Partial<CreateVolume> = {}): CreateVolume => ({ name, sizeBytes: 64 * MIB, id: null, tags: {}, ...change });
export const mount = (volumeId: string, change: Partial<VolumeMount> = {}): VolumeMount => ({ volumeId, mountPath: "/data", readonly: false, overlayBytes: null, ...change });
export const instance = (id: string): VolumeOwner => ({ kind: "instance", id });
export const snapshot = (id: string): VolumeOwner => ({ kind: "snapshot", id });

export class World {
  readonly root: string;
  readonly dir: string;
  store!: Store;
  volumes!: VolumeService;
  trash!: Trash;

  constructor(private readonly deps: Partial<VolumeDeps> = {}, parent = tmpdir()) {
    this.root = mkdtempSync(join(parent, "dormouse-volumes-"));
    this.dir = join(this.root, "volumes");
    this.open();
  }

  open(): void {
    this.store = openStore(join(this.root, "dormouse.db"), volumeMigrations)._unsafeUnwrap();
    this.trash = trashIn(this.root);
    this.volumes = openVolumes({ db: this.store.db, dir: this.dir, trash: this.trash, nameOf: ({ kind, id }) => `${kind} ${id}`, ...this.deps })._unsafeUnwrap();
  }

  /** As after the end of a daemon. */
  reopen(): void {
    this.store.close();
    this.open();
  }

  /** Folders of volumes, whoever knows of them. */
  folders(): string[] { return readdirSync(this.dir).filter((name) => !name.startsWith(".")).sort(); }

  /** What is left of anything in templates that is not whole. */
  parts(): string[] { return existsSync(join(this.dir, ".templates")) ? readdirSync(join(this.dir, ".templates")).filter((name) => !name.endsWith(".ext4")) : []; }

  [Symbol.dispose](): void {
    this.store.close();
    rmSync(this.root, { recursive: true, force: true });
  }
}
