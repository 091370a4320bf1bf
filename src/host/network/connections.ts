// What the kernel's table of connections says about guests. It is kept for every guest: the rules of `ip dormouse` look
// at connection states, which has the kernel track them. Packet counters (nf_conntrack_acct) are not needed.
import { IPS } from "../../ffi/abi/nf_conntrack_common.ts";
import { TCP_CONNTRACK } from "../../ffi/abi/nf_conntrack_tcp.ts";
import { ConntrackSocket, type Connection } from "../../ffi/netlink/conntrack.ts";
import { messageOf } from "../../errors.ts";
import { IPPROTO } from "./ruleset.ts";

/** Every address that a connection has, before and after translation. */
export const ends = (c: Connection): number[] => [c.original.source, c.original.destination, c.reply.source, c.reply.destination];

/** Either way. */
export const wasAnswered = ({ status }: Connection): boolean => (status & IPS.IPS_SEEN_REPLY) !== 0;

/**
 * Somebody else began it, and the guest answers it: the source of answers is the guest, also where the first packet went
 * to a published port of the host. A guest that asks its own published port is no visitor. `guest`: its address as parseAddress() gives it.
 */
export const isInbound = (c: Connection, guest: number): boolean => c.reply.source === guest && c.original.source !== guest;

const OPEN: readonly number[] = [TCP_CONNTRACK.TCP_CONNTRACK_SYN_RECV, TCP_CONNTRACK.TCP_CONNTRACK_ESTABLISHED, TCP_CONNTRACK.TCP_CONNTRACK_FIN_WAIT, TCP_CONNTRACK.TCP_CONNTRACK_CLOSE_WAIT];

/** TCP that the guest has answered and that at least one side may still send on. */
export const isOpen = (c: Connection): boolean => c.original.protocol === IPPROTO.tcp && c.tcpState !== null && OPEN.includes(c.tcpState);

/** The kernel's table of connections as it is now; throws where the kernel does not tell it. */
export function readConnections(): Connection[] {
  const socket = new ConntrackSocket();
  try {
    return socket.connections();
  } finally {
    socket.close();
  }
}

/** Stale connections end by themselves in time, so a kernel that cannot list them (no NF_CT_NETLINK) is no failure. */
export function forgetConnections(log: (line: string) => void, matches: (connection: Connection) => boolean): void {
  const socket = new ConntrackSocket();
  try {
    socket.forget(matches);
  } catch (error) {
    log(`old connections were not forgotten: ${messageOf(error)}`);
  } finally {
    socket.close();
  }
}
