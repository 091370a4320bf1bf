// Long work on files in a Worker of its own, as the daemon sees it: begun, called off, and its outcome. The descriptors are the daemon's;
// the Worker (task-worker.ts) has no name of any file.
import { err, ok } from "neverthrow";
import { DormouseError, type Res } from "../../errors.ts";
import { closeFd, openFd } from "../../ffi/fd.ts";
import { workerUrl, type WorkerName } from "../../workers.ts";
import type { TaskMessage, TaskOrder } from "./task-worker.ts";

export interface Task<T> {
  /** Null: it was called off. Resolves once nothing of it runs any more. Never rejects. */
  readonly outcome: Promise<Res<T | null>>;
  /** Ends it after the piece that it is at. */
  stop(): void;
}

/** Has the Worker `name` do what `order` says, on files that it opens. Messages begin with `what`. Throws SysError where a file can't be opened. */
export function beginTask<O, T>(name: WorkerName, what: string, order: (open: typeof openFd) => O, onProgress: () => void): Task<T> {
  const fds: number[] = [], close = () => fds.forEach(closeFd);
  try {
    const work = order((path, flags, mode) => {
      const fd = openFd(path, flags, mode);
      fds.push(fd);
      return fd;
    });
    const stop = new Int32Array(new SharedArrayBuffer(4));
    return { outcome: run<O, T>(name, what, { work, stop }, onProgress).finally(close), stop: () => void Atomics.store(stop, 0, 1) };
  } catch (error) {
    close();
    throw error;
  }
}

async function run<O, T>(name: WorkerName, what: string, order: TaskOrder<O>, onProgress: () => void): Promise<Res<T | null>> {
  const { promise, resolve } = Promise.withResolvers<Res<T | null>>();
  const failed = (code: DormouseError["code"], why: string) => resolve(err(new DormouseError(code, `${what}: ${why}`)));
  const worker = new Worker(workerUrl(name));
  worker.onmessage = ({ data }: MessageEvent<TaskMessage<T>>) => {
    if (data.kind === "progress") onProgress();
    else if (data.kind === "done") resolve(ok(data.result));
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
