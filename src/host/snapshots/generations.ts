// Saved machines: rows and folders. Order everywhere: a row `writing` before its files, `ready` by the commit of whoever needs it;
// when nobody does any more the row goes first and the folder after it, and what a crash leaves between the two sweep() removes.
import type { Database } from "bun:sqlite";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { createId } from "../id.ts";
import { ok } from "neverthrow";
import { fail, messageOf, wrap, type Res } from "../../errors.ts";
import { decodeContainer } from "../../machine-state/container.ts";
import { findMemory } from "./compression/files.ts";
import { codeOf, MachineStateError } from "../../machine-state/fault.ts";
import type { Trash } from "../trash.ts";

/**
 * The next save over a chain of so many is written whole: a restore maps each generation's runs, and reads each one's map.
 * Rarely reached: merging/ makes chains shorter while nobody uses them.
 */
export const MAX_CHAIN = 8;

/** Unit of st_blocks, stat(2). */
const BLOCK = 512;

export interface Generation { readonly id: string; readonly baseId: string | null; readonly depth: number; readonly state: "writing" | "ready"; readonly dataBytes: number }

export interface GenerationPaths { readonly dir: string; readonly machine: string; readonly memory: string }

/** A folder of files of a generation, whose name under `<data>/memory` is what the record keeps. */
export interface Folder { readonly name: string; readonly paths: GenerationPaths }

const pathsIn = (dir: string): GenerationPaths => ({ dir, machine: join(dir, "machine"), memory: join(dir, "memory") });

export interface GenerationListener {
  /** A generation whose files are about to be deleted. */
  going(id: string): void;
  /** What nobody needs could not be deleted (a full disk, mostly): the next sweep tries again. */
  left(error: unknown): void;
}

const COLUMNS = "id, base_id AS baseId, depth, state, data_bytes AS dataBytes";

/** `dir`: `<data>/memory`. */
export const generationDir = (db: Database, dir: string, id: string): string =>
  join(dir, db.query<{ folder: string | null }, [string]>("SELECT folder FROM generations WHERE id = ?").get(id)?.folder ?? id);

export class Generations {
  /** Being written in this process: not to be swept. */
  private readonly writing = new Set<string>();
  /** Folders that are filled by somebody in this process who looks after them. */
  private readonly busy = new Set<string>();

  /** `dir`: `<data>/memory`, made where it is missing. */
  constructor(private readonly db: Database, private readonly dir: string, private readonly trash: Trash, private readonly hears: GenerationListener) {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
  }

  paths(id: string): GenerationPaths { return pathsIn(generationDir(this.db, this.dir, id)); }

  find(id: string): Generation | null {
    return this.db.query<Generation, [string]>(`SELECT ${COLUMNS} FROM generations WHERE id = ?`).get(id);
  }

  /** Begins one over `base`, or a whole one where that is null or its chain is long enough. `host.storage` where there is no room. */
  begin(base: string | null): Res<Generation> {
    const below = base === null ? null : this.find(base);
    const over = below !== null && below.depth < MAX_CHAIN ? below : null;
    const id = createId();
    const generation: Generation = { id, baseId: over?.id ?? null, depth: (over?.depth ?? 0) + 1, state: "writing", dataBytes: 0 };
    this.writing.add(id);
    try {
      this.db.query("INSERT INTO generations (id, base_id, depth, state, created_at) VALUES (?, ?, ?, 'writing', ?)").run(id, generation.baseId, generation.depth, Date.now());
      mkdirSync(this.paths(id).dir, { mode: 0o700 });
      return ok(generation);
    } catch (error) {
      this.abandon(id);
      return fail("host.storage", `Cannot begin a snapshot: ${wrap("host.storage", "its folder can't be made", error).message}`, { cause: error });
    }
  }

  /** Part of the transaction that makes somebody refer to it. */
  ready(id: string, dataBytes: number): void {
    this.db.query("UPDATE generations SET state = 'ready', data_bytes = ? WHERE id = ?").run(dataBytes, id);
    this.writing.delete(id);
  }

  /** A new folder that no record tells of yet: for another form of a generation. Throws what the file system does. */
  newFolder(): Folder {
    const name = createId();
    this.busy.add(name);
    const paths = pathsIn(join(this.dir, name));
    try {
      mkdirSync(paths.dir, { mode: 0o700 });
    } catch (error) {
      this.busy.delete(name);
      throw error;
    }
    return { name, paths };
  }

