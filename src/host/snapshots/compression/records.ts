// Rows of generation_compression. No row: the memory is as it was written, and nobody wants it otherwise.
import type { Database } from "bun:sqlite";
import type { Algorithm } from "./codec.ts";
import type { Totals } from "./pack.ts";

export interface CompressionRecord {
  readonly generationId: string;
  readonly state: "waiting" | "compressing" | "compressed" | "error";
  readonly algorithm: Algorithm;
  readonly level: number;
  readonly dueAt: number;
  readonly error: string | null;
  readonly compressedBytes: number | null;
  readonly uncompressedBytes: number | null;
}

/** Every call is one durable commit. A generation that has gone meanwhile is no error. */
export interface CompressionRecords {
  find(generationId: string): CompressionRecord | null;
  all(): CompressionRecord[];
  /** Wanted from `dueAt` on; replaces what was there. */
  want(generationId: string, how: { readonly algorithm: Algorithm; readonly level: number }, dueAt: number): void;
  begun(generationId: string): void;
  compressed(generationId: string, totals: Totals): void;
  failed(generationId: string, error: string): void;
  /** As it was written. */
  remove(generationId: string): void;
}

const COLUMNS = `generation_id AS generationId, state, algorithm, level, due_at AS dueAt, error,
  compressed_bytes AS compressedBytes, uncompressed_bytes AS uncompressedBytes`;

export function sqliteRecords(db: Database): CompressionRecords {
  return {
    find: (id) => db.query<CompressionRecord, [string]>(`SELECT ${COLUMNS} FROM generation_compression WHERE generation_id = ?`).get(id),
    all: () => db.query<CompressionRecord, []>(`SELECT ${COLUMNS} FROM generation_compression ORDER BY due_at`).all(),
    want(id, { algorithm, level }, dueAt) {
      db.query(`INSERT OR REPLACE INTO generation_compression (generation_id, state, algorithm, level, due_at)
                SELECT id, 'waiting', ?, ?, ? FROM generations WHERE id = ?`).run(algorithm, level, dueAt, id);
    },
    begun(id) {
      db.query("UPDATE generation_compression SET state = 'compressing', error = NULL WHERE generation_id = ?").run(id);
    },
    compressed(id, { dataBytes, fileBytes }) {
      db.query("UPDATE generation_compression SET state = 'compressed', error = NULL, compressed_bytes = ?, uncompressed_bytes = ? WHERE generation_id = ?").run(fileBytes, dataBytes, id);
    },
    failed(id, error) {
      db.query("UPDATE generation_compression SET state = 'error', error = ? WHERE generation_id = ?").run(error, id);
    },
    remove(id) {
      db.query("DELETE FROM generation_compression WHERE generation_id = ?").run(id);
    },
  };
}
