// Worker: generations made one, off the daemon's event loop and at the lowest priority.
import { codeOf, MachineStateError } from "../../../machine-state/fault.ts";
import { beModest, serveTask } from "../task-worker.ts";
import { merge, type Segment } from "./merge.ts";

export interface MergeOrder {
  readonly segment: Segment;
  readonly into: { readonly machine: number; readonly memory: number };
}

serveTask<MergeOrder, number>(
  ({ segment, into }, watch) => {
    beModest();
    return merge(segment, into, watch);
  },
  (error) => error instanceof MachineStateError ? { code: codeOf(error), why: error.message } : null,
);
