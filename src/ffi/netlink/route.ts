// rtnetlink(7): links, IPv4 addresses, routes and neighbours. Addresses are 32-bit numbers, in the order people write them.
import { E } from "../abi/errno.ts";
import { IF } from "../abi/if.ts";
import { IFA, ifaddrmsg } from "../abi/if_addr.ts";
import { IFLA } from "../abi/if_link.ts";
import { ND, ndmsg } from "../abi/neighbour.ts";
import { NETLINK } from "../abi/netlink.ts";
import { ifinfomsg, RTNL, rtmsg } from "../abi/rtnetlink.ts";
import { attr, attributes, be32, message, readBe32, readText, readU32, text, u32, viewOf, type Received } from "./message.ts";
import { NetlinkSocket } from "./socket.ts";

const AF_INET = 2;
const CREATE = NETLINK.NLM_F_CREATE | NETLINK.NLM_F_EXCL;
const CREATE_OR_REPLACE = NETLINK.NLM_F_CREATE | NETLINK.NLM_F_REPLACE;

export interface Link {
  readonly index: number;
  readonly name: string;
  /** `tun`, `veth`, …; empty for hardware. */
  readonly kind: string;
  readonly up: boolean;
  readonly mac: Uint8Array;
}
export interface Address { readonly address: number; readonly prefix: number; readonly link: number }
export interface Route {
  readonly destination: number;
  readonly prefix: number;
  /** 0 where there is none or several. */
  readonly link: number;
  readonly table: number;
  readonly protocol: number;
  /** RTN_UNICAST, RTN_LOCAL, … */
  readonly type: number;
  readonly metric: number;
}
export interface NewRoute {
  readonly destination: number;
  readonly prefix: number;
  /** Without one the route is `unreachable`. */
  readonly link?: number;
  /** The source address that the host itself uses. */
  readonly source?: number;
  readonly protocol: number;
  readonly metric?: number;
}
export interface Neighbour { readonly link: number; readonly address: number; readonly mac: Uint8Array; readonly permanent: boolean }

/** Owns one rtnetlink socket. Every method throws NetlinkError where the kernel refuses. */
export class RouteSocket {
  private readonly socket = new NetlinkSocket(NETLINK.NETLINK_ROUTE);

  links(): Link[] {
    return this.socket.dump("Cannot list links", message(RTNL.RTM_GETLINK, 0, new Uint8Array(ifinfomsg.size))).map(linkOf);
  }

  link(name: string): Link | null {
    const found = this.socket.get(`Cannot find ${name}`, message(RTNL.RTM_GETLINK, 0, new Uint8Array(ifinfomsg.size), attr(IFLA.IFLA_IFNAME, text(name))), E.ENODEV);
    return found === null ? null : linkOf(found);
  }

  /** Sets the MAC (only where it differs: it may be refused while the link is up) and brings the link up. */
  bringUp(link: Link, mac?: Uint8Array): void {
    if (mac !== undefined && Buffer.compare(mac, link.mac) !== 0)
      this.socket.request(`Cannot set the MAC of ${link.name}`, message(RTNL.RTM_NEWLINK, 0, linkHeader(link.index), attr(IFLA.IFLA_ADDRESS, mac)));
    if (!link.up) this.socket.request(`Cannot bring ${link.name} up`, message(RTNL.RTM_NEWLINK, 0, linkHeader(link.index, IF.IFF_UP)));
  }

  /** False where it was gone already. */
  deleteLink(index: number): boolean {
    return this.socket.tryRequest(`Cannot delete link ${index}`, message(RTNL.RTM_DELLINK, 0, linkHeader(index)), E.ENODEV);
  }

  addresses(): Address[] {
    const header = new Uint8Array(ifaddrmsg.size);
    header[ifaddrmsg.at.ifa_family] = AF_INET;
    return this.socket.dump("Cannot list addresses", message(RTNL.RTM_GETADDR, 0, header)).map(addressOf);
  }

  /** False where the link had it already. */
  addAddress(address: number, prefix: number, link: number): boolean {
    const what = `Cannot add an address to link ${link}`;
    return this.socket.tryRequest(what, message(RTNL.RTM_NEWADDR, CREATE, ...addressParts(address, prefix, link)), E.EEXIST);
  }

  /** False where it was gone already. */
  deleteAddress(address: number, prefix: number, link: number): boolean {
    const what = `Cannot remove an address of link ${link}`;
    return this.socket.tryRequest(what, message(RTNL.RTM_DELADDR, 0, ...addressParts(address, prefix, link)), E.EADDRNOTAVAIL);
  }

  /** IPv4 routes of all tables. */
  routes(): Route[] {
    const header = new Uint8Array(rtmsg.size);
    header[rtmsg.at.rtm_family] = AF_INET;
    return this.socket.dump("Cannot list routes", message(RTNL.RTM_GETROUTE, 0, header)).map(routeOf);
  }

  /** Adds a route of the main table, or replaces the one with the same destination and metric. */
  setRoute(route: NewRoute): void {
    this.socket.request("Cannot add a route", message(RTNL.RTM_NEWROUTE, CREATE_OR_REPLACE, ...routeParts(route)));
  }

  /** False where it was gone already. */
  deleteRoute(route: NewRoute): boolean {
    return this.socket.tryRequest("Cannot remove a route", message(RTNL.RTM_DELROUTE, 0, ...routeParts(route)), E.ESRCH);
  }

