// The one nftables table of ours, `ip dormouse`. Its number of rules does not grow with the number of instances: what
// differs from one to another is in the sets `guests` (TAP and address) and `closed`, and the map `published` (port to guest).
import { CT_STATE } from "../../ffi/netlink/expressions.ts";
import * as x from "../../ffi/netlink/expressions.ts";
import { NF } from "../../ffi/abi/netfilter.ts";
import type { Expression } from "../../ffi/netlink/expressions.ts";
import { be32, type Message } from "../../ffi/netlink/message.ts";
import { TableMessages, type Element } from "../../ffi/netlink/nftables.ts";
import { parseAddress, TAP_PREFIX, type Range } from "./address.ts";
import type { Published } from "./leases.ts";
import type { Lease } from "./service.ts";

export const TABLE = "dormouse";
export const GUESTS = "guests", PUBLISHED = "published", CLOSED = "closed";

// Priorities of the kernel (linux/netfilter_ipv4.h): RAW is before connection tracking.
const RAW = -300, DSTNAT = -100, FILTER = 0, SRCNAT = 100;
// How `nft list` names and prints keys (its datatype.h); 6 bits for each part.
const IPV4_ADDR = 7, INET_PROTO = 12, INET_SERVICE = 13, IFNAME = 41;
const pair = (first: number, second: number) => (first << 6) | second;
export const IPPROTO = { tcp: 6, udp: 17 } as const;
const DNS_PORT = 53;
const LOOPBACK = { base: 0x7f000000, prefix: 8 };

const fromGuest = () => x.interfaceIs("in", TAP_PREFIX);
const notFromGuest = () => x.interfaceIs("in", TAP_PREFIX, false);
const toGuest = () => x.interfaceIs("out", TAP_PREFIX);
const notToGuest = () => x.interfaceIs("out", TAP_PREFIX, false);

export const guestElement = (lease: Pick<Lease, "tap" | "ip">): Element => ({ key: guestKey(lease) });
function guestKey(lease: Pick<Lease, "tap" | "ip">): Uint8Array {
  const key = new Uint8Array(20);
  key.set(x.interfaceBytes(lease.tap));
  new DataView(key.buffer).setUint32(16, parseAddress(lease.ip) ?? 0);
  return key;
}
export const publishedElement = (port: Published): Element =>
  ({ key: x.portKey(IPPROTO[port.protocol], port.hostPort), data: x.portTarget(port.ip, port.guestPort) });

export const closedElement = (ip: string): Element => ({ key: be32(parseAddress(ip) ?? 0) });

export interface RulesetOptions {
  readonly range: Range;
  readonly guestToGuest: boolean;
  readonly leases: readonly Lease[];
  readonly published: readonly Published[];
  /** Addresses of guests that sleep and must not be woken. */
  readonly closed: readonly string[];
}

/** Replaces the table, or makes it: one transaction, in which no packet ever meets half of it. Connections go on. */
export function replaceTable(options: RulesetOptions): Message[] {
  const t = new TableMessages(TABLE);
  return [
    t.add(), t.delete(), t.add(), // deleting what may not be there would fail
    t.set(GUESTS, { keyType: pair(IFNAME, IPV4_ADDR), keyLength: 20 }),
    t.set(PUBLISHED, { keyType: pair(INET_PROTO, INET_SERVICE), keyLength: 8, dataType: pair(IPV4_ADDR, INET_SERVICE), dataLength: 8 }),
    t.set(CLOSED, { keyType: IPV4_ADDR, keyLength: 4 }),
    ...t.addElements(GUESTS, options.leases.map(guestElement)),
    ...t.addElements(PUBLISHED, options.published.map(publishedElement)),
    ...t.addElements(CLOSED, options.closed.map(closedElement)),
    ...spoofing(t, options.range), ...input(t, options.range), ...forward(t, options.guestToGuest), ...output(t), ...nat(t, options.range),
  ];
}

/** Before connection tracking, so that a forged packet leaves no trace in it either. */
function spoofing(t: TableMessages, range: Range): Message[] {
  const chain = "spoofing";
  return [
    t.chain(chain, { type: "filter", hook: NF.NF_INET_PRE_ROUTING, priority: RAW }),
    t.rule(chain, "a guest may use its own address only", ...fromGuest(), ...x.interfaceAndSourceIn("in", GUESTS, false), ...x.drop()),
    // route_localnet is on for TAPs, which opens this door; only what comes back to the host's 127.0.0.1 is rewritten to it later.
    t.rule(chain, "loopback services are not for guests", ...fromGuest(), ...x.addressIn("daddr", LOOPBACK.base, LOOPBACK.prefix), ...x.drop()),
    t.rule(chain, "guests' addresses come from guests only", ...notFromGuest(), ...x.interfaceNamed("in", "lo", false),
      ...x.addressIn("saddr", range.base, range.prefix), ...x.drop()),
  ];
}

