// Policies of automatic standby: what may be asked for, and which connections count.
import { ok } from "neverthrow";
import type { Connection } from "../../ffi/netlink/conntrack.ts";
import { fail, type Res } from "../../errors.ts";
import { contains, formatAddress, maskOf, parseAddress } from "../network/address.ts";
import type { AutoStandbyPolicy } from "../snapshots/service.ts";

/** As it comes from a request; what is absent has its default. */
export interface PolicyRequest {
  /** Off if not given. */
  readonly enabled?: boolean;
  /** Needed where it is enabled. */
  readonly idleTimeoutMs?: number;
  readonly ignoreDestinationPorts?: readonly number[];
  readonly ignoreSourceCidrs?: readonly string[];
  /** As `enabled` if not given. */
  readonly wakeOnPacket?: boolean;
}

const LONGEST_MS = 10 * 365 * 24 * 3600_000; // beyond it sums of times would stop being dates
/** Each is compared with each connection at each look. */
export const MOST_ENTRIES = 256;

const refuse = (field: string, message: string) => fail("request.bad", message, { details: { field: `auto_standby.${field}` } });

/** The policy in its canonical form: lists sorted, without doubles. `request.bad` says which value is wrong. */
export function checkPolicy(request: PolicyRequest): Res<AutoStandbyPolicy> {
  const { enabled = false, idleTimeoutMs, ignoreDestinationPorts: ports = [], ignoreSourceCidrs: cidrs = [], wakeOnPacket = enabled } = request;
  if (enabled && idleTimeoutMs === undefined) return refuse("idle_timeout", "Cannot enable automatic standby without auto_standby.idle_timeout: give one, like 5m");
  if (idleTimeoutMs !== undefined && !(Number.isFinite(idleTimeoutMs) && idleTimeoutMs >= 1 && idleTimeoutMs <= LONGEST_MS))
    return refuse("idle_timeout", "Cannot use auto_standby.idle_timeout: it must be at least 1ms and at most ten years");
  for (const [field, { length }] of [["ignore_destination_ports", ports], ["ignore_source_cidrs", cidrs]] as const)
    if (length > MOST_ENTRIES) return refuse(field, `Cannot use more than ${MOST_ENTRIES} entries in auto_standby.${field}`);
  const wrong = ports.find((port) => !Number.isInteger(port) || port < 1 || port > 0xffff);
  if (wrong !== undefined) return refuse("ignore_destination_ports", `Cannot use ${wrong} in auto_standby.ignore_destination_ports: ports are 1 to 65535`);
  const networks: string[] = [];
  for (const cidr of cidrs) {
    const network = canonical(cidr);
    if (network === null) return refuse("ignore_source_cidrs", `Cannot use ${JSON.stringify(cidr)} in auto_standby.ignore_source_cidrs: it is not an IPv4 network like 10.0.0.0/8`);
    networks.push(network);
  }
  return ok({
    enabled, idleTimeoutMs: Math.round(idleTimeoutMs ?? 0), wakeOnPacket,
    ignoreDestinationPorts: [...new Set(ports)].sort((a, b) => a - b), ignoreSourceCidrs: [...new Set(networks)].sort(),
  });
}

interface Network { readonly base: number; readonly prefix: number }

function parseNetwork(text: string): Network | null {
  const [address = "", length = "", ...rest] = text.split("/");
  const number = parseAddress(address), prefix = Number(length);
  if (number === null || rest.length > 0 || !/^\d{1,2}$/.test(length) || prefix > 32) return null;
  return { base: (number & maskOf(prefix)) >>> 0, prefix };
}

function canonical(text: string): string | null {
  const network = parseNetwork(text);
  return network && `${formatAddress(network.base)}/${network.prefix}`;
}

/**
 * Whether a connection to the guest keeps it awake. The port is the one that the guest listens on, also where its
 * client asked for a published port of the host.
 */
export function counts(policy: AutoStandbyPolicy): (connection: Connection) => boolean {
  const networks = policy.ignoreSourceCidrs.map(parseNetwork).filter((network) => network !== null);
  return ({ original, reply }) => !policy.ignoreDestinationPorts.includes(reply.sourcePort) && !networks.some(({ base, prefix }) => contains(base, prefix, original.source));
}
