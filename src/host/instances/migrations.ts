// Tables of the instance domain. Times are milliseconds since the epoch; lists and maps are JSON.
import { compressionMigrations } from "../snapshots/compression/migrations.ts";
import { snapshotMigrations } from "../snapshots/migrations.ts";
import { scheduleMigrations } from "../snapshots/schedules/migrations.ts";
import { standbyMigrations } from "../standby/migrations.ts";
import type { Migration } from "../store/migration.ts";

/** With those of the domains that its own refer to (saved machines), and of those that refer to its own. */
export const instanceMigrations: Migration[] = [
  ...snapshotMigrations,
  {
    id: "instances-1",
    sql: `
      CREATE TABLE instances (
        id            TEXT PRIMARY KEY,
        name          TEXT NOT NULL UNIQUE,
        image         TEXT NOT NULL,
        image_digest  TEXT NOT NULL,
        memory_bytes  INTEGER NOT NULL,
        vcpus         INTEGER NOT NULL,
        overlay_bytes INTEGER NOT NULL,
        env           TEXT NOT NULL,
        tags          TEXT NOT NULL,
        entrypoint    TEXT,
        cmd           TEXT,
        network       INTEGER NOT NULL,
        ports         TEXT NOT NULL,
        tty           INTEGER NOT NULL,
        open_stdin    INTEGER NOT NULL,
        state         TEXT NOT NULL,
        state_error   TEXT,
        created_at    INTEGER NOT NULL,
        started_at    INTEGER,
        stopped_at    INTEGER,
        exit_code     INTEGER,
        exit_message  TEXT,
        ip            TEXT,
        mac           TEXT,
        removing      INTEGER NOT NULL DEFAULT 0
      ) STRICT;
      CREATE INDEX instances_image ON instances (image_digest);
      -- Each change of state, for ever: phases are counted from it.
      CREATE TABLE instance_transitions (
        seq           INTEGER PRIMARY KEY AUTOINCREMENT,
        instance_id   TEXT NOT NULL REFERENCES instances ON DELETE CASCADE,
        from_state    TEXT,
        to_state      TEXT NOT NULL,
        at            INTEGER NOT NULL,
        reason        TEXT
      ) STRICT;
      CREATE INDEX instance_transitions_instance ON instance_transitions (instance_id, seq);
      -- Milliseconds in each phase that has ended; the current one began at since.
      CREATE TABLE instance_phases (
        instance_id   TEXT NOT NULL REFERENCES instances ON DELETE CASCADE,
        phase         TEXT NOT NULL,
        total_ms      INTEGER NOT NULL,
        PRIMARY KEY (instance_id, phase)
      ) STRICT;
      CREATE TABLE instance_current_phase (
        instance_id   TEXT PRIMARY KEY REFERENCES instances ON DELETE CASCADE,
        phase         TEXT NOT NULL,
        since         INTEGER NOT NULL
      ) STRICT;
      -- The VMM that was started for an instance; gone with its process.
      CREATE TABLE instance_processes (
        instance_id   TEXT PRIMARY KEY REFERENCES instances ON DELETE CASCADE,
        pid           INTEGER NOT NULL,
        start_ticks   INTEGER NOT NULL,
        boot_id       TEXT NOT NULL
      ) STRICT;`,
  },
  {
    id: "instances-2",
    sql: `
      ALTER TABLE instances ADD COLUMN auto_standby TEXT;
      ALTER TABLE instances ADD COLUMN snapshot_policy TEXT;
      -- The generation that it sleeps on, and the one over which its monitor runs: that one's files are mapped.
      ALTER TABLE instances ADD COLUMN saved_generation TEXT REFERENCES generations;
      ALTER TABLE instances ADD COLUMN live_generation TEXT REFERENCES generations;`,
  },
  ...compressionMigrations,
  ...scheduleMigrations,
  ...standbyMigrations,
];
