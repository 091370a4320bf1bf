// What the commands print: whole writes, tables for people, JSON for programs, ages and sizes that read well.
import { writeSync } from "node:fs";
import { Epoll, EPOLLOUT } from "../ffi/epoll.ts";

/**
 * Writes all of it before it returns: a slow reader stops us (and, over the socket, the daemon) instead of filling
 * memory. Throws EPIPE where nobody reads.
 */
export function writeAll(fd: number, data: string | Uint8Array): void {
  const bytes = typeof data === "string" ? Buffer.from(data) : data;
  for (let done = 0; done < bytes.length; ) {
    try {
      done += writeSync(fd, bytes, done, bytes.length - done);
    } catch (cause) {
      // Whoever shares our terminal or pipe may have made it non-blocking.
      if ((cause as NodeJS.ErrnoException).code !== "EAGAIN") throw cause;
      waitWritable(fd);
    }
  }
}

function waitWritable(fd: number): void {
  const epoll = new Epoll();
  try {
    epoll.add(fd, EPOLLOUT, () => {});
    epoll.poll();
  } finally {
    epoll.close();
  }
}

export const print = (text: string): void => writeAll(1, `${text}\n`);
export const printJson = (value: unknown): void => print(JSON.stringify(value, null, 2));
/** For people beside the result: stderr. */
export const note = (text: string): void => writeAll(2, `${text}\n`);

/** Columns as wide as their widest cell, two spaces apart; control characters of foreign text are shown, not obeyed. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [head, ...rows].map((row) => row.map(plain));
  const widths = head.map((_, column) => Math.max(...lines.map((row) => Bun.stringWidth(row[column] ?? ""))));
  const line = (row: readonly string[]) =>
    row.map((cell, column) => cell + " ".repeat((widths[column] ?? 0) - Bun.stringWidth(cell))).join("  ").trimEnd();
  return lines.map(line).join("\n");
}

/** The start of a long reason, for a table; `inspect` has all of it. */
export const shorten = (text: string): string => (text.length <= REASON_LENGTH ? text : `${text.slice(0, REASON_LENGTH - 1)}…`);
const REASON_LENGTH = 60;

/** Text from elsewhere (names, messages of guests and registries) on one line, unable to move a terminal's cursor. */
export const plain = (text: string): string =>
  text.replace(/[\x00-\x1f\x7f-\x9f]/g, (c) => (c === "\n" || c === "\t" ? " " : `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`));

const UNITS = ["B", "KB", "MB", "GB", "TB", "PB"] as const;

/** Bytes in decimal units with three significant digits: `142MB`, `1.05GB`. */
export function bytes(count: number): string {
  let value = count, unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) { value /= 1000; unit++; }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)}${UNITS[unit]}`;
}

const SPANS = [["year", 365 * 86400], ["month", 30 * 86400], ["week", 7 * 86400], ["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]] as const;

/** The largest whole unit of a time span: `3 minutes`. */
export function span(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  for (const [name, length] of SPANS) {
    const count = Math.floor(seconds / length);
    if (count >= 1) return `${count} ${name}${count === 1 ? "" : "s"}`;
  }
  return "less than a second";
}

/** `3 minutes ago` for an RFC 3339 time. */
export const ago = (time: string, now = Date.now()): string => `${span(now - Date.parse(time))} ago`;

/** What is left until an RFC 3339 time, to the second, as durations are given: `4m59s`. */
export function left(time: string, now = Date.now()): string {
  const seconds = Math.max(0, Math.ceil((Date.parse(time) - now) / 1000));
  const parts = [[Math.floor(seconds / 3600), "h"], [Math.floor(seconds / 60) % 60, "m"], [seconds % 60, "s"]] as const;
  return parts.filter(([count]) => count > 0).map(([count, unit]) => `${count}${unit}`).join("") || "0s";
}
