// What the volume domain offers to instances, snapshots and routes: disks that outlive whoever has them. Implemented in this folder.
import type { AsyncRes, Res } from "../../errors.ts";

export interface CreateVolume {
  readonly name: string;
  readonly sizeBytes: number;
  /** Made up where it is null. */
  readonly id: string | null;
  readonly tags: Readonly<Record<string, string>>;
}

export interface Volume {
  readonly id: string;
  readonly name: string;
  readonly sizeBytes: number;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  readonly tags: Readonly<Record<string, string>>;
  /** Of instances only, the oldest first. */
  readonly attachments: readonly VolumeAttachment[];
}

export interface VolumeAttachment { readonly instanceId: string; readonly mountPath: string; readonly readonly: boolean }

/** What an owner has of a volume, or asks for. */
export interface VolumeMount {
  /** Where one is asked for, its name or a prefix of its id will do. */
  readonly volumeId: string;
  readonly mountPath: string;
  readonly readonly: boolean;
  /** Bytes of a writable layer of the owner's own over a read-only volume; null: none. */
  readonly overlayBytes: number | null;
}

export interface VolumeOwner { readonly kind: "instance" | "snapshot"; readonly id: string }

/** A mount, and the file that holds its file system (ext4, the whole disk). */
export interface VolumeFile extends VolumeMount { readonly path: string; readonly sizeBytes: number }

/** Bytes of an archive as they come; breaks off (rejects) where its sender does. */
export type ArchiveBody = AsyncIterable<Uint8Array>;

export interface VolumeService {
  /** Empty. `name.invalid`, `size.invalid`, `request.bad` (the id), `volume.already_exists`, `host.storage`. */
  create(request: CreateVolume): AsyncRes<Volume>;
  /**
   * With what a tar.gz holds. Besides what create() answers: `volume.archive_invalid`, `volume.archive_too_large`. On any failure, a body
   * that breaks off or says nothing for five minutes included, nothing is left.
   */
  createFromArchive(request: CreateVolume, body: ArchiveBody): AsyncRes<Volume>;
  /** What create() has made of the very same request before, or null. */
  made(request: CreateVolume): Volume | null;
  /** The oldest first; only what has all of `tags`. */
  list(tags?: Readonly<Record<string, string>>): Volume[];
  /** Exact id, exact name, then unique id prefix; `volume.not_found`, `name.ambiguous`. */
  get(ref: string): Res<Volume>;
  /** `volume.in_use` while anybody has it. */
  remove(ref: string): Res<void>;

  /**
   * Gives `owner` these besides what it has; checks and records, or changes nothing. Synchronous, for use inside the caller's
   * transaction. Answers with ids in place of names. `volume.not_found`, `name.ambiguous`, `volume.in_use`, `request.bad`, `size.invalid`.
   */
  attach(owner: VolumeOwner, mounts: readonly VolumeMount[]): Res<readonly VolumeMount[]>;
  /** `volume.not_found` where there is no such volume, or the owner does not have it. */
  detach(owner: VolumeOwner, ref: string): Res<VolumeMount>;
  /** Takes all from it. */
  release(owner: VolumeOwner): void;
  /** In order of attachment. */
  mountsOf(owner: VolumeOwner): readonly VolumeMount[];
  /** As mountsOf(), for a boot or restore. `volume.missing` where a file is gone or was cut short, `volume.unclean` where one to be read only must be written first. */
  files(owner: VolumeOwner): Res<readonly VolumeFile[]>;
}
