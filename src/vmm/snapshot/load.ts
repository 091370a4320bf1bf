// A saved machine's files, read and checked: what a restore needs before it makes anything. Of guest memory nothing is read.
import { fileSize } from "../../ffi/fd.ts";
import type { Mapping } from "../../ffi/memory.ts";
import { must } from "../../ffi/syscall.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { corrupted } from "../../machine-state/container.ts";
import { missingFeatures, type CpuFeatures } from "../../machine-state/cpu.ts";
import { dataRuns, MAX_MAPPINGS } from "../../machine-state/extents.ts";
import { MachineStateError } from "../../machine-state/fault.ts";
import { checkChain, decodeBase, decodeMachine, PAGE_BYTES, type BaseMachine, type SavedMachine } from "../../machine-state/saved-machine.ts";
import { chainFrom, type Chain } from "./plan.ts";

/** No container comes near it: the page map of 64 GiB in single pages has 200 MB, and maps are coalesced to thousands of runs. */
const MAX_MACHINE_BYTES = 256 * 2 ** 20;

export interface Loaded {
  /** The newest generation: all but memory comes from it. */
  readonly machine: SavedMachine;
  readonly chain: Chain;
  /** Puts the chain's pages into RAM; nothing is read until it is touched. */
  fill(ram: Mapping): void;
}

/** Generation n of `ids`, newest first, is in the files machines[n] and memories[n]. Throws MachineStateError. */
export function load(ids: readonly string[], machines: readonly number[], memories: readonly number[]): Loaded {
  const newest = machines.slice(0, 1).map((fd) => decodeMachine(readWhole(fd)));
  const generations: BaseMachine[] = [...newest, ...machines.slice(1).map((fd) => decodeBase(readWhole(fd)))];
  checkChain(generations, ids);
  const [machine] = newest as [SavedMachine];
  generations.forEach(({ id, params: { memoryBytes } }, i) => {
    const size = fileSize(memories[i]!);
    if (size !== memoryBytes) throw new MachineStateError("truncated", `Cannot read the saved machine: the memory of generation ${id} has ${size} of ${memoryBytes} bytes`);
  });
  const chain = chainFrom(ids, generations.map(({ pages }) => pages));
  const runs = dataRuns(chain.extents);
  if (runs.length > MAX_MAPPINGS) throw corrupted(`its memory is in ${runs.length} pieces`);
  return {
    machine, chain,
    fill(ram) {
      for (const { page, pages, content } of runs) ram.replace(page * PAGE_BYTES, pages * PAGE_BYTES, memories[content]!, page * PAGE_BYTES);
    },
  };
}

/** Refuses a CPU on which the guest could not go on. `host` is what a new vCPU would see. */
export function checkCpu({ cpu }: SavedMachine, host: CpuFeatures): void {
  const missing = missingFeatures(cpu, host);
  if (missing.length > 0) throw new MachineStateError("incompatible", `Cannot use the saved machine: this host lacks ${missing.slice(0, 8).join(", ")}${missing.length > 8 ? ` and ${missing.length - 8} more features` : ""}`);
}

function readWhole(fd: number): Uint8Array {
  const size = fileSize(fd);
  if (size > MAX_MACHINE_BYTES) throw new MachineStateError("foreign", `Cannot read the saved machine: a file of ${size} bytes is something else`);
  const bytes = new Uint8Array(size);
  for (let done = 0; done < size; ) {
    const n = must("Cannot read the saved machine", SYS.pread64, fd, bytes.subarray(done), size - done, done);
    if (n === 0) throw new MachineStateError("truncated", "Cannot read the saved machine: it became shorter meanwhile");
    done += n;
  }
  return bytes;
}
