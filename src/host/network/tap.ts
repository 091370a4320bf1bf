// A guest's link on the host: one TAP, routed. It carries no address; the gateway address is on `lo`.
import { E } from "../../ffi/abi/errno.ts";
import { closeFd } from "../../ffi/fd.ts";
import type { Link, RouteSocket } from "../../ffi/netlink/route.ts";
import { SysError } from "../../ffi/syscall.ts";
import { openTapDevice, tapName } from "../../ffi/tun.ts";
import { ok } from "neverthrow";
import { DormouseError, fail, messageOf, type Res } from "../../errors.ts";
import { HOST_MAC, macBytes, parseAddress, TAP_PREFIX } from "./address.ts";
import type { Lease } from "./service.ts";
import { ROUTE_PROTOCOL } from "./shared.ts";
import { readSysctl, writeSysctl } from "./sysctl.ts";

/** Settings of each TAP, and why. */
const SETTINGS: readonly (readonly [name: string, value: string])[] = [
  ["ipv4/conf/*/rp_filter", "1"], // a source that is not reached by this link is forged
  ["ipv4/conf/*/forwarding", "1"],
  ["ipv4/conf/*/proxy_arp", "1"], // a guest that believes in a wider network than its /32 still finds the host for all of it
  ["ipv4/conf/*/route_localnet", "1"], // the host may reach published ports by 127.0.0.1; the rules keep guests out of 127.0.0.0/8
  ["ipv4/conf/*/send_redirects", "0"], // a guest's packet to its own published port goes back by the link that it came from
  ["ipv4/conf/*/accept_redirects", "0"],
  ["ipv4/conf/*/accept_source_route", "0"],
  ["ipv6/conf/*/disable_ipv6", "1"], // absent where the kernel has no IPv6
];

/** Creates the TAP (or finds it where nobody has it open) and all that belongs to it; its descriptor is the caller's. */
export function openGuestTap(route: RouteSocket, lease: Lease): Res<number> {
  let fd: number;
  try {
    fd = openTapDevice(lease.tap);
  } catch (error) {
    return fail("host.network", explain(error, lease), { cause: error });
  }
  try {
    const link = route.link(lease.tap);
    if (link === null) throw new DormouseError("host.network", `Cannot set up ${lease.tap}: it disappeared while it was being made`);
    configure(route, lease, link);
    return ok(fd);
  } catch (error) {
    closeFd(fd); // and with it the TAP
    throw error;
  }
}

/** Checks that `fd` is the instance's TAP, and brings that to the state that it should be in. */
export function adoptGuestTap(route: RouteSocket, lease: Lease, fd: number): Res<void> {
  const what = `Cannot take over the TAP ${lease.tap} of instance ${lease.instanceId}`;
  let name: string;
  try {
    name = tapName(fd);
  } catch (error) {
    const why = error instanceof SysError && error.errno === E.EBADFD ? "the link was removed from the host; stop and start the instance" : messageOf(error);
    return fail("host.network", `${what}: ${why}`, { cause: error });
  }
  if (name !== lease.tap) return fail("host.network", `${what}: its monitor handed out ${name} instead`);
  return repairGuestTap(route, lease) ? ok() : fail("host.network", `${what}: the host has no such link`);
}

/** Brings a TAP that exists to the state that it should be in; false where there is none. */
export function repairGuestTap(route: RouteSocket, lease: Lease): boolean {
  const link = route.link(lease.tap);
  if (link === null) return false;
  configure(route, lease, link);
  return true;
}

function configure(route: RouteSocket, lease: Lease, link: Link): void {
  for (const [name, value] of SETTINGS) {
    const path = name.replace("*", lease.tap);
    const now = readSysctl(path);
    if (now !== null) writeSysctl(path, value, now);
  }
  route.bringUp(link, macBytes(HOST_MAC));
  const address = numberOf(lease.ip);
  route.setPermanentNeighbour(link.index, address, macBytes(lease.mac));
  route.setRoute({ destination: address, prefix: 32, link: link.index, source: numberOf(lease.gateway), protocol: ROUTE_PROTOCOL });
}

const isGuestTap = (link: Link): boolean => link.kind === "tun" && link.name.startsWith(TAP_PREFIX);

/** True where any guest's link is there. */
export const hasGuestTaps = (route: RouteSocket): boolean => route.links().some(isGuestTap);

/** Removes one guest's link where it is there, whoever has it open. */
export function removeGuestTap(route: RouteSocket, tap: string): void {
  const link = route.link(tap);
  if (link !== null && isGuestTap(link)) route.deleteLink(link.index);
}

/** Removes the guests' links that `unwanted` says, and returns their names; links of other kinds stay, whatever their name. */
export function removeGuestTaps(route: RouteSocket, unwanted: (tap: string) => boolean): string[] {
  const removed = route.links().filter((link) => isGuestTap(link) && unwanted(link.name));
  for (const link of removed) route.deleteLink(link.index);
  return removed.map((link) => link.name);
}

function numberOf(ip: string): number {
  const address = parseAddress(ip);
  if (address === null) throw new DormouseError("internal", `Cannot read the address ${ip} of a lease`);
  return address;
}

function explain(error: unknown, lease: Lease): string {
  const what = `Cannot make the TAP ${lease.tap} of instance ${lease.instanceId}`;
  if (!(error instanceof SysError)) return `${what}: ${String(error)}`;
  if (error.errno === E.EBUSY) return `${what}: another process has it open; a monitor of this instance may still run`;
  if (error.errno === E.ENOENT || error.errno === E.ENODEV) return `${what}: the host has no /dev/net/tun; load it with \`modprobe tun\``;
  if (error.errno === E.EPERM || error.errno === E.EACCES) return `${what}: not permitted; run as root`;
  return `${what}: ${error.message}`;
}
