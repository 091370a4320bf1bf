// What the host's storage refuses, told from other failures: also in the words of a monitor, which has no codes.
import { SQLiteError } from "bun:sqlite";
import { DormouseError, messageOf } from "../../errors.ts";

/** Names of errno(3) that are about room or the medium, at the end of a message or in brackets. */
const REFUSALS = /\b(ENOSPC|EDQUOT|EFBIG|EIO|EROFS)\b/;

/** Whether the disk is full, or fails. */
export const isStorage = (error: unknown): boolean =>
  error instanceof SQLiteError || (error instanceof DormouseError && error.code === "host.storage") || REFUSALS.test(messageOf(error));
