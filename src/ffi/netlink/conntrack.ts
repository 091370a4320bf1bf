// ctnetlink: the kernel's table of connections.
import { E } from "../abi/errno.ts";
import { NF } from "../abi/netfilter.ts";
import { NETLINK } from "../abi/netlink.ts";
import { nfgenmsg, NFNL } from "../abi/nfnetlink.ts";
import { CT } from "../abi/nfnetlink_conntrack.ts";
import { attr, attributes, message, readBe32, viewOf, type Received } from "./message.ts";
import { nfHeader } from "./nftables.ts";
import { NetlinkSocket } from "./socket.ts";

/** One direction of a connection. Addresses are 32-bit numbers. */
export interface Tuple {
  readonly source: number;
  readonly destination: number;
  /** IPPROTO_TCP is 6, IPPROTO_UDP 17. */
  readonly protocol: number;
  /** 0 for protocols without ports. */
  readonly sourcePort: number;
  readonly destinationPort: number;
}
/** `original` is as the first packet came, `reply` what the answers look like before they are translated back. */
export interface Connection { readonly original: Tuple; readonly reply: Tuple }

const ct = (type: number) => (NFNL.NFNL_SUBSYS_CTNETLINK << 8) | type;

/** Owns one nfnetlink socket for connection tracking. */
export class ConntrackSocket {
  private readonly socket = new NetlinkSocket(NETLINK.NETLINK_NETFILTER);

  connections(): Connection[] {
    return this.dump().map(connectionOf);
  }

  /** Has the kernel forget the connections that `matches` is true for; returns how many. Their next packet is a new connection's first. */
  forget(matches: (connection: Connection) => boolean): number {
    let count = 0;
    for (const m of this.dump()) {
      if (!matches(connectionOf(m))) continue;
      const found = attributes(m.body.subarray(nfgenmsg.size));
      // The id keeps a newer connection with the same ends from being meant.
      const parts = [CT.CTA_TUPLE_ORIG | NETLINK.NLA_F_NESTED, CT.CTA_ID].map((type) => attr(type, found.get(type & ~NETLINK.NLA_F_NESTED) ?? new Uint8Array()));
      if (this.socket.tryRequest("Cannot forget a connection", message(ct(CT.IPCTNL_MSG_CT_DELETE), 0, nfHeader(NF.NFPROTO_IPV4), ...parts), E.ENOENT)) count++;
    }
    return count;
  }

  close(): void {
    this.socket.close();
  }

  private dump(): Received[] {
    return this.socket.dump("Cannot list connections", message(ct(CT.IPCTNL_MSG_CT_GET), 0, nfHeader(NF.NFPROTO_IPV4)));
  }
}

function connectionOf(m: Received): Connection {
  const found = attributes(m.body.subarray(nfgenmsg.size));
  return { original: tupleOf(found.get(CT.CTA_TUPLE_ORIG)), reply: tupleOf(found.get(CT.CTA_TUPLE_REPLY)) };
}

function tupleOf(bytes: Uint8Array = new Uint8Array()): Tuple {
  const tuple = attributes(bytes);
  const ip = attributes(tuple.get(CT.CTA_TUPLE_IP) ?? new Uint8Array());
  const proto = attributes(tuple.get(CT.CTA_TUPLE_PROTO) ?? new Uint8Array());
  const port = (value: Uint8Array | undefined) => (value !== undefined && value.length >= 2 ? viewOf(value).getUint16(0) : 0);
  return {
    source: readBe32(ip.get(CT.CTA_IP_V4_SRC)),
    destination: readBe32(ip.get(CT.CTA_IP_V4_DST)),
    protocol: proto.get(CT.CTA_PROTO_NUM)?.[0] ?? 0,
    sourcePort: port(proto.get(CT.CTA_PROTO_SRC_PORT)),
    destinationPort: port(proto.get(CT.CTA_PROTO_DST_PORT)),
  };
}
