// A schedule an instance, and which snapshots are a schedule's. After the table of instances. Times are ms since 1970.
import type { Migration } from "../../store/migration.ts";

export const scheduleMigrations: Migration[] = [
  {
    id: "schedules-1",
    sql: `
      CREATE TABLE snapshot_schedules (
        instance_id      TEXT PRIMARY KEY REFERENCES instances ON DELETE CASCADE,
        interval_ms      INTEGER NOT NULL,
        max_count        INTEGER,
        max_age_ms       INTEGER,
        name_prefix      TEXT,
        metadata         TEXT NOT NULL,    -- JSON object
        created_at       INTEGER NOT NULL,
        updated_at       INTEGER NOT NULL,
        next_run_at      INTEGER NOT NULL,
        last_run_at      INTEGER,
        last_snapshot_id TEXT,
        last_error       TEXT
      ) STRICT;
      CREATE INDEX snapshot_schedules_next ON snapshot_schedules (next_run_at);
      -- Written before its snapshot is taken, by name; its id comes after. Only what is here is ever deleted by a schedule.
      CREATE TABLE scheduled_snapshots (
        instance_id      TEXT NOT NULL REFERENCES instances ON DELETE CASCADE,
        name             TEXT NOT NULL,
        snapshot_id      TEXT,
        taken_at         INTEGER NOT NULL,
        PRIMARY KEY (instance_id, name)
      ) STRICT;`,
  },
];
