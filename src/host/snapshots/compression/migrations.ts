// What is to be, is being, or was compressed. After the table of generations.
import type { Migration } from "../../store/migration.ts";

export const compressionMigrations: Migration[] = [
  {
    id: "compression-1",
    sql: `
      CREATE TABLE generation_compression (
        generation_id      TEXT PRIMARY KEY REFERENCES generations ON DELETE CASCADE,
        state              TEXT NOT NULL,    -- waiting, compressing, compressed, error
        algorithm          TEXT NOT NULL,
        level              INTEGER NOT NULL,
        due_at             INTEGER NOT NULL, -- ms since 1970: not before
        error              TEXT,
        compressed_bytes   INTEGER,
        uncompressed_bytes INTEGER
      ) STRICT;`,
  },
];
