// Standing policies and the settings they are made of, on the wire and in the domain: compression of snapshots, the
// snapshot policy, automatic standby. What goes out, sent back, means the same.
import { type Static, Type } from "@sinclair/typebox";
import { formatAddress, maskOf, parseAddress } from "../host/network/address.ts";
import type { AutoStandbyPolicy, Compression, SnapshotPolicy } from "../host/snapshots/service.ts";
import { bad, orThrow } from "./errors.ts";
import { formatDuration, parseSpan } from "./format.ts";

/** Level where none is given, and the highest, of each algorithm; the lowest of zstd is its default. */
const LEVELS = { zstd: { min: 1, max: 19 }, lz4: { min: 0, max: 9 } } as const;
/** A policy is looked at for every connection of the host. */
const LIST_MAX = 1000;

export const CompressionSchema = Type.Object(
  {
    enabled: Type.Boolean({ description: "Whether memory is compressed once it is safely written." }),
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
  { additionalProperties: false, description: "How its snapshots are kept, unless a request says otherwise." },
);

export const AutoStandbySchema = Type.Object(
  {
    enabled: Type.Optional(Type.Boolean({ default: false, description: "Whether it goes to sleep by itself." })),
    idle_timeout: Type.Optional(Type.String({ description: "Go duration without a qualifying inbound TCP connection, after which it does; needed where enabled.", examples: ["5m"] })),
    ignore_destination_ports: Type.Optional(Type.Array(Type.Integer({ minimum: 1, maximum: 65_535 }), { maxItems: LIST_MAX, description: "TCP ports whose connections don't keep it awake." })),
    ignore_source_cidrs: Type.Optional(Type.Array(Type.String(), { maxItems: LIST_MAX, description: "IPv4 networks whose connections don't keep it awake.", examples: [["10.0.0.0/8"]] })),
    wake_on_packet: Type.Optional(Type.Boolean({ description: "Whether a TCP or UDP packet, an exec or an ingress request wakes it; as `enabled` by default. An extension." })),
  },
  { additionalProperties: false, description: "Automatic standby, by the host's connection tracking." },
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
  const { enabled = false, idle_timeout = "", ignore_destination_ports = [], ignore_source_cidrs = [], wake_on_packet = enabled } = body;
  if (enabled && idle_timeout === "") throw bad("Cannot accept field auto_standby: it is enabled, and needs idle_timeout.", "auto_standby.idle_timeout");
  return {
    enabled,
    idleTimeoutMs: idle_timeout === "" ? 0 : orThrow(parseSpan(idle_timeout, "auto_standby.idle_timeout", 1)),
    ignoreDestinationPorts: [...new Set(ignore_destination_ports)],
    ignoreSourceCidrs: [...new Set(ignore_source_cidrs.map(toCidr))],
    wakeOnPacket: wake_on_packet,
  };
}

/** In its one spelling: an address without a prefix is a network of its own, and host bits are cleared. */
function toCidr(text: string): string {
  const field = "auto_standby.ignore_source_cidrs";
  const [, address = "", length = "32"] = /^([0-9.]+)(?:\/(\d{1,2}))?$/.exec(text.trim()) ?? [];
  const parsed = parseAddress(address), prefix = Number(length);
  if (parsed === null || prefix > 32) throw bad(`Cannot accept field ${field}: each must be an IPv4 network such as 10.0.0.0/8.`, field);
  return `${formatAddress((parsed & maskOf(prefix)) >>> 0)}/${prefix}`;
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
