// One Worker's work as seen from the daemon: begun, called off, and its outcome. Owns the two descriptors.
import { err, ok } from "neverthrow";
import { DormouseError, type Res } from "../../../errors.ts";
import { closeFd, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, openFd } from "../../../ffi/fd.ts";
import { workerUrl } from "../../../workers.ts";
import type { Totals } from "./pack.ts";
import type { PackMessage, PackOrder } from "./worker.ts";

export interface PackJob {
  /** Null: it was called off. Resolves once nothing of it runs any more. Never rejects. */
  readonly outcome: Promise<Res<Totals | null>>;
  /** Ends it after the chunk that it is at. */
  stop(): void;
}

/** Reads `from`, writes the new file `to`. Messages begin with `what`. Throws SysError where a file can't be opened. */
export function beginJob(what: string, from: string, to: string, compress: PackOrder["compress"], onProgress: (chunks: number) => void = () => {}): PackJob {
  const source = openFd(from, O_RDONLY);
  let target: number;
  try {
    target = openFd(to, O_RDWR | O_CREAT | O_EXCL);
  } catch (error) {
    closeFd(source);
    throw error;
  }
  const [rawFd, packedFd] = compress === null ? [target, source] : [source, target];
  const stop = new Int32Array(new SharedArrayBuffer(4));
  const outcome = runWorker(what, { rawFd, packedFd, compress, stop }, onProgress).finally(() => {
    closeFd(source);
    closeFd(target);
  });
  return { outcome, stop: () => void Atomics.store(stop, 0, 1) };
}

async function runWorker(what: string, order: PackOrder, onProgress: (chunks: number) => void): Promise<Res<Totals | null>> {
  const { promise, resolve } = Promise.withResolvers<Res<Totals | null>>();
  const worker = new Worker(workerUrl("compress"));
  worker.onmessage = ({ data }: MessageEvent<PackMessage>) => {
    if (data.kind === "progress") onProgress(data.chunks);
    else if (data.kind === "done") resolve(ok(data.totals));
    else if (data.kind === "stopped") resolve(ok(null));
    else resolve(err(new DormouseError(data.code, `${what}: ${data.why}`)));
  };
  worker.onerror = (event) => resolve(err(new DormouseError("internal", `${what}: the worker failed (${event.message})`)));
  worker.addEventListener("close", () => resolve(err(new DormouseError("internal", `${what}: the worker ended too soon`))));
  worker.postMessage(order);
  try {
    return await promise;
  } finally {
    worker.terminate();
  }
}
