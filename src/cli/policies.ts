// Options that `run`, `update`, `standby` and `snapshot` share: automatic standby, waking, compression, tags.
import { type Command, InvalidArgumentError } from "commander";
import type { AutoStandby, Compression } from "./api.ts";
import { collect, wholeNumber } from "./command.ts";
import { usage } from "./fail.ts";

export interface AutoStandbyFlags {
  /** A duration; false by `--no-auto-standby`. */
  autoStandby?: string | false;
  ignorePort?: number[];
  ignoreSource?: string[];
  /** Set by `--wake` or `--no-wake` only. */
  wake?: boolean;
}

const DURATION = /^(?:\d+(?:\.\d+)?(?:ms|s|m|h))+$/;

/** As Go writes them, and the API takes them. */
export function duration(text: string): string {
  if (!DURATION.test(text)) throw new InvalidArgumentError("It must be a duration such as 30s, 5m or 1h30m.");
  return text;
}

const port = wholeNumber(1, 65_535);

/** The options of a policy; `--no-auto-standby` only where there may be one already. */
export function addAutoStandbyOptions(command: Command, mayBeThere: boolean): Command {
  command.option("--auto-standby <idle>", "go to sleep after so long without a connection, such as 5m", duration);
  if (mayBeThere) command.option("--no-auto-standby", "never go to sleep by itself");
  return command
    .option("--ignore-port <port>", "connections to this port of the guest don't keep it awake; repeats", (text, before: readonly number[] = []) => [...before, port(text)])
    .option("--ignore-source <network>", "connections from this network (such as 10.0.0.0/8) don't keep it awake; repeats", collect)
    .option("--wake", "requests and packets wake it (default with --auto-standby)")
    .option("--no-wake", "only `dormouse restore` wakes it");
}

/**
 * The policy that `flags` ask for over the one that is there; undefined where they say nothing of it. Whether it is enabled decides
 * over waking again, unless --wake or --no-wake does.
 */
export function autoStandbyOf(flags: AutoStandbyFlags, before: AutoStandby | undefined): AutoStandby | undefined {
  const { autoStandby, ignorePort, ignoreSource, wake } = flags;
  if (autoStandby === undefined && ignorePort === undefined && ignoreSource === undefined && wake === undefined) return undefined;
  const { wake_on_packet, ...kept } = before ?? {};
  const waking = wake ?? (autoStandby === undefined ? wake_on_packet : undefined);
  const policy: AutoStandby = {
    ...kept,
    ...(autoStandby === undefined ? {} : { enabled: autoStandby !== false, ...(autoStandby === false ? {} : { idle_timeout: autoStandby }) }),
    ...(ignorePort === undefined ? {} : { ignore_destination_ports: ignorePort }),
    ...(ignoreSource === undefined ? {} : { ignore_source_cidrs: ignoreSource }),
    ...(waking === undefined ? {} : { wake_on_packet: waking }),
  };
  if (policy.enabled !== true && (ignorePort !== undefined || ignoreSource !== undefined)) throw usage("Cannot use --ignore-port or --ignore-source: it does not go to sleep by itself; add --auto-standby with a duration");
  return policy;
}

/** `zstd`, `zstd:3`, `lz4`, `none`. */
export function compression(text: string): Compression {
  if (text === "none") return { enabled: false };
  const match = /^(zstd|lz4)(?::(\d+))?$/.exec(text);
  if (match === null) throw new InvalidArgumentError("It must be zstd, lz4 or none, with a level where wanted: zstd:3.");
  return { enabled: true, algorithm: match[1] as "zstd" | "lz4", ...(match[2] === undefined ? {} : { level: Number(match[2]) }) };
}

export const COMPRESSION_HELP = "compress its memory afterwards: zstd[:1-19], lz4[:0-9] or none";

/** `-t team=web`, repeated. */
export function tag(text: string, before: Readonly<Record<string, string>> = {}): Record<string, string> {
  const at = text.indexOf("=");
  if (at < 1) throw new InvalidArgumentError("It must be KEY=VALUE.");
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) };
}
