// The names of a generation's memory, and which of its files is the one that counts. A name without `.part` is only ever
// given, by rename, to a file that is whole and synced.
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Trash } from "../../trash.ts";
import type { Algorithm } from "./codec.ts";

export const rawPath = (dir: string): string => join(dir, "memory");
export const packedPath = (dir: string, algorithm: Algorithm): string => join(dir, `memory.${algorithm}`);
export const partOf = (path: string): string => `${path}.part`;

export type MemoryForm =
  | { readonly form: "raw"; readonly path: string }
  | { readonly form: "compressed"; readonly path: string; readonly algorithm: Algorithm };

const ALGORITHMS: readonly Algorithm[] = ["zstd", "lz4"];

/** The raw file where it is there, else a compressed one; null where there is neither. Any of them is whole. */
export function findMemory(dir: string): MemoryForm | null {
  if (existsSync(rawPath(dir))) return { form: "raw", path: rawPath(dir) };
  for (const algorithm of ALGORITHMS) if (existsSync(packedPath(dir, algorithm))) return { form: "compressed", path: packedPath(dir, algorithm), algorithm };
  return null;
}

/** Removes what nobody finished, and all but the form to keep. Called where nobody works on the generation. */
export function tidy(dir: string, keep: MemoryForm, trash: Trash): void {
  for (const path of [rawPath(dir), ...ALGORITHMS.map((algorithm) => packedPath(dir, algorithm))]) {
    trash.drop(partOf(path));
    if (path !== keep.path) trash.drop(path);
  }
}