  neighbours(): Neighbour[] {
    const header = new Uint8Array(ndmsg.size);
    header[ndmsg.at.ndm_family] = AF_INET;
    return this.socket.dump("Cannot list neighbours", message(RTNL.RTM_GETNEIGH, 0, header)).map(neighbourOf);
  }

  setPermanentNeighbour(link: number, address: number, mac: Uint8Array): void {
    const header = new Uint8Array(ndmsg.size);
    const view = viewOf(header);
    view.setUint8(ndmsg.at.ndm_family, AF_INET);
    view.setInt32(ndmsg.at.ndm_ifindex, link, true);
    view.setUint16(ndmsg.at.ndm_state, ND.NUD_PERMANENT, true);
    const parts = [header, attr(ND.NDA_DST, be32(address)), attr(ND.NDA_LLADDR, mac)];
    this.socket.request(`Cannot set a neighbour on link ${link}`, message(RTNL.RTM_NEWNEIGH, CREATE_OR_REPLACE, ...parts));
  }

  close(): void {
    this.socket.close();
  }
}

function linkHeader(index: number, up = 0): Uint8Array {
  const header = new Uint8Array(ifinfomsg.size);
  const view = viewOf(header);
  view.setInt32(ifinfomsg.at.ifi_index, index, true);
  view.setUint32(ifinfomsg.at.ifi_flags, up, true);
  view.setUint32(ifinfomsg.at.ifi_change, up, true);
  return header;
}

function linkOf({ body }: Received): Link {
  const view = viewOf(body);
  const found = attributes(body.subarray(ifinfomsg.size));
  const info = attributes(found.get(IFLA.IFLA_LINKINFO) ?? new Uint8Array());
  return {
    index: view.getInt32(ifinfomsg.at.ifi_index, true),
    name: readText(found.get(IFLA.IFLA_IFNAME)),
    kind: readText(info.get(IFLA.IFLA_INFO_KIND)),
    up: (view.getUint32(ifinfomsg.at.ifi_flags, true) & IF.IFF_UP) !== 0,
    mac: found.get(IFLA.IFLA_ADDRESS) ?? new Uint8Array(),
  };
}

function addressParts(address: number, prefix: number, link: number): Uint8Array[] {
  const header = new Uint8Array(ifaddrmsg.size);
  const view = viewOf(header);
  view.setUint8(ifaddrmsg.at.ifa_family, AF_INET);
  view.setUint8(ifaddrmsg.at.ifa_prefixlen, prefix);
  view.setUint32(ifaddrmsg.at.ifa_index, link, true);
  return [header, attr(IFA.IFA_LOCAL, be32(address)), attr(IFA.IFA_ADDRESS, be32(address))];
}

function addressOf({ body }: Received): Address {
  const view = viewOf(body);
  const found = attributes(body.subarray(ifaddrmsg.size));
  return {
    // On a point-to-point link IFA_ADDRESS is the other end; IFA_LOCAL is ours.
    address: readBe32(found.get(IFA.IFA_LOCAL) ?? found.get(IFA.IFA_ADDRESS)),
    prefix: view.getUint8(ifaddrmsg.at.ifa_prefixlen),
    link: view.getUint32(ifaddrmsg.at.ifa_index, true),
  };
}

function routeParts(route: NewRoute): Uint8Array[] {
  const header = new Uint8Array(rtmsg.size);
  header[rtmsg.at.rtm_family] = AF_INET;
  header[rtmsg.at.rtm_dst_len] = route.prefix;
  header[rtmsg.at.rtm_table] = RTNL.RT_TABLE_MAIN;
  header[rtmsg.at.rtm_protocol] = route.protocol;
  header[rtmsg.at.rtm_scope] = route.link === undefined ? RTNL.RT_SCOPE_UNIVERSE : RTNL.RT_SCOPE_LINK;
  header[rtmsg.at.rtm_type] = route.link === undefined ? RTNL.RTN_UNREACHABLE : RTNL.RTN_UNICAST;
  const parts = [header, attr(RTNL.RTA_DST, be32(route.destination))];
  if (route.link !== undefined) parts.push(attr(RTNL.RTA_OIF, u32(route.link)));
  if (route.source !== undefined) parts.push(attr(RTNL.RTA_PREFSRC, be32(route.source)));
  if (route.metric !== undefined) parts.push(attr(RTNL.RTA_PRIORITY, u32(route.metric)));
  return parts;
}

function routeOf({ body }: Received): Route {
  const found = attributes(body.subarray(rtmsg.size));
  return {
    destination: readBe32(found.get(RTNL.RTA_DST)),
    prefix: body[rtmsg.at.rtm_dst_len] ?? 0,
    link: readU32(found.get(RTNL.RTA_OIF)),
    table: readU32(found.get(RTNL.RTA_TABLE), body[rtmsg.at.rtm_table]),
    protocol: body[rtmsg.at.rtm_protocol] ?? 0,
    type: body[rtmsg.at.rtm_type] ?? 0,
    metric: readU32(found.get(RTNL.RTA_PRIORITY)),
  };
}

function neighbourOf({ body }: Received): Neighbour {
  const view = viewOf(body);
  const found = attributes(body.subarray(ndmsg.size));
  return {
    link: view.getInt32(ndmsg.at.ndm_ifindex, true),
    address: readBe32(found.get(ND.NDA_DST)),
    mac: found.get(ND.NDA_LLADDR) ?? new Uint8Array(),
    permanent: (view.getUint16(ndmsg.at.ndm_state, true) & ND.NUD_PERMANENT) !== 0,
  };
}
