// The volume domain: disks with names of their own, and who has them.
import { mkdirSync, readdirSync, statSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Database } from "bun:sqlite";
import { systemClock, type Clock } from "../clock.ts";
import { createId } from "../id.ts";
import { err, errAsync, ok, ResultAsync } from "neverthrow";
import { DormouseError, fail, wrap, type AsyncRes, type Res } from "../../errors.ts";
import { Ext4Images } from "../ext4-images.ts";
import { isExt4, needsRecovery } from "../ext4-superblock.ts";
import { withRemedy } from "../storage.ts";
import { sync } from "../sync.ts";
import type { Trash } from "../trash.ts";
import { limitsOf, unpack } from "./archive/unpack.ts";
import { checkMounts, checkVolume } from "./checks.ts";
import { VolumeRecords } from "./records.ts";
import type { ArchiveBody, CreateVolume, Volume, VolumeFile, VolumeMount, VolumeOwner, VolumeService } from "./service.ts";

export { volumeMigrations } from "./migrations.ts";

const TEMPLATES = ".templates", FILE = "data.ext4", CONTENT = "content", LABEL = "volume";

export interface VolumeDeps {
  /** With `volumeMigrations` applied. */
  readonly db: Database;
  /** `<data>/volumes`; made where it is missing. */
  readonly dir: string;
  /** On the same file system. */
  readonly trash: Trash;
  /** How people call an owner, for messages. */
  readonly nameOf: (owner: VolumeOwner) => string;
  readonly mkfs?: string;
  readonly clock?: Clock;
  /** For tests: called after each step of making and deleting one. */
  readonly onStep?: (step: string) => void;
}

/** Deletes what a crash has left of volumes that came to nothing, or were being deleted. */
export function openVolumes(deps: VolumeDeps): Res<VolumeService> {
  try {
    mkdirSync(deps.dir, { recursive: true, mode: 0o700 });
    const known = new Set([TEMPLATES, ...new VolumeRecords(deps.db).ids()]);
    for (const name of readdirSync(deps.dir)) if (!known.has(name)) deps.trash.drop(join(deps.dir, name));
    return ok(new Volumes(deps));
  } catch (error) {
    return err(wrap("host.storage", `Cannot open the folder of volumes ${deps.dir}`, error));
  }
}

class Volumes implements VolumeService {
  private readonly records: VolumeRecords;
  private readonly images: Ext4Images;
  /** Names and ids of volumes that are being made. */
  private readonly coming = new Set<string>();

  constructor(private readonly deps: VolumeDeps) {
    this.records = new VolumeRecords(deps.db);
    this.images = new Ext4Images(join(deps.dir, TEMPLATES), deps.mkfs);
  }

  create(request: CreateVolume): AsyncRes<Volume> {
    return this.make(request, (path, { sizeBytes }) => this.images.ensure(path, sizeBytes, LABEL));
  }

  createFromArchive(request: CreateVolume, body: ArchiveBody): AsyncRes<Volume> {
    return this.make(request, (path, wanted) => ResultAsync.fromPromise(this.fillFrom(path, wanted, body), (cause) => wrap("host.storage", `Cannot create the volume ${wanted.name} from the archive`, cause)));
  }

  /** By way of a folder beside the disk, which goes with whatever is left of a volume that comes to nothing. */
  private async fillFrom(path: string, { name, sizeBytes }: CreateVolume, body: ArchiveBody): Promise<void> {
    const what = `Cannot create the volume ${name} from the archive`, folder = join(dirname(path), CONTENT);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    this.step("begun");
    const { entries, root } = await unpack(what, body, folder, limitsOf(sizeBytes), this.deps.clock ?? systemClock);
    this.step("unpacked");
    const filled = await this.images.fill(path, sizeBytes, LABEL, { folder, entries, root });
    if (filled.isErr()) throw filled.error;
    if (!filled.value) throw new DormouseError("volume.archive_too_large", `${what}: its content does not fit into ${sizeBytes} bytes; give a larger size`);
    this.deps.trash.drop(folder);
  }

