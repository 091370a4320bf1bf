// What the host's storage refuses, told from other failures: also in the words of a monitor, which has no codes.
import { SQLiteError } from "bun:sqlite";
import { DormouseError, messageOf } from "../errors.ts";

/** Names of errno(3) that are about room or the medium, at the end of a message or in brackets. */
const REFUSALS = /\b(ENOSPC|EDQUOT|EFBIG|EIO|EROFS)\b/;

/** Whether the disk is full, or fails. */
export const isStorage = (error: unknown): boolean =>
  error instanceof SQLiteError || (error instanceof DormouseError && error.code === "host.storage") || REFUSALS.test(messageOf(error));

const FULL = /\b(ENOSPC|EDQUOT)\b|database or disk is full|No space left on device/;
const REMEDY = "the disk is full: free some space; `dormouse df` shows what takes it";

/** With what to do, where a full disk is named by its errno or in the database's words only. */
export function withRemedy(error: DormouseError): DormouseError {
  if (error.code !== "host.storage" || !FULL.test(error.message) || error.message.includes("the disk is full")) return error;
  return new DormouseError(error.code, `${error.message}; ${REMEDY}`, { cause: error, ...(error.details === undefined ? {} : { details: error.details }) });
}
