// The daemon's database: opening, locking and migrating one SQLite file. Domains bring their own tables.
import { Database, SQLiteError } from "bun:sqlite";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { ok } from "neverthrow";
import { fail, messageOf, wrap, type Res } from "../../errors.ts";
import { closeFd } from "../../ffi/fd.ts";
import { lockFile } from "./lock.ts";
import type { Migration } from "./migration.ts";

/** Owns the database and the lock that keeps a second daemon out of the same folder. */
export interface Store {
  readonly db: Database;
  /** Checkpoints, closes the database, and lets the lock go. */
  close(): void;
}

const BUSY_TIMEOUT_MS = 5_000;

/**
 * Opens (or makes) the database at `path` and applies what is missing of `migrations`, in order, a transaction each.
 * `conflict` where another daemon has it open or a newer version has changed its schema; `host.storage` otherwise.
 */
export function openStore(path: string, migrations: readonly Migration[]): Res<Store> {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  } catch (error) {
    return fail("host.storage", `Cannot make the folder ${dirname(path)}: ${messageOf(error)}`, { cause: error });
  }
  const lock = lockFile(`${path}.lock`);
  if (lock.isErr()) return lock.map(() => never());
  const opened = openDatabase(path).andThen((db) => migrate(db, path, migrations).map(() => db).mapErr((error) => (db.close(), error)));
  if (opened.isErr()) {
    closeFd(lock.value);
    return opened.map(() => never());
  }
  const db = opened.value;
  return ok({
    db,
    close() {
      db.close();
      closeFd(lock.value);
    },
  });
}

const never = (): never => {
  throw new Error("unreachable: mapped over an Err");
};

function openDatabase(path: string): Res<Database> {
  let db: Database | null = null;
  try {
    db = new Database(path, { create: true, strict: true });
    // WAL with FULL: a commit that was answered is on disk, also after a power cut (sqlite.org/pragma.html#pragma_synchronous).
    db.run("PRAGMA journal_mode = WAL");
    db.run("PRAGMA synchronous = FULL");
    db.run("PRAGMA foreign_keys = ON");
    db.run(`PRAGMA busy_timeout = ${BUSY_TIMEOUT_MS}`);
    return ok(db);
  } catch (error) {
    db?.close();
    // Without room SQLite can't make the files that it shares between connections.
    const room = error instanceof SQLiteError && /^SQLITE_(FULL|IOERR)/.test(error.code ?? "");
    const remedy = room ? "free space on its disk, or see whether that fails" : "restore it from a backup, or move it away to begin anew";
    return fail("host.storage", `Cannot open the database ${path}: ${messageOf(error)}; ${remedy}`, { cause: error });
  }
}

function migrate(db: Database, path: string, migrations: readonly Migration[]): Res<void> {
  try {
    db.run("CREATE TABLE IF NOT EXISTS schema_migrations (id TEXT PRIMARY KEY, applied_at INTEGER NOT NULL) STRICT");
    const applied = new Set(db.query<{ id: string }, []>("SELECT id FROM schema_migrations").all().map((row) => row.id));
    const known = new Set(migrations.map((one) => one.id));
    const newer = [...applied].filter((id) => !known.has(id));
    if (newer.length > 0)
      return fail("conflict", `Cannot use the database ${path}: a newer version of Dormouse has changed it (${newer.join(", ")}); run that version, or give another data folder`);
    for (const one of migrations) if (!applied.has(one.id)) apply(db, one);
    return ok();
  } catch (error) {
    return fail("host.storage", `Cannot bring the database ${path} up to date: ${messageOf(error)}`, { cause: wrap("host.storage", "Migration failed", error) });
  }
}

function apply(db: Database, migration: Migration): void {
  db.transaction(() => {
    db.run(migration.sql);
    db.query("INSERT INTO schema_migrations (id, applied_at) VALUES (?, ?)").run(migration.id, Date.now());
  }).immediate();
}
