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
/** A connection as the kernel sees it; UDP and ICMP have them too. */
export interface Connection {
  /** As the first packet came: with a published port, the host is its destination. */
  readonly original: Tuple;
  /** What the answers look like before they are translated back: their source is whoever answers. */
  readonly reply: Tuple;
  /** Tells it from an earlier or later one with the same ends. */
  readonly id: number;
  /** Bits of IPS_…. */
  readonly status: number;
  /** Whole seconds until it is forgotten. Each of its packets sets this back to what its state has. */
  readonly timeoutS: number;
  /** TCP_CONNTRACK_…; null for other protocols. */
  readonly tcpState: number | null;
}

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
  return {
    original: tupleOf(found.get(CT.CTA_TUPLE_ORIG)),
    reply: tupleOf(found.get(CT.CTA_TUPLE_REPLY)),
    id: readBe32(found.get(CT.CTA_ID)),
    status: readBe32(found.get(CT.CTA_STATUS)),
    timeoutS: readBe32(found.get(CT.CTA_TIMEOUT)),
    tcpState: tcpStateOf(found.get(CT.CTA_PROTOINFO)),
  };
}

function tcpStateOf(protocol: Uint8Array = new Uint8Array()): number | null {
  const tcp = attributes(attributes(protocol).get(CT.CTA_PROTOINFO_TCP) ?? new Uint8Array());
  return tcp.get(CT.CTA_PROTOINFO_TCP_STATE)?.[0] ?? null;
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
