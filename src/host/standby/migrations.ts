// Table of automatic standby: what a countdown needs to go on after the daemon was restarted. After the instances' migrations.
import type { Migration } from "../store/migration.ts";

export const standbyMigrations: Migration[] = [
  {
    id: "standby-1",
    sql: `
      -- Milliseconds since the epoch. idle_since is null while the instance is in use.
      CREATE TABLE auto_standby_timers (
        instance_id   TEXT PRIMARY KEY REFERENCES instances ON DELETE CASCADE,
        idle_since    INTEGER,
        hold_until    INTEGER,
        last_activity INTEGER
      ) STRICT;`,
  },
];
