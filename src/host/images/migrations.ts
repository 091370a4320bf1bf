// Tables of this domain: names as people use them, and contents, which are what a digest stands for once it is ready.
import type { Migration } from "../store/migration.ts";

export const imageMigrations: Migration[] = [
  {
    id: "images-1",
    sql: `
      CREATE TABLE image_contents (
        digest        TEXT PRIMARY KEY,  -- of the manifest for our platform
        config_digest TEXT NOT NULL,
        repository    TEXT NOT NULL,     -- host/path of who brought it, for a name where no tag is left
        platform      TEXT NOT NULL,
        config        TEXT NOT NULL,     -- JSON, ImageConfig
        layers        TEXT NOT NULL,     -- JSON, digests of the layers' blobs
        size_bytes    INTEGER NOT NULL,  -- of the EROFS image
        created_at    INTEGER NOT NULL   -- ms since 1970
      ) STRICT;
      CREATE TABLE image_names (
        name        TEXT PRIMARY KEY,    -- normalized reference
        status      TEXT NOT NULL,       -- ImageStatus
        error       TEXT,
        digest      TEXT NOT NULL,       -- as in image_contents; '' until resolved
        resolved    TEXT NOT NULL,       -- what the registry named: the index's digest where there is one
        previous    TEXT NOT NULL,       -- ready digest that serves until a newer one is ready; ''
        platform    TEXT NOT NULL,
        tags        TEXT NOT NULL,       -- JSON object
        source      TEXT NOT NULL,       -- JSON: where it comes from, to begin again after a crash
        private     INTEGER NOT NULL,    -- 1: pulled with credentials of the request, which are not kept
        created_at  INTEGER NOT NULL
      ) STRICT;
      CREATE INDEX image_names_digest ON image_names (digest);
    `,
  },
];
