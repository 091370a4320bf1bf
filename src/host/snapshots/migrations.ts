// Tables of saved machines and named snapshots. Before the instances' second migration, which refers to them.
import type { Migration } from "../store/migration.ts";

export const snapshotMigrations: Migration[] = [
  {
    id: "snapshots-1",
    sql: `
      -- One saved machine: a delta over its base, or whole. 'writing' until the standby or snapshot that it is for has committed.
      CREATE TABLE generations (
        id            TEXT PRIMARY KEY,
        base_id       TEXT REFERENCES generations,
        depth         INTEGER NOT NULL,
        state         TEXT NOT NULL,
        data_bytes    INTEGER NOT NULL DEFAULT 0,
        created_at    INTEGER NOT NULL
      ) STRICT;
      CREATE INDEX generations_base ON generations (base_id);
      -- Named snapshots outlive their source: what a fork needs to know of it is kept here.
      CREATE TABLE snapshots (
        id            TEXT PRIMARY KEY,
        name          TEXT,
        kind          TEXT NOT NULL,
        tags          TEXT NOT NULL,
        created_at    INTEGER NOT NULL,
        source_id     TEXT NOT NULL,
        source_name   TEXT NOT NULL,
        image_digest  TEXT NOT NULL,
        source        TEXT NOT NULL,
        generation_id TEXT REFERENCES generations,
        compression   TEXT,
        UNIQUE (source_id, name)
      ) STRICT;
      CREATE INDEX snapshots_source ON snapshots (source_id);
      CREATE INDEX snapshots_image ON snapshots (image_digest);
      CREATE INDEX snapshots_generation ON snapshots (generation_id);`,
  },
  {
    id: "snapshots-2",
    sql: `
      -- Its folder under <data>/memory; null: named as its id. Another one once it was merged with what it stood on.
      ALTER TABLE generations ADD COLUMN folder TEXT;`,
  },
];
