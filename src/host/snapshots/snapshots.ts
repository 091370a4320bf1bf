// Named snapshots on record. Their memory is a generation, their disk belongs to src/host/disks.
import type { Database } from "bun:sqlite";
import { createId } from "../id.ts";
import { ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";
import type { CreateInstance, Instance } from "../instances/service.ts";
import type { VolumeMount, VolumeOwner, VolumeService } from "../volumes/service.ts";
import type { Compression, Snapshot, SnapshotFilter, SnapshotKind } from "./service.ts";

/** What is known of one without asking disk or compressor. */
export interface SnapshotRecord extends Pick<Snapshot, "id" | "name" | "kind" | "tags" | "createdAt" | "sourceInstanceId" | "sourceInstanceName" | "compression"> {
  readonly imageDigest: string;
  /** What a fork is made like. */
  readonly source: CreateInstance;
  /** Null for kind Stopped. */
  readonly generationId: string | null;
}

interface Row {
  id: string; name: string | null; kind: SnapshotKind; tags: string; created_at: number; source_id: string; source_name: string;
  image_digest: string; source: string; generation_id: string | null; compression: string | null;
}

export type NewSnapshot = Pick<Snapshot, "name" | "kind" | "tags" | "compression">;

/** A snapshot of an instance of the image, which must not be removed then; null where there is none. */
export function snapshotOfImage(db: Database, digest: string): string | null {
  const row = db.query<{ what: string; source: string }, [string]>("SELECT coalesce(name, id) AS what, source_name AS source FROM snapshots WHERE image_digest = ? LIMIT 1").get(digest);
  return row && `the snapshot ${row.what} of ${row.source}`;
}

export class Snapshots {
  constructor(private readonly db: Database, private readonly volumes: Pick<VolumeService, "attach" | "release" | "mountsOf"> = { attach: () => ok([]), release() {}, mountsOf: () => [] }) {}

  newId(): string { return createId(); }

  isTaken(sourceId: string, name: string | null): boolean {
    return name !== null && this.db.query("SELECT 1 FROM snapshots WHERE source_id = ? AND name = ?").get(sourceId, name) !== null;
  }

  /** Part of the transaction that makes its generation ready. It holds the volumes of its source. Throws where the name is taken, or one of them is written: ask first, in the source's lane. */
  insert(id: string, of: Instance, { name, kind, tags, compression }: NewSnapshot, generationId: string | null): void {
    this.db.query("INSERT INTO snapshots (id, name, kind, tags, created_at, source_id, source_name, image_digest, source, generation_id, compression) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
      .run(id, name, kind, JSON.stringify(tags), Date.now(), of.id, of.name, of.imageDigest, JSON.stringify(likeness(of)), generationId, compression && JSON.stringify(compression));
    const held = this.volumes.attach(ownerOf(id), of.volumes);
    if (held.isErr()) throw held.error;
  }

  find(id: string): SnapshotRecord | null {
    const row = this.db.query<Row, [string]>("SELECT * FROM snapshots WHERE id = ?").get(id);
    return row === null ? null : this.decode(row);
  }

  /** Exact id, exact name where it is unique over all sources, then unique id prefix. */
  get(ref: string): Res<SnapshotRecord> {
    const exact = this.find(ref);
    if (exact !== null) return ok(exact);
    const named = this.db.query<Row, [string]>("SELECT * FROM snapshots WHERE name = ? LIMIT 2").all(ref);
    const rows = named.length > 0 || !/^[a-z0-9]+$/.test(ref) ? named : this.db.query<Row, [string]>("SELECT * FROM snapshots WHERE id LIKE ? || '%' LIMIT 2").all(ref);
    if (rows.length > 1) return fail("name.ambiguous", `Cannot tell which snapshot ${ref} means: more than one has that name or begins so; give its id`);
    return rows.length === 0 ? fail("snapshot.not_found", `Cannot find the snapshot ${ref}: no snapshot has this name or id, and no id begins so`) : ok(this.decode(rows[0]!));
  }

  /** Newest first. */
  list(filter: SnapshotFilter = {}): SnapshotRecord[] {
    const wanted = Object.entries(filter.tags ?? {});
    return this.db.query<Row, []>("SELECT * FROM snapshots ORDER BY created_at DESC, id").all().map((row) => this.decode(row)).filter((one) =>
      (filter.kind === undefined || one.kind === filter.kind) && (filter.name === undefined || one.name === filter.name) &&
      (filter.sourceInstanceId === undefined || one.sourceInstanceId === filter.sourceInstanceId) && wanted.every(([key, value]) => one.tags[key] === value));
  }

  delete(id: string): void {
    this.db.transaction(() => {
      this.db.query("DELETE FROM snapshots WHERE id = ?").run(id);
      this.volumes.release(ownerOf(id));
    }).immediate();
  }

  private decode(row: Row): SnapshotRecord { return decode(row, this.volumes.mountsOf(ownerOf(row.id))); }
}

const ownerOf = (id: string): VolumeOwner => ({ kind: "snapshot", id });

/** What a fork takes over, but for volumes, which the table of those who have them tells; its name is its own, and so are published ports, which only one can have. */
function likeness(of: Instance): Omit<CreateInstance, "volumes"> {
  const { name, image, memoryBytes, vcpus, overlayBytes, env, tags, entrypoint, cmd, network, ports, tty, openStdin, autoStandby, snapshotPolicy } = of;
  return { name, image, memoryBytes, vcpus, overlayBytes, env, tags, entrypoint, cmd, network, ports, tty, openStdin, autoStandby, snapshotPolicy };
}

function decode(row: Row, volumes: readonly VolumeMount[]): SnapshotRecord {
  // Written by insert() from checked values, in a table that is ours alone.
  const json = <T>(text: string): T => JSON.parse(text) as T;
  return {
    id: row.id, name: row.name, kind: row.kind, tags: json<Record<string, string>>(row.tags), createdAt: row.created_at,
    sourceInstanceId: row.source_id, sourceInstanceName: row.source_name, imageDigest: row.image_digest, source: { ...json<Omit<CreateInstance, "volumes">>(row.source), volumes },
    generationId: row.generation_id, compression: row.compression === null ? null : json<Compression>(row.compression),
  };
}