  /** It is on record now. */
  keep({ name }: Folder): void { this.busy.delete(name); }

  /** Deletes a folder that no record tells of (any more). Throws what the file system does. */
  discard(dir: string): void {
    this.busy.delete(basename(dir));
    this.trash.drop(dir);
  }

  /** Takes back one that came to nothing. Here its files go first: on a full disk that makes the room that forgetting it takes. */
  abandon(id: string): void {
    this.writing.delete(id);
    this.attempt(() => {
      if (this.find(id)?.state !== "ready") this.trash.drop(this.paths(id).dir);
    });
    this.sweep();
    this.attempt(() => {
      if (this.find(id) !== null) void this.trash.emptied().then(() => this.sweep());
    });
  }

  /** Whether its machine's file is there and whole, as far as its checksum tells. `snapshot.damaged`, `snapshot.incompatible`. */
  check(id: string): Res<void> {
    const { machine } = this.paths(id);
    try {
      decodeContainer(readFileSync(machine));
      return ok();
    } catch (error) {
      const code = error instanceof MachineStateError ? codeOf(error) : "snapshot.damaged";
      return fail(code, `Cannot use the snapshot ${id}: ${machine}: ${messageOf(error)}`, { cause: error, details: { generation: id } });
    }
  }

  /** Bytes on disk of its own files, not of those that it stands on. */
  bytes(id: string): number {
    const { dir } = this.paths(id);
    // Files come and go in the background.
    return existsSync(dir) ? readdirSync(dir).reduce((sum, name) => sum + (statSync(join(dir, name), { throwIfNoEntry: false })?.blocks ?? 0) * BLOCK, 0) : 0;
  }

  /** The generation and all below it, newest first, as their files lie now. */
  chain(id: string): (GenerationPaths & { readonly id: string })[] {
    return this.db.query<{ id: string; folder: string | null }, [string]>(`
      WITH RECURSIVE chain (id, base_id, folder, n) AS (
        SELECT id, base_id, folder, 0 FROM generations WHERE id = ? UNION ALL SELECT g.id, g.base_id, g.folder, n + 1 FROM generations g JOIN chain ON g.id = chain.base_id)
      SELECT id, folder FROM chain ORDER BY n`).all(id).map((row) => ({ id: row.id, ...pathsIn(join(this.dir, row.folder ?? row.id)) }));
  }

  /** Whether the files of it and of all below it are there, whatever is in them. */
  isThere(id: string): boolean { return this.chain(id).every(({ dir, machine }) => existsSync(machine) && findMemory(dir) !== null); }

  chainIds(id: string): string[] { return this.chain(id).map((one) => one.id); }

  /** Deletes what nobody refers to: rows, then folders; and folders that no row tells of. Cheap where there is nothing. */
  sweep(): void {
    this.attempt(() => this.dropRows());
    this.attempt(() => {
      const known = new Set(this.db.query<{ name: string }, []>("SELECT coalesce(folder, id) AS name FROM generations").all().map(({ name }) => name));
      for (const name of readdirSync(this.dir))
        if (!known.has(name) && !this.busy.has(name)) this.attempt(() => this.trash.drop(join(this.dir, name)));
    });
  }

  private dropRows(): void {
    for (;;) {
      const free = this.db.query<{ id: string }, []>(`
        SELECT id FROM generations g
        WHERE NOT EXISTS (SELECT 1 FROM generations WHERE base_id = g.id)
          AND NOT EXISTS (SELECT 1 FROM instances WHERE saved_generation = g.id OR live_generation = g.id)
          AND NOT EXISTS (SELECT 1 FROM snapshots WHERE generation_id = g.id)`).all().filter(({ id }) => !this.writing.has(id));
      if (free.length === 0) return;
      const remove = this.db.query("DELETE FROM generations WHERE id = ?");
      this.db.transaction(() => { for (const { id } of free) remove.run(id); })();
      for (const { id } of free) this.hears.going(id);
    }
  }

  private attempt(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.hears.left(error);
    }
  }

  /** At start: whatever an earlier daemon was writing is nobody's. */
  recover(): void { this.sweep(); }
}