/** What guests may reach of the host: its gateway address, and its resolver on any of its addresses. */
function input(t: TableMessages, range: Range): Message[] {
  const chain = "input";
  const dns = (protocol: number) => t.rule(chain, "the host's resolver", ...x.protocolIs(protocol), ...x.destinationPortIs(DNS_PORT), ...x.accept());
  return [
    t.chain(chain, { type: "filter", hook: NF.NF_INET_LOCAL_IN, priority: FILTER }),
    t.rule(chain, "not about guests", ...notFromGuest(), ...x.accept()),
    t.rule(chain, "answers to the host", ...x.connectionState(CT_STATE.ESTABLISHED | CT_STATE.RELATED), ...x.accept()),
    t.rule(chain, "the gateway address", ...x.addressIn("daddr", range.gateway, 32), ...x.accept()),
    dns(IPPROTO.udp), dns(IPPROTO.tcp),
    t.rule(chain, "the host's other addresses", ...x.reject()),
  ];
}

function forward(t: TableMessages, guestToGuest: boolean): Message[] {
  const chain = "forward";
  return [
    t.chain(chain, { type: "filter", hook: NF.NF_INET_FORWARD, priority: FILTER }),
    t.rule(chain, "not about guests", ...notFromGuest(), ...notToGuest(), ...x.accept()),
    t.rule(chain, "known connections", ...x.connectionState(CT_STATE.ESTABLISHED | CT_STATE.RELATED), ...x.accept()),
    t.rule(chain, "would leave with a guest's address", ...x.connectionState(CT_STATE.INVALID), ...x.drop()),
    ...closed(t, chain, ...toGuest(), ...x.wasPublished()),
    t.rule(chain, "published ports", ...toGuest(), ...x.wasPublished(), ...x.accept()),
    ...(guestToGuest ? closed(t, chain, ...fromGuest(), ...toGuest()) : []),
    t.rule(chain, "from guest to guest", ...fromGuest(), ...toGuest(), ...(guestToGuest ? x.accept() : x.reject())),
    t.rule(chain, "from guest to the outside", ...fromGuest(), ...x.accept()),
    t.rule(chain, "from the outside, to no published port", ...toGuest(), ...x.drop()),
  ];
}

/** Whoever may reach a guest that sleeps and must not be woken is answered as by a closed port. */
function closed(t: TableMessages, chain: string, ...whose: Expression[]): Message[] {
  const what = "a guest that sleeps and is not to be woken", to = [...whose, ...x.addressInSet("daddr", CLOSED)];
  return [t.rule(chain, what, ...to, ...x.refuseTcp()), t.rule(chain, what, ...to, ...x.refuseUdp())];
}

/** From the host itself. By destination only: the link that a rewritten packet will leave by is not known here yet. */
function output(t: TableMessages): Message[] {
  const chain = "output";
  return [
    t.chain(chain, { type: "filter", hook: NF.NF_INET_LOCAL_OUT, priority: FILTER }),
    ...closed(t, chain, ...x.connectionState(CT_STATE.NEW)),
  ];
}

function nat(t: TableMessages, range: Range): Message[] {
  const rule = (chain: string) => t.rule(chain, "published ports", ...x.toLocalAddress(), ...x.destinationByMap(PUBLISHED));
  return [
    t.chain("dstnat", { type: "nat", hook: NF.NF_INET_PRE_ROUTING, priority: DSTNAT }),
    rule("dstnat"),
    t.chain("dstnat_host", { type: "nat", hook: NF.NF_INET_LOCAL_OUT, priority: DSTNAT }),
    rule("dstnat_host"),
    t.chain("srcnat", { type: "nat", hook: NF.NF_INET_POST_ROUTING, priority: SRCNAT }),
    t.rule("srcnat", "guests to the outside", ...notToGuest(), ...x.addressIn("saddr", range.base, range.prefix),
      ...x.addressIn("saddr", range.gateway, 32, false), ...x.masquerade()),
    // A guest would drop a packet from 127.0.0.1, or from itself.
    t.rule("srcnat", "the host by 127.0.0.1 to a published port", ...toGuest(), ...x.addressIn("saddr", LOOPBACK.base, LOOPBACK.prefix), ...x.sourceTo(range.gateway)),
    t.rule("srcnat", "a guest to its own published port", ...x.interfaceAndSourceIn("out", GUESTS), ...x.sourceTo(range.gateway)),
  ];
}
