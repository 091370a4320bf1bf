// Volumes on record, and who has them (SQLite).
import type { Database } from "bun:sqlite";
import { ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";
import type { Volume, VolumeMount, VolumeOwner } from "./service.ts";

interface Row { id: string; name: string; size_bytes: number; tags: string; created_at: number }
interface AttachmentRow { volume_id: string; kind: VolumeOwner["kind"]; owner: string; mount_path: string; readonly: number; overlay_bytes: number | null }

/** Who has a volume, and how. */
export interface Holder { readonly owner: VolumeOwner; readonly readonly: boolean }

export class VolumeRecords {
  constructor(private readonly db: Database) {}

  transaction<T>(work: () => T): T { return this.db.transaction(work).immediate(); }

  /** Oldest first. */
  list(): Volume[] {
    return this.db.query<Row, []>("SELECT * FROM volumes ORDER BY created_at, id").all().map((row) => this.read(row));
  }

  ids(): string[] {
    return this.db.query<{ id: string }, []>("SELECT id FROM volumes").all().map(({ id }) => id);
  }

  /** Exact id, exact name, then unique id prefix. */
  get(ref: string): Res<Volume> {
    const exact = this.db.query<Row, [string, string, string]>("SELECT * FROM volumes WHERE id = ? OR name = ? ORDER BY id = ? DESC LIMIT 1").get(ref, ref, ref);
    if (exact !== null) return ok(this.read(exact));
    // Ids are small letters, digits and dashes; anything else can't be a prefix, nor a pattern of LIKE.
    const matches = /^[a-z0-9-]+$/.test(ref) ? this.db.query<Row, [string]>("SELECT * FROM volumes WHERE id LIKE ? || '%' LIMIT 2").all(ref) : [];
    if (matches.length > 1) return fail("name.ambiguous", `Cannot tell which volume ${ref} means: more than one id begins so; give more of it`);
    if (matches.length === 0) return fail("volume.not_found", `Cannot find the volume ${ref}: no volume has this name or id, and no id begins so`);
    return ok(this.read(matches[0]!));
  }

  /** A volume that has this as its name or as its id: a second one would make it unclear which is meant. */
  called(word: string): Volume | null {
    const row = this.db.query<Row, [string, string]>("SELECT * FROM volumes WHERE id = ? OR name = ? LIMIT 1").get(word, word);
    return row === null ? null : this.read(row);
  }

  insert({ id, name, sizeBytes, tags, createdAt }: Volume): void {
    this.db.query("INSERT INTO volumes (id, name, size_bytes, tags, created_at) VALUES (?, ?, ?, ?, ?)").run(id, name, sizeBytes, JSON.stringify(tags), createdAt);
  }

  delete(id: string): void {
    this.db.query("DELETE FROM volumes WHERE id = ?").run(id);
  }

  /** In order of attachment. */
  mountsOf({ kind, id }: VolumeOwner): VolumeMount[] {
    return this.db.query<AttachmentRow, [string, string]>("SELECT * FROM volume_attachments WHERE kind = ? AND owner = ? ORDER BY seq").all(kind, id).map(readMount);
  }

  holders(volumeId: string): Holder[] {
    return this.attachments(volumeId).map(({ kind, owner, readonly }) => ({ owner: { kind, id: owner }, readonly: readonly === 1 }));
  }

  attach({ kind, id }: VolumeOwner, { volumeId, mountPath, readonly, overlayBytes }: VolumeMount): void {
    this.db.query("INSERT INTO volume_attachments (volume_id, kind, owner, mount_path, readonly, overlay_bytes) VALUES (?, ?, ?, ?, ?, ?)").run(volumeId, kind, id, mountPath, readonly ? 1 : 0, overlayBytes);
  }

  detach({ kind, id }: VolumeOwner, volumeId: string): void {
    this.db.query("DELETE FROM volume_attachments WHERE kind = ? AND owner = ? AND volume_id = ?").run(kind, id, volumeId);
  }

  release({ kind, id }: VolumeOwner): void {
    this.db.query("DELETE FROM volume_attachments WHERE kind = ? AND owner = ?").run(kind, id);
  }

  private attachments(volumeId: string): AttachmentRow[] {
    return this.db.query<AttachmentRow, [string]>("SELECT * FROM volume_attachments WHERE volume_id = ? ORDER BY seq").all(volumeId);
  }

  private read(row: Row): Volume {
    const attachments = this.attachments(row.id).filter(({ kind }) => kind === "instance").map(({ owner, mount_path, readonly }) => ({ instanceId: owner, mountPath: mount_path, readonly: readonly === 1 }));
    return { id: row.id, name: row.name, sizeBytes: row.size_bytes, createdAt: row.created_at, tags: JSON.parse(row.tags) as Record<string, string>, attachments };
  }
}

const readMount = ({ volume_id, mount_path, readonly, overlay_bytes }: AttachmentRow): VolumeMount => ({ volumeId: volume_id, mountPath: mount_path, readonly: readonly === 1, overlayBytes: overlay_bytes });
