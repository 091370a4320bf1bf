// What SQLite knows of images. Rows only; what goes on right now (progress, queue) is the jobs'.
import type { Database } from "bun:sqlite";
import { PLATFORM } from "./manifest.ts";
import type { ImageConfig, ImageStatus } from "./service.ts";

/** Where a name's image comes from. */
export type Origin = { readonly kind: "registry" } | { readonly kind: "file"; readonly path: string; readonly pick: string | null };

export interface NameRow {
  readonly name: string;
  readonly status: ImageStatus;
  readonly error: string | null;
  readonly digest: string;
  readonly resolved: string;
  readonly previous: string;
  readonly platform: string;
  readonly tags: Readonly<Record<string, string>>;
  readonly origin: Origin;
  readonly private: boolean;
  readonly createdAt: number;
}

export interface ContentRow {
  readonly digest: string;
  readonly configDigest: string;
  readonly repository: string;
  readonly platform: string;
  readonly config: ImageConfig;
  readonly layers: readonly string[];
  readonly sizeBytes: number;
  readonly createdAt: number;
}

interface RawName { name: string; status: ImageStatus; error: string | null; digest: string; resolved: string; previous: string; platform: string; tags: string; source: string; private: number; created_at: number }
interface RawContent { digest: string; config_digest: string; repository: string; platform: string; config: string; layers: string; size_bytes: number; created_at: number }

export class Records {
  constructor(private readonly db: Database) {}

  names(): NameRow[] {
    return this.db.query<RawName, []>("SELECT * FROM image_names ORDER BY name").all().map(readName);
  }

  name(name: string): NameRow | null {
    const row = this.db.query<RawName, [string]>("SELECT * FROM image_names WHERE name = ?").get(name);
    return row === null ? null : readName(row);
  }

  /** Writes the whole row. */
  putName(row: NameRow): void {
    this.db
      .query(`INSERT OR REPLACE INTO image_names (name, status, error, digest, resolved, previous, platform, tags, source, private, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
      .run(row.name, row.status, row.error, row.digest, row.resolved, row.previous, row.platform, JSON.stringify(row.tags), JSON.stringify(row.origin), row.private ? 1 : 0, row.createdAt);
  }

  /** Changes some columns of a row that is there; nothing where it is gone. */
  changeName(name: string, change: Partial<NameRow>): void {
    const row = this.name(name);
    if (row !== null) this.putName({ ...row, ...change, name });
  }

  deleteName(name: string): void {
    this.db.query("DELETE FROM image_names WHERE name = ?").run(name);
  }

  contents(): ContentRow[] {
    return this.db.query<RawContent, []>("SELECT * FROM image_contents ORDER BY digest").all().map(readContent);
  }

  content(digest: string): ContentRow | null {
    const row = this.db.query<RawContent, [string]>("SELECT * FROM image_contents WHERE digest = ?").get(digest);
    return row === null ? null : readContent(row);
  }

  putContent(row: ContentRow): void {
    this.db
      .query(`INSERT OR REPLACE INTO image_contents (digest, config_digest, repository, platform, config, layers, size_bytes, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`)
      .run(row.digest, row.configDigest, row.repository, row.platform, JSON.stringify(row.config), JSON.stringify(row.layers), row.sizeBytes, row.createdAt);
  }

  deleteContent(digest: string): void {
    this.db.query("DELETE FROM image_contents WHERE digest = ?").run(digest);
  }
}

/** A row at the beginning of a pull; a ready digest of the same name goes on serving. */
export function newRow(name: string, tags: Readonly<Record<string, string>>, known: NameRow | null, isPrivate: boolean): NameRow {
  const previous = known === null ? "" : known.status === "ready" ? known.digest : known.previous;
  return { name, status: "pending", error: null, digest: "", resolved: "", previous, platform: PLATFORM, tags, origin: { kind: "registry" }, private: isPrivate, createdAt: known?.createdAt ?? Date.now() };
}

function readName(raw: RawName): NameRow {
  const { tags, source, private: isPrivate, created_at: createdAt, ...rest } = raw;
  return { ...rest, tags: JSON.parse(tags) as Record<string, string>, origin: JSON.parse(source) as Origin, private: isPrivate === 1, createdAt };
}

function readContent(raw: RawContent): ContentRow {
  return { digest: raw.digest, configDigest: raw.config_digest, repository: raw.repository, platform: raw.platform, config: JSON.parse(raw.config) as ImageConfig, layers: JSON.parse(raw.layers) as string[], sizeBytes: raw.size_bytes, createdAt: raw.created_at };
}
