// Tables of the ingress domain. Times are milliseconds since the epoch; tags are JSON.
import type { Migration } from "../store/migration.ts";

export const ingressMigrations: Migration[] = [
  {
    id: "ingress-1",
    sql: `
      CREATE TABLE ingresses (
        id            TEXT PRIMARY KEY,
        name          TEXT NOT NULL UNIQUE,
        tags          TEXT NOT NULL,
        created_at    INTEGER NOT NULL
      ) STRICT;
      CREATE TABLE ingress_rules (
        ingress_id    TEXT NOT NULL REFERENCES ingresses ON DELETE CASCADE,
        position      INTEGER NOT NULL,
        hostname      TEXT NOT NULL,
        -- The host name with its captures' names left out: two patterns that match the same are one.
        shape         TEXT NOT NULL,
        port          INTEGER NOT NULL,
        instance      TEXT NOT NULL,
        target_port   INTEGER NOT NULL,
        tls           INTEGER NOT NULL,
        redirect_http INTEGER NOT NULL,
        auth_header   TEXT,
        auth_value    TEXT,
        PRIMARY KEY (ingress_id, position),
        UNIQUE (port, shape)
      ) STRICT;`,
  },
];
