// What all instances share on the host: the gateway address on `lo`, and a route that keeps packets for nobody's
// address from leaving by the default route. Also finds what of the host's own network a range would collide with.
import { RTNL } from "../../ffi/abi/rtnetlink.ts";
import type { RouteSocket } from "../../ffi/netlink/route.ts";
import { ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";
import { formatAddress, overlap, TAP_PREFIX, type Range } from "./address.ts";

/** Marks routes as ours (rtm_protocol; /etc/iproute2/rt_protos has no name for it). */
export const ROUTE_PROTOCOL = 208;
/** An address of the range that has no TAP; any other route of the same prefix would win over this metric. */
const UNREACHABLE_METRIC = 0xffff_0000;

const unreachable = (range: Range) => ({ destination: range.base, prefix: range.prefix, protocol: ROUTE_PROTOCOL, metric: UNREACHABLE_METRIC });

/** Idempotent. */
export function addShared(route: RouteSocket, range: Range): Res<void> {
  const lo = route.link("lo");
  if (lo === null || !lo.up) return fail("host.network", "Cannot start the network: the loopback interface is down; bring it up with `ip link set lo up`");
  route.addAddress(range.gateway, 32, lo.index);
  route.setRoute(unreachable(range));
  return ok();
}

/** Idempotent. */
export function removeShared(route: RouteSocket, range: Range): void {
  const lo = route.link("lo");
  if (lo !== null) route.deleteAddress(range.gateway, 32, lo.index);
  route.deleteRoute(unreachable(range));
}

/** Refuses a range in which the host has an address or a route already, and says which. */
export function refuseOverlap(route: RouteSocket, range: Range): Res<void> {
  const names = new Map(route.links().map((link) => [link.index, link.name]));
  const nameOf = (index: number) => names.get(index) ?? "no interface";
  const refuse = (what: string) =>
    fail("host.network", `Cannot use ${range.text} for guests: it overlaps ${what}; choose another with --range, like 10.89.0.0/16`, { details: { range: range.text } });
  for (const a of route.addresses()) {
    const ours = nameOf(a.link).startsWith(TAP_PREFIX) || (nameOf(a.link) === "lo" && a.address === range.gateway && a.prefix === 32);
    // A host with 10.0.0.5/8 reaches our range by that interface: the whole prefix counts, not only the address.
    if (!ours && overlap(range, { base: a.address, prefix: a.prefix })) return refuse(`the host's address ${formatAddress(a.address)}/${a.prefix} on ${nameOf(a.link)}`);
  }
  for (const r of route.routes()) {
    const ours = r.protocol === ROUTE_PROTOCOL || nameOf(r.link).startsWith(TAP_PREFIX);
    // Default routes overlap everything; VPNs write them as two halves. Addresses (table local) were seen above.
    if (ours || r.prefix <= 1 || r.table === RTNL.RT_TABLE_LOCAL) continue;
    if (overlap(range, { base: r.destination, prefix: r.prefix })) return refuse(`the host's route to ${formatAddress(r.destination)}/${r.prefix} by ${nameOf(r.link)}`);
  }
  return ok();
}
