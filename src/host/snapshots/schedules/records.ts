// Rows of schedules and of the snapshots that are theirs.
import type { Database } from "bun:sqlite";
import type { SetSchedule, SnapshotSchedule } from "../service.ts";
import { nextOnGrid } from "./check.ts";

interface Row {
  instance_id: string; interval_ms: number; max_count: number | null; max_age_ms: number | null; name_prefix: string | null; metadata: string;
  created_at: number; updated_at: number; next_run_at: number; last_run_at: number | null; last_snapshot_id: string | null; last_error: string | null;
}

const decode = (row: Row): SnapshotSchedule => ({
  instanceId: row.instance_id, intervalMs: row.interval_ms, maxCount: row.max_count, maxAgeMs: row.max_age_ms, namePrefix: row.name_prefix,
  metadata: JSON.parse(row.metadata) as Record<string, string>, createdAt: row.created_at, updatedAt: row.updated_at,
  nextRunAt: row.next_run_at, lastRunAt: row.last_run_at, lastSnapshotId: row.last_snapshot_id, lastError: row.last_error,
});

/** A snapshot that is a schedule's; without an id while it is being taken. */
export interface Mark { readonly instanceId: string; readonly name: string; readonly snapshotId: string | null; readonly takenAt: number }

const MARK = "SELECT instance_id AS instanceId, name, snapshot_id AS snapshotId, taken_at AS takenAt FROM scheduled_snapshots";

/** How a run ended: its snapshot, or why there is none. */
export interface RunResult { readonly at: number; readonly snapshotId: string | null; readonly error: string | null }

export class ScheduleRecords {
  constructor(private readonly db: Database) {}

  find(instanceId: string): SnapshotSchedule | null {
    const row = this.db.query<Row, [string]>("SELECT * FROM snapshot_schedules WHERE instance_id = ?").get(instanceId);
    return row === null ? null : decode(row);
  }

  /** The one that is due first, first. */
  all(): SnapshotSchedule[] {
    return this.db.query<Row, []>("SELECT * FROM snapshot_schedules ORDER BY next_run_at, instance_id").all().map(decode);
  }

  /** An unchanged interval keeps its next run, another one counts from `now`. */
  set(instanceId: string, { intervalMs, maxCount, maxAgeMs, namePrefix, metadata }: SetSchedule, now: number): void {
    this.db.query(`
      INSERT INTO snapshot_schedules (instance_id, interval_ms, max_count, max_age_ms, name_prefix, metadata, created_at, updated_at, next_run_at)
      VALUES ($id, $interval, $count, $age, $prefix, $metadata, $now, $now, $now + $interval)
      ON CONFLICT (instance_id) DO UPDATE SET
        next_run_at = CASE WHEN interval_ms = excluded.interval_ms THEN next_run_at ELSE excluded.next_run_at END,
        interval_ms = excluded.interval_ms, max_count = excluded.max_count, max_age_ms = excluded.max_age_ms,
        name_prefix = excluded.name_prefix, metadata = excluded.metadata, updated_at = excluded.updated_at`)
      .run({ id: instanceId, interval: intervalMs, count: maxCount, age: maxAgeMs, prefix: namePrefix, metadata: JSON.stringify(metadata), now });
  }

  /** False where there was none. */
  remove(instanceId: string): boolean {
    return this.db.query("DELETE FROM snapshot_schedules WHERE instance_id = ?").run(instanceId).changes > 0;
  }

  /** Newest first: as they were taken, whatever the clock said. */
  marks(instanceId: string): Mark[] {
    return this.db.query<Mark, [string]>(`${MARK} WHERE instance_id = ? ORDER BY rowid DESC`).all(instanceId);
  }

  /** Instances that have a snapshot older than their schedule lets it become. */
  aged(now: number): Set<string> {
    return new Set(this.db.query<{ id: string }, [number]>(`
      SELECT DISTINCT s.instance_id AS id FROM snapshot_schedules s JOIN scheduled_snapshots m ON m.instance_id = s.instance_id
      WHERE m.snapshot_id IS NOT NULL AND m.taken_at < ? - s.max_age_ms`).all(now).map((row) => row.id));
  }

  /** What an earlier daemon was taking when it ended. */
  interrupted(): Mark[] {
    return this.db.query<Mark, []>(`${MARK} WHERE snapshot_id IS NULL`).all();
  }

  mark(instanceId: string, name: string, at: number): void {
    this.db.query("INSERT OR REPLACE INTO scheduled_snapshots (instance_id, name, taken_at) VALUES (?, ?, ?)").run(instanceId, name, at);
  }

  unmark({ instanceId, name }: Pick<Mark, "instanceId" | "name">): void {
    this.db.query("DELETE FROM scheduled_snapshots WHERE instance_id = ? AND name = ?").run(instanceId, name);
  }

  /** A run's end in one commit: its mark, its outcome, its next time after `now`. Of `schedule` itself, not of one that took its place. */
  ended({ instanceId, createdAt }: SnapshotSchedule, name: string | null, { at, snapshotId, error }: RunResult, now: number): void {
    this.db.transaction(() => {
      if (name !== null && snapshotId === null) this.unmark({ instanceId, name });
      if (name !== null && snapshotId !== null) this.identify({ instanceId, name }, snapshotId);
      const current = this.find(instanceId);
      if (current === null || current.createdAt !== createdAt) return;
      this.db.query("UPDATE snapshot_schedules SET last_run_at = ?, last_snapshot_id = coalesce(?, last_snapshot_id), last_error = ?, next_run_at = ? WHERE instance_id = ?")
        .run(at, snapshotId, error, current.nextRunAt > now ? current.nextRunAt : nextOnGrid(current.nextRunAt, current.intervalMs, now), instanceId);
    }).immediate();
  }

  /** The clock was set back: no next run is more than an interval away. */
  comeBack(now: number): void {
    for (const { instanceId, nextRunAt, intervalMs } of this.all())
      if (nextRunAt - now > intervalMs) this.db.query("UPDATE snapshot_schedules SET next_run_at = ? WHERE instance_id = ?").run(nextOnGrid(nextRunAt, intervalMs, now), instanceId);
  }

  identify({ instanceId, name }: Pick<Mark, "instanceId" | "name">, snapshotId: string): void {
    this.db.query("UPDATE scheduled_snapshots SET snapshot_id = ? WHERE instance_id = ? AND name = ?").run(snapshotId, instanceId, name);
  }

  complain({ instanceId, createdAt }: SnapshotSchedule, error: string): void {
    this.db.query("UPDATE snapshot_schedules SET last_error = ? WHERE instance_id = ? AND created_at = ?").run(error, instanceId, createdAt);
  }
}
