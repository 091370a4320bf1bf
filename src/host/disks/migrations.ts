// Tables of the disk domain. An owner without a row has one plain file, `upper.ext4` in its folder.
import type { Migration } from "../store/migration.ts";

export const diskMigrations: Migration[] = [
  {
    id: "disks-1",
    sql: `
      -- Immutable files disks/<id>.img, with disks/<id>.map where they lie on a parent.
      CREATE TABLE disk_layers (
        id         TEXT PRIMARY KEY,
        parent     TEXT REFERENCES disk_layers,
        -- 0: a monitor may still write to it, though nobody else reads it (disks.ts)
        sealed     INTEGER NOT NULL,
        created_at INTEGER NOT NULL
      ) STRICT;
      CREATE INDEX disk_layers_parent ON disk_layers (parent);
      -- What an owner's disk is: its own file <folder>/<file>.ext4 (and .map) over a layer, or one of the two.
      CREATE TABLE disk_tops (
        kind  TEXT NOT NULL CHECK (kind IN ('instance', 'snapshot')),
        owner TEXT NOT NULL,
        file  TEXT,
        layer TEXT REFERENCES disk_layers,
        PRIMARY KEY (kind, owner),
        CHECK (file IS NOT NULL OR layer IS NOT NULL)
      ) STRICT;
      CREATE INDEX disk_tops_layer ON disk_tops (layer);
      -- A clone under way whose source gets a new file over what becomes a layer; see disks.ts for what a crash leaves of it.
      CREATE TABLE disk_clones (
        from_kind TEXT NOT NULL,
        from_id   TEXT NOT NULL,
        from_file TEXT,
        layer     TEXT NOT NULL REFERENCES disk_layers,
        PRIMARY KEY (from_kind, from_id)
      ) STRICT;
      CREATE TABLE disk_settings (
        key   TEXT PRIMARY KEY,
        value TEXT NOT NULL
      ) STRICT;`,
  },
];
