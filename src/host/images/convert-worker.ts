// Worker: one conversion, off the daemon's event loop. It gets a ConvertJob, answers progress, then the outcome, and is terminated.
import { convert, type ConvertJob, type ConvertResult } from "./convert.ts";
import { DormouseError, messageOf, type ErrorCode } from "../../errors.ts";

export type ConvertMessage =
  | { readonly kind: "progress"; readonly doneBytes: number }
  | { readonly kind: "done"; readonly result: ConvertResult }
  | { readonly kind: "failed"; readonly code: ErrorCode; readonly message: string };

declare const self: Worker;

/** Bytes between two progress messages. */
const PROGRESS_STEP = 4 << 20;

async function run(job: ConvertJob): Promise<ConvertMessage> {
  let told = 0;
  try {
    const result = await convert(job, (doneBytes) => {
      if (doneBytes - told < PROGRESS_STEP) return;
      told = doneBytes;
      self.postMessage({ kind: "progress", doneBytes } satisfies ConvertMessage);
    });
    return { kind: "done", result };
  } catch (error) {
    return { kind: "failed", code: error instanceof DormouseError ? error.code : "internal", message: messageOf(error) };
  }
}

self.onmessage = (event: MessageEvent<ConvertJob>) => void run(event.data).then((message) => self.postMessage(message));
