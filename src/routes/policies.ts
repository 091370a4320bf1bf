// Standing policies and the settings they are made of, on the wire and in the domain: compression of snapshots, the
// snapshot policy, automatic standby. What goes out, sent back, means the same.
import { type Static, Type } from "@sinclair/typebox";
import type { AutoStandbyPolicy, Compression, SnapshotPolicy } from "../host/snapshots/service.ts";
import { checkPolicy, MOST_ENTRIES } from "../host/standby/policy.ts";
import { bad, orThrow } from "./errors.ts";
import { formatDuration, parseSpan } from "./format.ts";

/** Level where none is given, and the highest, of each algorithm; the lowest of zstd is its default. */
const LEVELS = { zstd: { min: 1, max: 19 }, lz4: { min: 0, max: 9 } } as const;

export const CompressionSchema = Type.Object(
  {
    enabled: Type.Boolean({ description: "Whether saved memory is compressed, in the background, once it is safely written: less disk, a slower wake." }),
    algorithm: Type.Optional(Type.Union([Type.Literal("zstd"), Type.Literal("lz4")], { default: "zstd" })),
    level: Type.Optional(Type.Integer({ description: "zstd 1 to 19 (1 by default), lz4 0 to 9 (0 by default)." })),
  },
  { additionalProperties: false, description: "Without `enabled`, algorithm and level mean nothing." },
);

export const SnapshotPolicySchema = Type.Object(
  {
    compression: Type.Optional(CompressionSchema),
    standby_compression_delay: Type.Optional(Type.String({ description: "Go duration from a standby to its compression; at once by default.", examples: ["30s"] })),
  },
  { additionalProperties: false, description: "How its saved memory is kept, of standbys and snapshots, unless a request says otherwise." },
);

export const AutoStandbySchema = Type.Object(
  {
    enabled: Type.Optional(Type.Boolean({ default: false, description: "Whether it goes to sleep by itself, and, unless `wake_on_packet` says otherwise, wakes by itself." })),
    idle_timeout: Type.Optional(Type.String({ description: "Go duration without an open TCP connection from outside, exec session or ingress request, after which it does; needed where enabled.", examples: ["5m"] })),
    ignore_destination_ports: Type.Optional(Type.Array(Type.Integer({ minimum: 1, maximum: 65_535 }), { maxItems: MOST_ENTRIES, description: "TCP ports that the guest listens on (not those published on the host) whose connections don't keep it awake; a new one wakes it all the same." })),
    ignore_source_cidrs: Type.Optional(Type.Array(Type.String(), { maxItems: MOST_ENTRIES, description: "IPv4 networks whose connections don't keep it awake; a new one wakes it all the same.", examples: [["10.0.0.0/8"]] })),
    wake_on_packet: Type.Optional(Type.Boolean({ description: "Whether a new TCP connection, a UDP packet, an exec or an ingress request wakes it when it sleeps, however it came to that; as `enabled` by default. Where not, it answers as a closed port, and only `restore` wakes it. An extension." })),
  },
  { additionalProperties: false, description: "When it goes to sleep by itself, and whether it wakes by itself. Who is connected is seen by the host's connection tracking. Without it the instance does neither." },
);

/** `prefix` is where `body` stands in the request, for messages. */
export function toCompression({ enabled, algorithm = "zstd", level }: Static<typeof CompressionSchema>, prefix = "compression"): Compression {
  if (!enabled) return { enabled: false };
  const { min, max } = LEVELS[algorithm];
  const chosen = level ?? min;
  if (chosen < min || chosen > max) throw bad(`Cannot accept field ${prefix}.level: ${algorithm} has levels ${min} to ${max}.`, `${prefix}.level`);
  return { enabled: true, algorithm, level: chosen };
}

/** Null where nothing is set by it. */
export function toSnapshotPolicy(body: Static<typeof SnapshotPolicySchema> | null | undefined): SnapshotPolicy | null {
  if (body == null) return null;
  const compression = body.compression === undefined ? null : toCompression(body.compression, "snapshot_policy.compression");
  const delay = body.standby_compression_delay;
  const standbyCompressionDelayMs = delay === undefined || delay === "" ? null : orThrow(parseSpan(delay, "snapshot_policy.standby_compression_delay", 0));
  return compression === null && standbyCompressionDelayMs === null ? null : { compression, standbyCompressionDelayMs };
}

/** The whole policy: what is left out has its default, whatever the instance had before. */
export function toAutoStandby(body: Static<typeof AutoStandbySchema> | null | undefined): AutoStandbyPolicy | null {
  if (body == null) return null;
  const { enabled, idle_timeout = "", ignore_destination_ports, ignore_source_cidrs, wake_on_packet } = body;
  return orThrow(checkPolicy({
    ...(enabled === undefined ? {} : { enabled }),
    ...(idle_timeout === "" ? {} : { idleTimeoutMs: orThrow(parseSpan(idle_timeout, "auto_standby.idle_timeout", 1)) }),
    ...(ignore_destination_ports === undefined ? {} : { ignoreDestinationPorts: ignore_destination_ports }),
    ...(ignore_source_cidrs === undefined ? {} : { ignoreSourceCidrs: ignore_source_cidrs }),
    ...(wake_on_packet === undefined ? {} : { wakeOnPacket: wake_on_packet }),
  }));
}

export const compressionView = (compression: Compression) =>
  compression.enabled ? { enabled: true, algorithm: compression.algorithm, level: compression.level } : { enabled: false };

export const snapshotPolicyView = ({ compression, standbyCompressionDelayMs }: SnapshotPolicy) => ({
  ...(compression === null ? {} : { compression: compressionView(compression) }),
  ...(standbyCompressionDelayMs === null ? {} : { standby_compression_delay: formatDuration(standbyCompressionDelayMs) }),
});

export const autoStandbyView = (policy: AutoStandbyPolicy) => ({
  enabled: policy.enabled,
  ...(policy.idleTimeoutMs === 0 ? {} : { idle_timeout: formatDuration(policy.idleTimeoutMs) }),
  ignore_destination_ports: policy.ignoreDestinationPorts,
  ignore_source_cidrs: policy.ignoreSourceCidrs,
  wake_on_packet: policy.wakeOnPacket,
});
