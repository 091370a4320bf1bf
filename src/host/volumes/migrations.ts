// Tables of the volume domain. Times are milliseconds since the epoch; tags are JSON.
import type { Migration } from "../store/migration.ts";

export const volumeMigrations: Migration[] = [
  {
    id: "volumes-1",
    sql: `
      CREATE TABLE volumes (
        id         TEXT PRIMARY KEY,
        name       TEXT NOT NULL UNIQUE,
        size_bytes INTEGER NOT NULL,
        tags       TEXT NOT NULL,
        created_at INTEGER NOT NULL
      ) STRICT;
      -- Who has which; instances and named snapshots are deleted together with their rows here.
      CREATE TABLE volume_attachments (
        seq           INTEGER PRIMARY KEY AUTOINCREMENT,
        volume_id     TEXT NOT NULL REFERENCES volumes,
        kind          TEXT NOT NULL CHECK (kind IN ('instance', 'snapshot')),
        owner         TEXT NOT NULL,
        mount_path    TEXT NOT NULL,
        readonly      INTEGER NOT NULL,
        overlay_bytes INTEGER,
        UNIQUE (kind, owner, volume_id),
        UNIQUE (kind, owner, mount_path)
      ) STRICT;
      CREATE INDEX volume_attachments_volume ON volume_attachments (volume_id);`,
  },
];
