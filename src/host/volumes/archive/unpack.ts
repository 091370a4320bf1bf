// An archive as it comes, into a folder: the daemon's side of worker.ts.
import { DormouseError, messageOf } from "../../../errors.ts";
import { workerUrl } from "../../../workers.ts";
import type { Clock } from "../../clock.ts";
import type { ArchiveBody } from "../service.ts";
import type { Unpacked, UnpackLimits } from "./staging.ts";
import type { UnpackMessage, UnpackOrder } from "./worker.ts";

/** An entry costs a little room in the file system that is made of it; and each is some work, whatever the size. */
const BYTES_PER_ENTRY = 4096, MIN_ENTRIES = 1024, MAX_ENTRIES = 1 << 22;

/**
 * How long its sender may be silent, where others (nginx, S3) give it a minute or less: `tar … | dormouse volume create --from -` may ask for a
 * password first, or read a slow disk. Without a limit one that has stopped would hold a Worker and the volume's name for ever.
 */
export const SILENCE_MS = 5 * 60_000;

/** For a volume of `bytes`. */
export const limitsOf = (bytes: number): UnpackLimits => ({ maxBytes: bytes, maxEntries: Math.min(MAX_ENTRIES, Math.max(MIN_ENTRIES, Math.floor(bytes / BYTES_PER_ENTRY))) });

/** Rejects with DormouseError, whose message begins with `what`; what is in the folder then is of no use. Once it is settled nothing writes there any more. */
export async function unpack(what: string, body: ArchiveBody, folder: string, limits: UnpackLimits, clock: Clock): Promise<Unpacked> {
  const { promise, resolve, reject } = Promise.withResolvers<Unpacked>();
  const worker = new Worker(workerUrl("unpack")), pieces = body[Symbol.asyncIterator]();
  const order = (message: UnpackOrder) => worker.postMessage(message);
  const failed = (code: DormouseError["code"], why: string) => reject(new DormouseError(code, `${what}: ${why}`));
  const broken = (why: string) => order({ kind: "broken", why: `it broke off (${why})` });
  let heard = () => {};
  // Only what the sender takes is timed, and not what is done with it here.
  const feed = () => {
    heard = clock.after(SILENCE_MS, () => broken(`nothing came for ${SILENCE_MS / 60_000} minutes`));
    return pieces.next().finally(() => heard()).then(({ done, value }) => order(done === true ? { kind: "end" } : { kind: "bytes", bytes: value }), (error: unknown) => broken(messageOf(error)));
  };
  worker.onmessage = ({ data }: MessageEvent<UnpackMessage>) => {
    if (data.kind === "more") void feed();
    else if (data.kind === "done") resolve(data.unpacked);
    else failed(data.code, data.why);
  };
  worker.onerror = (event) => failed("internal", `the worker failed (${event.message})`);
  worker.addEventListener("close", () => failed("internal", "the worker ended too soon"));
  order({ kind: "begin", folder, limits });
  try {
    return await promise;
  } finally {
    heard();
    worker.terminate();
    void pieces.return?.().catch(() => {}); // what is left of it nobody wants
  }
}
