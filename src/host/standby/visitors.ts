// Who is talking to a guest that is about to sleep. A connection that is open says little: clients keep idle ones for
// hours. The kernel's countdown (nf_conntrack's timeout) says more: each packet, either way, winds it up again, so two looks
// at it tell whether one came in between. No packet counters are needed.
import { err, ok, ResultAsync } from "neverthrow";
import { TCP_CONNTRACK } from "../../ffi/abi/nf_conntrack_tcp.ts";
import type { Connection } from "../../ffi/netlink/conntrack.ts";
import { wrap, type AsyncRes, type Res } from "../../errors.ts";
import { formatAddress } from "../network/address.ts";
import { isInbound, isOpen } from "../network/connections.ts";
import { IPPROTO } from "../network/ruleset.ts";

/**
 * The countdown comes in whole seconds: over a little more than two of them a connection that rests loses at least two, one
 * that had a packet in the last second at most one. In between either answer is right.
 */
export const BETWEEN_LOOKS_MS = 2_250;
/** The kernel counts in jiffies of at most 10 ms, we in milliseconds. */
const JIFFY_MS = 10;

/** The visitors at one moment, and the milliseconds of a monotonic clock before and after they were asked for. */
export interface Look { readonly before: number; readonly after: number; readonly visitors: readonly Connection[] }

/** TCP from outside that has not ended (also where the guest has yet to answer), and UDP flows from outside. */
const isVisitor = (c: Connection, guest: number): boolean =>
  isInbound(c, guest) && (c.original.protocol === IPPROTO.udp || isOpen(c) || c.tcpState === TCP_CONNTRACK.TCP_CONNTRACK_SYN_SENT);

/**
 * Those of the later look that had a packet since the earlier one: they are new, their state is another, or their countdown
 * is not where the time alone would have brought it. Sure for whoever was quiet for the second before the earlier look.
 */
export function inUse(earlier: Look, later: Look): Connection[] {
  const known = new Map(earlier.visitors.map((c) => [c.id, c]));
  const leastS = Math.max(0, Math.floor((later.before - earlier.after - JIFFY_MS) / 1000));
  const mostS = Math.floor((later.after - earlier.before + JIFFY_MS) / 1000) + 1;
  return later.visitors.filter((c) => {
    const then = known.get(c.id);
    if (then === undefined || then.tcpState !== c.tcpState) return true;
    const passedS = then.timeoutS - c.timeoutS;
    // More than the time that passed: data that nobody has acknowledged yet has a shorter countdown (five minutes, not five days).
    return passedS < leastS || passedS > mostS;
  });
}

export interface VisitorsIo {
  /** The kernel's table; may throw. */
  connections(): readonly Connection[];
  /** Milliseconds of a monotonic clock. */
  now(): number;
  pause(ms: number): Promise<void>;
}

/** The visitors of one guest, for the time of one standby. */
export class Visitors {
  private last: Look | null = null;

  /** `guest` as a number; `ignored`: our own probes and idle connections. */
  constructor(private readonly io: VisitorsIo, private readonly guest: number, private readonly ignored: (connection: Connection) => boolean) {}

  /** Connections that are in use; waits only where any are there. Quiet for a second or more may sleep. */
  present(): AsyncRes<Connection[]> {
    return new ResultAsync(this.twoLooks());
  }

  /** One look that waits for nothing: who is connected, in use or not, is the answer. */
  all(): Res<readonly Connection[]> {
    return this.look().map(({ visitors }) => visitors);
  }

  /** Those in use since the last look, with one more look: for the moment when the guest hears nothing any more. */
  arrived(): Res<Connection[]> {
    const last = this.last;
    return this.look().map((now) => (last === null ? [...now.visitors] : inUse(last, now)));
  }

  private async twoLooks(): Promise<Res<Connection[]>> {
    const first = this.look();
    if (first.isErr()) return err(first.error);
    if (first.value.visitors.length === 0) return ok([]);
    await this.io.pause(BETWEEN_LOOKS_MS);
    return this.look().map((second) => inUse(first.value, second));
  }

  private look(): Res<Look> {
    try {
      const before = this.io.now();
      const visitors = this.io.connections().filter((c) => isVisitor(c, this.guest) && !this.ignored(c));
      this.last = { before, after: this.io.now(), visitors };
      return ok(this.last);
    } catch (error) {
      return err(wrap("host.network", "Cannot see who is connected to the guest", error));
    }
  }
}

/** For messages: `192.0.2.7:40000 to port 80 (TCP)`; the port is the guest's own. */
export const nameOf = ({ original, reply }: Connection): string =>
  `${formatAddress(original.source)}:${original.sourcePort} to port ${reply.sourcePort} (${original.protocol === IPPROTO.tcp ? "TCP" : "UDP"})`;
