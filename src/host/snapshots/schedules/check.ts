// What a schedule may be, when it runs, and what its snapshots are called.
import { ok } from "neverthrow";
import { fail, type Res } from "../../../errors.ts";
import type { SetSchedule } from "../service.ts";

export const MIN_INTERVAL_MS = 60_000;
/** With a dash and the 15 characters of a time: a name of 63. */
export const PREFIX_MAX = 47;
const DEFAULT_PREFIX = "scheduled";
const PREFIX = /^[a-z0-9][a-z0-9-]*$/;

/** The schedule in one form: whole milliseconds, and null for a limit of 0 and an empty prefix. `request.bad` names the field. */
export function checkSchedule({ intervalMs, maxCount, maxAgeMs, namePrefix, metadata }: SetSchedule): Res<SetSchedule> {
  const refuse = (field: string, why: string) => fail("request.bad", `Cannot set the snapshot schedule: ${why}`, { details: { field } });
  const interval = Math.round(intervalMs), age = maxAgeMs === null ? null : Math.round(maxAgeMs);
  if (!Number.isSafeInteger(interval) || intervalMs < MIN_INTERVAL_MS) return refuse("interval", "its interval must be at least 1m");
  if (maxCount !== null && (!Number.isSafeInteger(maxCount) || maxCount < 0)) return refuse("retention.max_count", "max_count must be a whole number; 0 is no limit");
  if (age !== null && (!Number.isSafeInteger(age) || age < 0)) return refuse("retention.max_age", "max_age must be a duration such as 72h");
  if (!maxCount && !age) return refuse("retention", "it needs max_count or max_age, or snapshots would pile up");
  if (namePrefix && (namePrefix.length > PREFIX_MAX || !PREFIX.test(namePrefix)))
    return refuse("name_prefix", `name_prefix must be at most ${PREFIX_MAX} small letters, digits and dashes, and not begin with a dash`);
  return ok({ intervalMs: interval, maxCount: maxCount || null, maxAgeMs: age || null, namePrefix: namePrefix || null, metadata });
}

/** The first time of the grid …, `next`, `next` + interval, … that lies after `now`: what was missed is not made up for. */
export const nextOnGrid = (next: number, intervalMs: number, now: number): number => next + (Math.floor((now - next) / intervalMs) + 1) * intervalMs;

/** `<prefix>-20261127-161500`, in UTC; where that is taken, of the first second after it that is free. */
export function snapshotName(prefix: string | null, at: number, isTaken: (name: string) => boolean): string {
  for (let second = 0; ; second++) {
    const time = new Date(at + second * 1000).toISOString();
    const name = `${prefix ?? DEFAULT_PREFIX}-${time.slice(0, 10).replaceAll("-", "")}-${time.slice(11, 19).replaceAll(":", "")}`;
    if (!isTaken(name)) return name;
  }
}