  made({ name, id, sizeBytes, tags }: CreateVolume): Volume | null {
    const there = this.records.called(name);
    return there?.name === name && there.sizeBytes === sizeBytes && (id === null || id === there.id) && Bun.deepEquals(there.tags, tags) ? there : null;
  }

  list(tags: Readonly<Record<string, string>> = {}): Volume[] {
    const wanted = Object.entries(tags);
    return this.records.list().filter((one) => wanted.every(([key, value]) => one.tags[key] === value));
  }

  get(ref: string): Res<Volume> { return this.records.get(ref); }

  /** The row first: what a crash leaves of the file the next start sweeps. */
  remove(ref: string): Res<void> {
    const removed = this.attempt(`Cannot delete the volume ${ref}`, () => this.records.transaction(() => this.records.get(ref).andThen((volume) => this.deleteFree(volume))));
    return removed.andThen((id) => this.attempt(`Cannot delete the files of the volume ${ref}`, () => {
      this.step("forgotten");
      this.deps.trash.drop(this.folder(id));
      this.step("dropped");
      return ok();
    }));
  }

  attach(owner: VolumeOwner, mounts: readonly VolumeMount[]): Res<readonly VolumeMount[]> {
    return this.records.transaction(() => {
      const had = this.records.mountsOf(owner), checked = checkMounts(mounts, had);
      if (checked.isErr()) return err(checked.error);
      const taken: VolumeMount[] = [];
      for (const mount of mounts) {
        const found = this.records.get(mount.volumeId).andThen((volume) => this.checkFree(owner, volume, mount, [...had, ...taken]));
        if (found.isErr()) return err(found.error);
        taken.push({ ...mount, volumeId: found.value.id });
      }
      for (const mount of taken) this.records.attach(owner, mount);
      return ok(taken);
    });
  }

  detach(owner: VolumeOwner, ref: string): Res<VolumeMount> {
    return this.records.transaction(() => this.records.get(ref).andThen(({ id, name }) => {
      const mount = this.records.mountsOf(owner).find(({ volumeId }) => volumeId === id);
      if (mount === undefined) return fail("volume.not_found", `Cannot detach the volume ${name} from ${this.deps.nameOf(owner)}: it is not attached to it`);
      this.records.detach(owner, id);
      return ok(mount);
    }));
  }

  release(owner: VolumeOwner): void { this.records.release(owner); }

  mountsOf(owner: VolumeOwner): readonly VolumeMount[] { return this.records.mountsOf(owner); }

  files(owner: VolumeOwner): Res<readonly VolumeFile[]> {
    const files: VolumeFile[] = [];
    for (const mount of this.records.mountsOf(owner)) {
      const file = this.records.get(mount.volumeId).andThen((volume) => this.checkFile(owner, volume, mount));
      if (file.isErr()) return err(file.error);
      files.push(file.value);
    }
    return ok(files);
  }

  /** A file that nobody knows of until it is whole and its name is on the storage; then the row. On a failure nothing is left. */
  private make(request: CreateVolume, fill: (path: string, request: CreateVolume) => AsyncRes<void>): AsyncRes<Volume> {
    const id = request.id ?? createId(), free = checkVolume(request).andThen(() => this.checkNew(request.name, id));
    if (free.isErr()) return errAsync(free.error);
    const words = [request.name, id], volume: Volume = { id, name: request.name, sizeBytes: request.sizeBytes, tags: request.tags, createdAt: Date.now(), attachments: [] };
    for (const word of words) this.coming.add(word);
    const made = fill(join(this.folder(id), FILE), request)
      .andThen(() => ResultAsync.fromPromise(this.settle(volume), (cause) => wrap("host.storage", `Cannot create the volume ${request.name}`, cause)))
      .mapErr((error) => (this.deps.trash.discard(this.folder(id)), withRemedy(error)));
    const done = () => words.forEach((word) => this.coming.delete(word));
    return made.map((there) => (done(), there)).mapErr((error) => (done(), error));
  }

