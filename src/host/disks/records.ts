// Who owns which disk, and what lies on what (SQLite).
import type { Database } from "bun:sqlite";
import type { DiskOwner } from "./service.ts";

/** An owner's disk: its own file (name without suffix, in its folder) over a layer, or one of the two. */
export interface Top { readonly file: string | null; readonly layer: string | null }
export interface OpenClone { readonly from: DiskOwner; readonly top: Top & { readonly layer: string } }

/** What an owner has that no row tells of. */
const PLAIN: Top = { file: "upper", layer: null };
const BOOT = "boot_id";

export class DiskRecords {
  constructor(private readonly db: Database) {}

  transaction<T>(work: () => T): T { return this.db.transaction(work).immediate(); }

  top(owner: DiskOwner): Top { return this.find(owner) ?? PLAIN; }

  find({ kind, id }: DiskOwner): Top | null {
    return this.db.query<Top, [string, string]>("SELECT file, layer FROM disk_tops WHERE kind = ? AND owner = ?").get(kind, id);
  }

  setTop({ kind, id }: DiskOwner, { file, layer }: Top): void {
    this.db.query("INSERT INTO disk_tops (kind, owner, file, layer) VALUES (?, ?, ?, ?) ON CONFLICT (kind, owner) DO UPDATE SET file = excluded.file, layer = excluded.layer").run(kind, id, file, layer);
  }

  removeTop({ kind, id }: DiskOwner): void {
    this.db.query("DELETE FROM disk_tops WHERE kind = ? AND owner = ?").run(kind, id);
  }

  tops(): (Top & { kind: DiskOwner["kind"]; owner: string })[] {
    return this.db.query<Top & { kind: DiskOwner["kind"]; owner: string }, []>("SELECT kind, owner, file, layer FROM disk_tops").all();
  }

  addLayer(id: string, parent: string | null): void {
    this.db.query("INSERT INTO disk_layers (id, parent, sealed, created_at) VALUES (?, ?, 0, ?)").run(id, parent, Date.now());
  }

  /** Nobody writes any more to what the owner's own file lies on; `null`: to no layer at all. */
  seal(owner: DiskOwner | null): void {
    const ids = owner === null ? this.layers().map(({ id }) => id) : this.chain(this.top(owner).layer);
    const seal = this.db.query("UPDATE disk_layers SET sealed = 1 WHERE id = ?");
    for (const id of ids) seal.run(id);
  }

  isSealed(layer: string): boolean {
    return this.db.query<{ sealed: number }, [string]>("SELECT sealed FROM disk_layers WHERE id = ?").get(layer)?.sealed === 1;
  }

  /** A layer that is read only through another one, which can be merged into it. */
  mergeable(): { lower: string; upper: string; lowerMapped: boolean } | null {
    const row = this.db.query<{ lower: string; upper: string; below: string | null }, []>(`
      SELECT p.id AS lower, c.id AS upper, p.parent AS below FROM disk_layers c JOIN disk_layers p ON p.id = c.parent
      WHERE c.sealed = 1 AND p.sealed = 1 AND NOT EXISTS (SELECT 1 FROM disk_tops WHERE layer = p.id)
        AND NOT EXISTS (SELECT 1 FROM disk_layers o WHERE o.parent = p.id AND o.id <> c.id) LIMIT 1`).get();
    return row === null ? null : { lower: row.lower, upper: row.upper, lowerMapped: row.below !== null };
  }

  /** `lower` stands for both from now on. False where they may not be merged any more. */
  merge(lower: string, upper: string): boolean {
    const still = this.mergeable();
    if (still?.lower !== lower || still.upper !== upper) return false;
    this.db.query("UPDATE disk_tops SET layer = ? WHERE layer = ?").run(lower, upper);
    this.db.query("UPDATE disk_layers SET parent = ? WHERE parent = ?").run(lower, upper);
    this.db.query("DELETE FROM disk_layers WHERE id = ?").run(upper);
    return true;
  }

  /** The layer and all below it, newest first. */
  chain(layer: string | null): string[] {
    if (layer === null) return [];
    return this.db.query<{ id: string }, [string | null]>(`
      WITH RECURSIVE chain (id, parent, n) AS (
        SELECT id, parent, 0 FROM disk_layers WHERE id = ? UNION ALL SELECT l.id, l.parent, n + 1 FROM disk_layers l JOIN chain ON l.id = chain.parent)
      SELECT id FROM chain ORDER BY n`).all(layer).map((row) => row.id);
  }

  /** How many owners and layers lie directly on it. */
  users(layer: string): number {
    return this.db.query<{ n: number }, [string, string]>("SELECT (SELECT count(*) FROM disk_tops WHERE layer = ?) + (SELECT count(*) FROM disk_layers WHERE parent = ?) AS n").get(layer, layer)!.n;
  }

  layers(): { id: string; parent: string | null }[] {
    return this.db.query<{ id: string; parent: string | null }, []>("SELECT id, parent FROM disk_layers").all();
  }

  /** Deletes the rows of layers that nobody needs; the rest of the work is the files. */
  dropUnused(): string[] {
    const dropped: string[] = [];
    for (;;) {
      const rows = this.db.query<{ id: string }, []>(`
        DELETE FROM disk_layers WHERE id IN (
          SELECT id FROM disk_layers l WHERE NOT EXISTS (SELECT 1 FROM disk_tops WHERE layer = l.id)
            AND NOT EXISTS (SELECT 1 FROM disk_layers WHERE parent = l.id) AND NOT EXISTS (SELECT 1 FROM disk_clones WHERE layer = l.id))
        RETURNING id`).all();
      if (rows.length === 0) return dropped;
      dropped.push(...rows.map((row) => row.id));
    }
  }

  openClone({ from, top }: OpenClone): void {
    this.db.query("INSERT INTO disk_clones (from_kind, from_id, from_file, layer) VALUES (?, ?, ?, ?)").run(from.kind, from.id, top.file, top.layer);
  }

  closeClone({ kind, id }: DiskOwner): void {
    this.db.query("DELETE FROM disk_clones WHERE from_kind = ? AND from_id = ?").run(kind, id);
  }

  openClones(): OpenClone[] {
    return this.db.query<{ kind: DiskOwner["kind"]; id: string; file: string | null; layer: string }, []>("SELECT from_kind AS kind, from_id AS id, from_file AS file, layer FROM disk_clones").all()
      .map(({ kind, id, file, layer }) => ({ from: { kind, id }, top: { file, layer } }));
  }

  /** The boot of the host that maps were last settled in. */
  get boot(): string | null {
    return this.db.query<{ value: string }, [string]>("SELECT value FROM disk_settings WHERE key = ?").get(BOOT)?.value ?? null;
  }
  set boot(value: string | null) {
    this.db.query("INSERT INTO disk_settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value").run(BOOT, value);
  }
}
