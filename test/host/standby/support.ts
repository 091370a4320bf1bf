// Connections by hand, and a clock that stands still until it is told.
import { IPS } from "../../../src/ffi/abi/nf_conntrack_common.ts";
import { TCP_CONNTRACK } from "../../../src/ffi/abi/nf_conntrack_tcp.ts";
import type { Connection } from "../../../src/ffi/netlink/conntrack.ts";
import { parseAddress } from "../../../src/host/network/address.ts";
import type { AutoStandbyPolicy } from "../../../src/host/snapshots/service.ts";
import { ManualClock } from "../../support/clock.ts";

export const address = (text: string): number => parseAddress(text) ?? -1;
export const GUEST = "10.88.0.2", GATEWAY = "10.88.0.1", CLIENT = "192.0.2.7";
const { TCP_CONNTRACK_ESTABLISHED } = TCP_CONNTRACK;

export interface Described { id?: number; from?: string; fromPort?: number; to?: string; port?: number; /** The host's, where the port is published. */ published?: number; protocol?: number; state?: number | null; left?: number; status?: number }

export function connection({ id = 1, from = CLIENT, fromPort = 40_000 + id, to = GUEST, port = 80, published, protocol = 6, state = protocol === 6 ? TCP_CONNTRACK_ESTABLISHED : null, left = 100, status = IPS.IPS_SEEN_REPLY | IPS.IPS_ASSURED }: Described = {}): Connection {
  const original = { source: address(from), destination: published === undefined ? address(to) : address("192.0.2.1"), protocol, sourcePort: fromPort, destinationPort: published ?? port };
  return { original, reply: { source: address(to), destination: address(from), protocol, sourcePort: port, destinationPort: fromPort }, id, status, timeoutS: left, tcpState: state };
}

export const policy = (change: Partial<AutoStandbyPolicy> = {}): AutoStandbyPolicy =>
  ({ enabled: true, idleTimeoutMs: 60_000, ignoreDestinationPorts: [], ignoreSourceCidrs: [], wakeOnPacket: true, ...change });

export class FakeClock extends ManualClock {
  /** As advance(), and lets promises settle before and after. */
  async pass(ms: number): Promise<void> {
    await settle();
    this.advance(ms);
    await settle();
  }
}

/** All that promises can do by themselves has been done. */
export const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
