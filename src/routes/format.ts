// How the contract writes sizes, durations, times and names. Sizes are binary (1 GB = 2^30 bytes); durations are
// Go's (time.ParseDuration). What goes out parses back to the same value.
import { ok } from "neverthrow";
import { fail, type Res } from "../errors.ts";
import { isLabel, LABEL_WORDS, MAX_LABEL } from "../host/label.ts";

const SIZE_UNITS = ["", "K", "M", "G", "T", "P"] as const;
const SIZE = /^(\d+)\s*([KMGTP]?)(i?B)?$/i;

/**
 * Bytes of `"512MB"`, `"1G"`, `"10GiB"`, `"1024"`; `what` is the field, for the message.
 * A unit with a small `b` after a capital (`1Gb`) means bits to many and is refused.
 */
export function parseSize(text: string, what: string): Res<number> {
  const match = SIZE.exec(text.trim());
  const refuse = (why: string) => fail("size.invalid", `Cannot read ${what} as a size: ${why}. Write it like 512MB or 1GB.`, { details: { field: what } });
  if (match === null) return refuse("it is not a whole number with a unit");
  const [, digits = "", unit = "", suffix = ""] = match;
  if (/^[KMGTP]b$/.test(unit + suffix)) return refuse("a small b means bits");
  const bytes = Number(digits) * 1024 ** SIZE_UNITS.indexOf(unit.toUpperCase() as (typeof SIZE_UNITS)[number]);
  if (!Number.isSafeInteger(bytes)) return refuse("it is too large");
  return ok(bytes);
}

/** `1GB`, `512MB`, `1536MB`: the largest unit that leaves a whole number. */
export function formatSize(bytes: number): string {
  let unit = 0;
  let value = bytes;
  while (value > 0 && value % 1024 === 0 && unit < SIZE_UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value}${SIZE_UNITS[unit]}B`;
}

const DURATION_MS: Readonly<Record<string, number>> = {
  ns: 1e-6, us: 1e-3, "µs": 1e-3, "μs": 1e-3, ms: 1, s: 1000, m: 60_000, h: 3_600_000,
};
const DURATION = /^(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+$/;
const DURATION_PART = /(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)/g;

/** Milliseconds of a Go duration such as `1h30m`, `500ms` or `0`. Negative ones are refused: nothing here can use them. */
export function parseDuration(text: string, what: string): Res<number> {
  const bare = text.startsWith("+") ? text.slice(1) : text;
  if (bare === "0") return ok(0);
  if (!DURATION.test(bare)) {
    return fail("request.bad", `Cannot read ${what} as a duration: write it like 30s, 2m or 1h30m.`, { details: { field: what } });
  }
  let total = 0;
  for (const [, count = "0", unit = "ms"] of bare.matchAll(DURATION_PART)) total += Number(count) * (DURATION_MS[unit] ?? 0);
  return ok(total);
}

/** Longest time span that a setting takes: ten years. */
export const SPAN_MAX_MS = 10 * 365 * 86_400_000;

/** Whole milliseconds of a Go duration from `min` to ten years, for settings; what is more than nothing is at least one. */
export function parseSpan(text: string, what: string, min: number): Res<number> {
  return parseDuration(text, what).andThen((exact) => {
    const ms = exact > 0 ? Math.max(1, Math.round(exact)) : 0;
    if (ms >= min && ms <= SPAN_MAX_MS) return ok(ms);
    const limit = ms > SPAN_MAX_MS ? `at most ${formatDuration(SPAN_MAX_MS)}` : min === 1 ? "more than 0" : `at least ${formatDuration(min)}`;
    return fail("request.bad", `Cannot accept ${what}: it must be ${limit}.`, { details: { field: what } });
  });
}

/** `1h30m`, `45s`, `12.345s`, `250ms` of milliseconds, without the zero parts that Go writes. */
export function formatDuration(ms: number): string {
  const whole = Math.round(ms);
  if (whole < 1000) return whole === 0 ? "0s" : `${whole}ms`;
  const parts = [[Math.floor(whole / 3_600_000), "h"], [Math.floor(whole / 60_000) % 60, "m"], [(whole % 60_000) / 1000, "s"]] as const;
  return parts.filter(([count]) => count > 0).map(([count, unit]) => `${count}${unit}`).join("");
}
export const formatDurationOrNull = (ms: number | null): string | null => (ms === null ? null : formatDuration(ms));

/** RFC 3339 in UTC of milliseconds since the epoch. */
export const formatTime = (ms: number): string => new Date(ms).toISOString();
export const formatTimeOrNull = (ms: number | null): string | null => (ms === null ? null : formatTime(ms));

/** Names of what users make: a DNS label. */
export function checkName(name: string): Res<string> {
  if (isLabel(name)) return ok(name);
  return fail(
    "name.invalid",
    `Cannot use the name ${JSON.stringify(name.slice(0, 2 * MAX_LABEL))}: a name is ${LABEL_WORDS}`,
    { details: { field: "name" } },
  );
}
