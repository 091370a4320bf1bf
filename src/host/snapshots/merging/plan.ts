// Which generations can become one, and the transaction that makes them so. The newest keeps its id, which stands for what memory was at
// a moment: that stays the same, so whoever refers to it (instances, snapshots, deltas over it) need not know.
import type { Database } from "bun:sqlite";
import { MAX_CHAIN } from "../generations.ts";

/** So many generations of a chain become one. */
export const MERGE_AT = 4;
/** Where most of a long chain is shared, a few must do, before a save has to be written whole. */
const NEARLY_FULL = MAX_CHAIN - 2;

export interface Plan {
  /** Newest first, two at least: the first takes the others in. */
  readonly ids: readonly string[];
  /** What the merged one is a delta over. */
  readonly base: string | null;
}

interface Link { readonly id: string; readonly baseId: string | null; readonly depth: number; readonly state: string; readonly live: number; readonly users: number }

export class Merges {
  constructor(private readonly db: Database) {}

  /**
   * The generation `id` and those below it that nobody else needs, where they are enough to be worth it. The first below that somebody
   * else refers to, that a monitor runs over, or that is not `raw` is left alone, with all under it.
   */
  plan(id: string, raw: (id: string) => boolean): Plan | null {
    const ids: string[] = [];
    let base: string | null = id;
    const chain = this.chain(id);
    for (const link of chain) {
      if (link.state !== "ready" || link.live > 0 || (ids.length > 0 && link.users > 1) || !raw(link.id)) break;
      ids.push(link.id);
      base = link.baseId;
    }
    const worth = ids.length >= MERGE_AT || (ids.length > 1 && chain[0]!.depth >= NEARLY_FULL);
    return worth ? { ids, base } : null;
  }

  /** Generations that instances or snapshots are on: where merging begins. */
  held(): string[] {
    return this.db.query<{ id: string }, []>(`
      SELECT id FROM generations WHERE depth >= ${MERGE_AT} AND (id IN (SELECT saved_generation FROM instances) OR id IN (SELECT generation_id FROM snapshots))`).all().map(({ id }) => id);
  }

  /** The merge counts: the files of the newest are in `folder`, and the others are no more. */
  commit({ ids: [newest, ...taken], base }: Plan, folder: string, dataBytes: number): void {
    this.db.transaction(() => {
      const run = (sql: string, ...values: (string | number | null)[]) => void this.db.query(sql).run(...values);
      run("UPDATE generations SET base_id = ?, folder = ?, data_bytes = ? WHERE id = ?", base, folder, dataBytes, newest!);
      // Newest first: each refers to the next.
      for (const id of taken) run("DELETE FROM generations WHERE id = ?", id);
      run(`
        WITH RECURSIVE above (id) AS (SELECT ? UNION ALL SELECT g.id FROM generations g JOIN above ON g.base_id = above.id)
        UPDATE generations SET depth = depth - ? WHERE id IN (SELECT id FROM above)`, newest!, taken.length);
    }).immediate();
  }

  /** Newest first. `live`: a monitor runs over it; `users`: whoever refers to it. */
  private chain(id: string): Link[] {
    return this.db.query<Link, [string]>(`
      WITH RECURSIVE
        chain (id, n) AS (SELECT ?, 0 UNION ALL SELECT g.base_id, n + 1 FROM generations g JOIN chain ON g.id = chain.id WHERE g.base_id IS NOT NULL),
        live (id) AS (SELECT live_generation FROM instances WHERE live_generation IS NOT NULL
          UNION SELECT g.base_id FROM generations g JOIN live ON g.id = live.id WHERE g.base_id IS NOT NULL)
      SELECT g.id, g.base_id AS baseId, g.depth, g.state,
        g.id IN (SELECT id FROM live) AS live,
        (SELECT count(*) FROM generations WHERE base_id = g.id) + (SELECT count(*) FROM snapshots WHERE generation_id = g.id)
          + (SELECT count(*) FROM instances WHERE saved_generation = g.id) AS users
      FROM chain JOIN generations g ON g.id = chain.id ORDER BY chain.n`).all(id);
  }
}
