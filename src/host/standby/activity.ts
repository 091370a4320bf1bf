// Use of a guest that connection tracking does not show, or must not count: open exec, cp and attach connections, ingress
// requests in flight; and the daemon's own connections to guests, known by the port that they come from.
import { TCP_CONNTRACK } from "../../ffi/abi/nf_conntrack_tcp.ts";
import { IPPROTO } from "../network/ruleset.ts";
import type { Connection } from "../../ffi/netlink/conntrack.ts";

export interface Activity {
  readonly open: number;
  /** When something last began or ended, in milliseconds since the epoch. */
  readonly lastAt: number | null;
}
const NONE: Activity = { open: 0, lastAt: null };

export class Activities {
  private readonly all = new Map<string, { open: number; lastAt: number }>();
  /** Whose instance is gone, and something is still open to. */
  private readonly going = new Set<string>();

  constructor(private readonly now: () => number = Date.now) {}

  /** Counts as use until the function returned is called (once or more). */
  begin(instanceId: string): () => void {
    const entry = this.all.get(instanceId) ?? { open: 0, lastAt: 0 };
    this.all.set(instanceId, entry);
    entry.open++;
    entry.lastAt = this.now();
    let ended = false;
    return () => {
      if (ended) return;
      ended = true;
      entry.open--;
      entry.lastAt = this.now();
      if (this.going.has(instanceId)) this.forget(instanceId);
    };
  }

  of(instanceId: string): Activity {
    return this.all.get(instanceId) ?? NONE;
  }

  /** There is no such instance any more: nor is this one, once what is open has ended. */
  forget(instanceId: string): void {
    if (this.of(instanceId).open > 0) return void this.going.add(instanceId);
    this.going.delete(instanceId);
    this.all.delete(instanceId);
  }
}

/** The kernel remembers a connection that has ended for two minutes (nf_conntrack_tcp_timeout_time_wait); a little more. */
const REMEMBERED_MS = 150_000;

const IN_USE: readonly (number | null)[] = [TCP_CONNTRACK.TCP_CONNTRACK_SYN_SENT, TCP_CONNTRACK.TCP_CONNTRACK_SYN_RECV, TCP_CONNTRACK.TCP_CONNTRACK_ESTABLISHED];

/** Local ports of the daemon's own connections to guests: health probes, the ingress's connections. What they carry counts by itself. */
export class OwnPorts {
  private readonly open = new Map<number, number>();
  private readonly closed = new Map<number, number>();

  /** `gateway`: the address that the daemon's connections come from, as a number. */
  constructor(private readonly gateway: number, private readonly now: () => number = Date.now) {}

  /** Call with the local port as soon as it is known; and the function returned when the connection has ended. */
  add(port: number): () => void {
    this.open.set(port, (this.open.get(port) ?? 0) + 1);
    let ended = false;
    return () => {
      if (ended) return;
      ended = true;
      const left = (this.open.get(port) ?? 1) - 1;
      if (left > 0) return void this.open.set(port, left);
      this.open.delete(port);
      this.closed.delete(port); // so that the map stays in the order of closing
      this.closed.set(port, this.now());
    };
  }

  has({ original, tcpState }: Connection): boolean {
    this.prune();
    if (original.protocol !== IPPROTO.tcp || original.source !== this.gateway) return false;
    if (this.open.has(original.sourcePort)) return true;
    // Of a port that we have given back only the remains are ours: another program may use it by now.
    return this.closed.has(original.sourcePort) && !IN_USE.includes(tcpState);
  }

  private prune(): void {
    const limit = this.now() - REMEMBERED_MS;
    for (const [port, at] of this.closed) {
      if (at > limit) break;
      this.closed.delete(port);
    }
  }
}
