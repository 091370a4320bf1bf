// A merge in a Worker of its own.
import { O_CREAT, O_EXCL, O_RDONLY, O_RDWR } from "../../../ffi/fd.ts";
import type { GenerationPaths } from "../generations.ts";
import { beginTask, type Task } from "../task.ts";
import type { Plan } from "./plan.ts";
import type { MergeOrder } from "./worker.ts";

/** Its result: bytes of data. */
export type MergeJob = Task<number>;

/** Reads `from`, the files of the plan's generations, and writes new ones. Throws SysError where a file can't be opened. */
export const beginMerge = ({ ids, base }: Plan, from: readonly GenerationPaths[], to: GenerationPaths, onProgress: () => void): MergeJob =>
  beginTask<MergeOrder, number>("merge", `Cannot merge the saved machine ${ids[0]} with those below it`, (open) => ({
    segment: { ids, base, machines: from.map(({ machine }) => open(machine, O_RDONLY)), memories: from.map(({ memory }) => open(memory, O_RDONLY)) },
    into: { machine: open(to.machine, O_RDWR | O_CREAT | O_EXCL), memory: open(to.memory, O_RDWR | O_CREAT | O_EXCL) },
  }), onProgress);