  private async settle(volume: Volume): Promise<Volume> {
    this.step("filled");
    for (const path of [join(this.folder(volume.id), FILE), this.folder(volume.id), this.deps.dir]) await sync(path);
    this.step("synced");
    this.records.insert(volume);
    this.step("recorded");
    return volume;
  }

  private checkNew(name: string, id: string): Res<void> {
    for (const word of new Set([name, id])) {
      const there = this.records.called(word);
      if (there === null && !this.coming.has(word)) continue;
      const what = there === null ? "one is being made that is called so" : `there is one already with that as its ${there.name === word ? "name" : "id"}`;
      return fail("volume.already_exists", `Cannot create a volume with the ${word === name ? "name" : "id"} ${word}: ${what}; choose another, or delete that one`);
    }
    return ok();
  }

  private checkFree(owner: VolumeOwner, volume: Volume, mount: VolumeMount, had: readonly VolumeMount[]): Res<Volume> {
    const refuse = (why: string) => fail("volume.in_use", `Cannot attach the volume ${volume.name} to ${this.deps.nameOf(owner)}${mount.readonly ? "" : " for writing"}: ${why}`, { details: { volume: volume.id } });
    if (had.some(({ volumeId }) => volumeId === volume.id)) return refuse("it has it already; detach it first");
    const holders = this.records.holders(volume.id), writer = holders.find((holder) => !holder.readonly), by = writer ?? (mount.readonly ? undefined : holders[0]);
    if (by === undefined) return ok(volume);
    return refuse(`${this.deps.nameOf(by.owner)} has it${by === writer ? " for writing" : ""}; ${by === writer ? "it is one's alone then" : "many may have it, but all readonly"}. Detach it there, or delete that one`);
  }

  private deleteFree(volume: Volume): Res<string> {
    const holders = this.records.holders(volume.id);
    if (holders.length > 0) return fail("volume.in_use", `Cannot delete the volume ${volume.name}: ${holders.map(({ owner }) => this.deps.nameOf(owner)).slice(0, 3).join(", ")}${holders.length > 3 ? ` and ${holders.length - 3} more have` : holders.length > 1 ? " have" : " has"} it; detach it there first, or delete them`, { details: { volume: volume.id } });
    this.records.delete(volume.id);
    return ok(volume.id);
  }

  private checkFile(owner: VolumeOwner, { id, name, sizeBytes }: Volume, mount: VolumeMount): Res<VolumeFile> {
    const path = join(this.folder(id), FILE), found = statSync(path, { throwIfNoEntry: false });
    const refuse = (why: string) => fail("volume.missing", `Cannot use the volume ${name} of ${this.deps.nameOf(owner)}: ${why}`, { details: { volume: id } });
    if (found === undefined) return refuse(`${path} is missing; bring it back, or detach the volume from the instance while it is stopped`);
    if (found.size < sizeBytes) return refuse(`${path} has ${found.size} bytes instead of ${sizeBytes}; bring back all of it, or detach the volume from the instance while it is stopped`);
    if (!isExt4(path)) return refuse(`${path} holds no file system of its kind (ext4): another file is in its place, or it was damaged; bring back what was there, or detach the volume from the instance while it is stopped`);
    if (mount.readonly && needsRecovery(path)) return fail("volume.unclean", `Cannot use the volume ${name} of ${this.deps.nameOf(owner)} readonly: its last writer did not unmount it, and what its journal holds must be written first; attach it to an instance for writing, start that once and stop it`, { details: { volume: id } });
    return ok({ ...mount, path, sizeBytes });
  }

  private attempt<T>(what: string, work: () => Res<T>): Res<T> {
    try {
      return work();
    } catch (error) {
      return err(wrap("host.storage", what, error));
    }
  }

  private folder(id: string): string { return join(this.deps.dir, id); }

  private step(name: string): void { this.deps.onStep?.(name); }
}
