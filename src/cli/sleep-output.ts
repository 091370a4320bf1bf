// How sleeping, forks and snapshots read.
import type { AutoStandbyStatus, Instance, Schedule, Snapshot } from "./api.ts";
import { ago, bytes, left, plain, shorten, table } from "./output.ts";

/** What a fork prints: its id, as `run -d` does. */
export const forkLine = ({ id }: Instance): string => id;

const REASONS: Readonly<Record<string, string>> = {
  unsupported_platform: "this host shows no connections",
  policy_missing: "it has no policy; set one with `dormouse update --auto-standby 5m NAME`",
  policy_disabled: "its policy is disabled",
  instance_not_running: "it does not run",
  network_disabled: "it has no network",
  missing_ip: "it has no address yet",
  has_vgpu: "it has a GPU",
  active_inbound_connections: "it is in use, or was a moment ago: connections, sessions, or requests through an ingress",
  idle_timeout_not_elapsed: "it has not been idle for long enough",
  observer_error: "connections can't be seen; the daemon's log says why",
  ready_for_standby: "nothing keeps it awake",
};

export function status(now: AutoStandbyStatus): string {
  const rows: [string, string | null | undefined][] = [
    ["status", now.status.replaceAll("_", " ")],
    ["because", REASONS[now.reason] ?? now.reason],
    ["connections", String(now.active_inbound_connections)],
    ["idle time", now.idle_timeout],
    ["idle since", now.idle_since && ago(now.idle_since)],
    ["sleeps in", now.next_standby_at && left(now.next_standby_at)],
    ["held for", now.hold_until && left(now.hold_until)],
  ];
  return table(["WHAT", "NOW"], rows.filter((row): row is [string, string] => typeof row[1] === "string"));
}

const SHORT_ID = 12;

export const snapshotTable = (snapshots: readonly Snapshot[]): string =>
  table(
    ["ID", "NAME", "KIND", "OF", "CREATED", "SIZE", "COMPRESSION"],
    snapshots.map((one) => [one.id.slice(0, SHORT_ID), one.name ?? "", one.kind, one.source_instance_name, ago(one.created_at), bytes(one.size_bytes), compressed(one)]),
  );

function compressed({ compression_state, compression_error, compression }: Snapshot): string {
  if (compression_state === "error") return shorten(`failed: ${compression_error ?? "unknown"}`);
  return compression_state === "none" || compression_state === undefined ? "" : `${compression?.algorithm ?? ""} ${compression_state}`.trim();
}

export function schedule(one: Schedule, now = Date.now()): string {
  const { max_count, max_age } = one.retention;
  const rows = [
    ["every", one.interval],
    ["keeps", [max_count === undefined ? "" : `the newest ${max_count}`, max_age === undefined ? "" : `none older than ${max_age}`].filter(Boolean).join(", ")],
    ...(one.name_prefix ? [["names", `${one.name_prefix}-…`]] : []),
    ["next", `in ${left(one.next_run_at, now)}`],
    ["last", one.last_run_at == null ? "never" : ago(one.last_run_at, now)],
    ...(one.last_error ? [["failed", plain(one.last_error)]] : []),
  ];
  return table(["WHAT", "IS"], rows);
}
