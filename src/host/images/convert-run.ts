// Runs one conversion in a Worker of its own, which ends with it: its memory goes back, and it can be called off at any time.
import { DormouseError } from "../../errors.ts";
import { workerUrl } from "../../workers.ts";
import type { ConvertMessage } from "./convert-worker.ts";
import type { ConvertJob, ConvertResult } from "./convert.ts";
import type { Trash } from "../trash.ts";

/** Rejects with DormouseError, or with the signal's reason; then nothing of the output is left. */
export async function runConversion(job: ConvertJob, trash: Trash, signal: AbortSignal, onProgress: (doneBytes: number) => void): Promise<ConvertResult> {
  signal.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<ConvertResult>();
  const worker = new Worker(workerUrl("convert"));
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  worker.onmessage = ({ data }: MessageEvent<ConvertMessage>) => {
    if (data.kind === "done") return resolve(data.result);
    if (data.kind !== "progress") return reject(new DormouseError(data.code, data.message));
    try {
      onProgress(data.doneBytes);
    } catch (error) {
      reject(error); // whoever can't be told how far it is can't be told of its end either
    }
  };
  worker.onerror = (event) => reject(new DormouseError("image.convert_failed", `Cannot convert the image: the converter failed (${event.message})`));
  worker.postMessage(job);
  try {
    return await promise;
  } catch (error) {
    worker.terminate();
    for (const path of [job.output, `${job.output}.spool`]) trash.drop(path);
    throw error;
  } finally {
    signal.removeEventListener("abort", onAbort);
    worker.terminate();
  }
}
