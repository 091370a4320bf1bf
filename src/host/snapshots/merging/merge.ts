// Generations that are deltas over one another → one, on descriptors, a piece at a time. Runs in a Worker (worker.ts): every call
// blocks. Throws MachineStateError, Stopped, and SysError where the host fails.
import { readFileSync } from "node:fs";
import { SYS } from "../../../ffi/abi/syscalls.ts";
import { pwriteAll } from "../../../ffi/fd.ts";
import { copyRange } from "../../../ffi/sparse.ts";
import { must } from "../../../ffi/syscall.ts";
import { chainOf, dataRuns, flatten } from "../../../machine-state/extents.ts";
import { MachineStateError } from "../../../machine-state/fault.ts";
import { checkChain, decodeMachine, encodeMachine, PAGE_BYTES, type SavedMachine } from "../../../machine-state/saved-machine.ts";
import { Stopped, type Watch } from "../task-worker.ts";

/** What is copied between two looks at whether it was called off; and how much of it may wait for the disk, so that syncing is no long step either. */
const PIECE = 4 << 20, SYNC_EVERY = 16;

/** Open files of the generations `ids`, the newest first; the last one is a delta over `base`. */
export interface Segment {
  readonly ids: readonly string[];
  readonly base: string | null;
  readonly machines: readonly number[];
  readonly memories: readonly number[];
}

/** Writes the newest of `segment` as a delta over what the oldest is one over: `into` are empty files, synced afterwards. Answers the bytes of data in it. */
export function merge(segment: Segment, into: { readonly machine: number; readonly memory: number }, watch: Watch): number {
  const machines = segment.machines.map((fd) => decodeMachine(readFileSync(fd)));
  checkSegment(machines, segment);
  const chain = chainOf(machines.map(({ pages }) => pages)), newest = machines[0]!;
  must("Cannot size the memory", SYS.ftruncate, into.memory, newest.params.memoryBytes);
  let pieces = 0, dataBytes = 0;
  for (const { page, pages, content } of dataRuns(chain)) {
    const end = (page + pages) * PAGE_BYTES;
    for (let at = page * PAGE_BYTES; at < end; at += PIECE) {
      if (watch.stopped()) throw new Stopped();
      copyRange(segment.memories[content]!, into.memory, at, Math.min(at + PIECE, end));
      if (++pieces % SYNC_EVERY === 0) must("Cannot sync", SYS.fdatasync, into.memory);
      watch.progress();
    }
    dataBytes += pages * PAGE_BYTES;
  }
  pwriteAll(into.machine, encodeMachine({ ...newest, base: segment.base, pages: flatten(chain, segment.base) }), 0);
  for (const fd of [into.memory, into.machine]) must("Cannot sync", SYS.fsync, fd);
  return dataBytes;
}

/** As a restore checks a chain, but that this one may end on a base. */
function checkSegment(machines: readonly SavedMachine[], { ids, base }: Segment): void {
  const oldest = machines.at(-1);
  if (oldest !== undefined && oldest.base !== base) throw new MachineStateError("foreign", `Cannot use the saved machine: generation ${oldest.id} is a delta over ${oldest.base ?? "nothing"}, not over ${base ?? "nothing"}`);
  checkChain(machines.map((machine) => (machine === oldest ? { ...machine, base: null } : machine)), ids);
}
