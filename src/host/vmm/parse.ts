// What a VMM says, checked: it runs a tenant's guest, so the daemon believes no shape that it has not looked at.
import type { EndReason, GuestState, Method, Methods, RestoreResult, SaveResult, VmmStats, VmmStatus } from "../../vmm/protocol.ts";

const STATES: readonly GuestState[] = ["created", "initializing", "running", "paused", "ended"];
const REASONS: readonly EndReason[] = ["exited", "restart", "panic", "reset", "triple-fault", "killed", "internal"];
/** What the record keeps of a message; a VMM cuts at the same length. */
const MAX_MESSAGE = 4096;

type Json = Readonly<Record<string, unknown>>;

export const asObject = (value: unknown): Json | null => (typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : null);

const isTime = (value: unknown): value is number | null => value === null || (typeof value === "number" && Number.isFinite(value));
const isCount = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value) && value >= 0;
const oneOf = <T extends string>(list: readonly T[], value: unknown): value is T => list.includes(value as T);

/** A status, or null where it is none. */
export function parseStatus(value: unknown): VmmStatus | null {
  const it = asObject(value);
  if (it === null || !oneOf(STATES, it["state"])) return null;
  const { bootedAt, runningAt, endedAt, reason, exitCode, exitMessage } = it;
  if (!isTime(bootedAt) || !isTime(runningAt) || !isTime(endedAt)) return null;
  if (reason !== null && !oneOf(REASONS, reason)) return null;
  if (exitCode !== null && !(Number.isInteger(exitCode) && (exitCode as number) >= 0 && (exitCode as number) <= 255)) return null;
  if (exitMessage !== null && typeof exitMessage !== "string") return null;
  return { state: it["state"], bootedAt, runningAt, endedAt, reason, exitCode: exitCode as number | null, exitMessage: exitMessage?.slice(0, MAX_MESSAGE) ?? null };
}

export function parseStats(value: unknown): VmmStats | null {
  const it = asObject(value);
  if (it === null || !isCount(it["cpuSeconds"]) || !isCount(it["exits"]) || !Array.isArray(it["disks"])) return null;
  const disks = it["disks"].map((disk: unknown) => counts(disk, ["readBytes", "writtenBytes", "reads", "writes"]));
  const net = it["net"] === null ? null : counts(it["net"], ["rxBytes", "txBytes", "rxPackets", "txPackets"]);
  if (disks.includes(null) || (net === null && it["net"] !== null)) return null;
  return { cpuSeconds: it["cpuSeconds"], exits: it["exits"], disks: disks.filter((disk) => disk !== null), net };
}

function counts<K extends string>(value: unknown, keys: readonly K[]): Record<K, number> | null {
  const it = asObject(value);
  const result = {} as Record<K, number>;
  for (const key of keys) {
    const count = it?.[key];
    if (!isCount(count)) return null;
    result[key] = count;
  }
  return result;
}

/** What the host could not do for disk `disk` of the machine. */
export interface DiskFailure { readonly disk: number; readonly errno: number }

export function parseDiskFailure(value: unknown): DiskFailure | null {
  const it = counts(value, ["disk", "errno"]);
  return it !== null && Number.isInteger(it.disk) && Number.isInteger(it.errno) ? it : null;
}

function parseSaveResult(value: unknown): SaveResult | null {
  return counts(value, ["dataBytes", "zeroPages", "pausedMs"]);
}

function parseRestoreResult(value: unknown): RestoreResult | null {
  const it = asObject(value);
  const status = parseStatus(it?.["status"]), stepsMs = counts(it?.["stepsMs"], ["load", "machine", "run", "acknowledged"]), runsSinceMs = it?.["runsSinceMs"];
  return status === null || stepsMs === null || !isCount(runsSinceMs) ? null : { status, stepsMs, runsSinceMs };
}

const nothing = (value: unknown): null | undefined => (value === null || value === undefined ? null : undefined);
const status = (value: unknown) => parseStatus(value) ?? undefined;

/** For each method, its result checked; undefined where it is not one. */
export const RESULTS: { readonly [M in Method]: (value: unknown) => Methods[M]["result"] | undefined } = {
  prepare: nothing,
  boot: status,
  status,
  stats: (value) => parseStats(value) ?? undefined,
  pause: status,
  resume: status,
  save: (value) => parseSaveResult(value) ?? undefined,
  cancelSave: nothing,
  load: nothing,
  restore: (value) => parseRestoreResult(value) ?? undefined,
  release: status,
  tap: nothing,
  addLayer: nothing,
  shutdown: status,
  kill: nothing,
  vsock: nothing,
};
