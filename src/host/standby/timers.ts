// The timers of automatic standby on record. Written only when they change: a busy instance costs no write a second.
import type { Database } from "bun:sqlite";

/** Milliseconds since the epoch. */
export interface Timers {
  /** Null while the instance is in use, and before it was looked at. */
  readonly idleSince: number | null;
  readonly holdUntil: number | null;
  readonly lastActivity: number | null;
}
export const NO_TIMERS: Timers = { idleSince: null, holdUntil: null, lastActivity: null };

/** `db` with `standbyMigrations` applied. */
export class TimerStore {
  private readonly timers = new Map<string, Timers>();

  constructor(private readonly db: Database) {
    const rows = db.query<Timers & { id: string }, []>("SELECT instance_id AS id, idle_since AS idleSince, hold_until AS holdUntil, last_activity AS lastActivity FROM auto_standby_timers").all();
    for (const { id, ...timers } of rows) this.timers.set(id, timers);
  }

  get(id: string): Timers {
    return this.timers.get(id) ?? NO_TIMERS;
  }

  set(id: string, timers: Timers): void {
    this.setAll([[id, timers]]);
  }

  /** In one transaction. The time of the last activity alone is no reason to write: it is only shown. */
  setAll(all: readonly (readonly [id: string, timers: Timers])[]): void {
    const changed = all.filter(([id, timers]) => {
      const old = this.timers.get(id);
      return old === undefined || old.idleSince !== timers.idleSince || old.holdUntil !== timers.holdUntil;
    });
    // The countdown goes on also where the disk is full: it is only not safe from a restart then.
    for (const [id, timers] of all) this.timers.set(id, timers);
    if (changed.length > 0) this.db.transaction(() => { for (const [id, timers] of changed) this.write(id, timers); })();
  }

  /** Forgets those that are not in `kept`: a policy that is switched on again begins anew. */
  keep(kept: ReadonlySet<string>): void {
    for (const id of [...this.timers.keys()]) {
      if (kept.has(id)) continue;
      this.db.query("DELETE FROM auto_standby_timers WHERE instance_id = ?").run(id);
      this.timers.delete(id);
    }
  }

  private write(id: string, timers: Timers): void {
    // Whoever was deleted meanwhile has no row to refer to, and needs no timer.
    this.db.query(`
      INSERT INTO auto_standby_timers (instance_id, idle_since, hold_until, last_activity) SELECT id, ?, ?, ? FROM instances WHERE id = ?
      ON CONFLICT (instance_id) DO UPDATE SET idle_since = excluded.idle_since, hold_until = excluded.hold_until, last_activity = excluded.last_activity`)
      .run(timers.idleSince, timers.holdUntil, timers.lastActivity, id);
  }
}
