// One Worker's work as seen from the daemon: begun, called off, and its outcome. Owns all descriptors.
import { err, ok } from "neverthrow";
import { DormouseError, type Res } from "../../../errors.ts";
import { closeFd, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, openFd } from "../../../ffi/fd.ts";
import { workerUrl } from "../../../workers.ts";
import type { GenerationPaths } from "../generations.ts";
import type { Plan } from "./plan.ts";
import type { MergeMessage, MergeOrder } from "./worker.ts";

export interface MergeJob {
  /** Bytes of data; null: it was called off. Resolves once nothing of it runs any more. Never rejects. */
  readonly outcome: Promise<Res<number | null>>;
  /** Ends it after the piece that it is at. */
  stop(): void;
}

/** Reads `from`, the files of the plan's generations, and writes new ones. Throws SysError where a file can't be opened. */
export function beginMerge({ ids, base }: Plan, from: readonly GenerationPaths[], to: GenerationPaths, onProgress: () => void): MergeJob {
  const fds: number[] = [];
  const opened = (path: string, flags: number): number => {
    const fd = openFd(path, flags);
    fds.push(fd);
    return fd;
  };
  const close = () => fds.forEach(closeFd);
  try {
    const segment = { ids, base, machines: from.map(({ machine }) => opened(machine, O_RDONLY)), memories: from.map(({ memory }) => opened(memory, O_RDONLY)) };
    const into = { machine: opened(to.machine, O_RDWR | O_CREAT | O_EXCL), memory: opened(to.memory, O_RDWR | O_CREAT | O_EXCL) };
    const stop = new Int32Array(new SharedArrayBuffer(4));
    return { outcome: runWorker(ids[0]!, { segment, into, stop }, onProgress).finally(close), stop: () => void Atomics.store(stop, 0, 1) };
  } catch (error) {
    close();
    throw error;
  }
}

async function runWorker(gid: string, order: MergeOrder, onProgress: () => void): Promise<Res<number | null>> {
  const { promise, resolve } = Promise.withResolvers<Res<number | null>>();
  const failed = (code: DormouseError["code"], why: string) => resolve(err(new DormouseError(code, `Cannot merge the saved machine ${gid} with those below it: ${why}`)));
  const worker = new Worker(workerUrl("merge"));
  worker.onmessage = ({ data }: MessageEvent<MergeMessage>) => {
    if (data.kind === "progress") onProgress();
    else if (data.kind === "done") resolve(ok(data.dataBytes));
    else if (data.kind === "stopped") resolve(ok(null));
    else failed(data.code, data.why);
  };
  worker.onerror = (event) => failed("internal", `the worker failed (${event.message})`);
  worker.addEventListener("close", () => failed("internal", "the worker ended too soon"));
  worker.postMessage(order);
  try {
    return await promise;
  } finally {
    worker.terminate();
  }
}
