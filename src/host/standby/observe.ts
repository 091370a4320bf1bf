// From one dump of the kernel's connections: what each of many instances is used for.
import { IPS } from "../../ffi/abi/nf_conntrack_common.ts";
import type { Connection } from "../../ffi/netlink/conntrack.ts";
import { parseAddress } from "../network/address.ts";
import { isInbound, isOpen } from "../network/connections.ts";
import { IPPROTO } from "../network/ruleset.ts";
import type { Activity } from "./activity.ts";
import type { Candidate, Seen } from "./decide.ts";
import { counts } from "./policy.ts";

/**
 * Remembers the connections of the last look: one that began and ended between two looks is use too. The kernel keeps it for
 * a while after its end, so it is there, and new. At the first look of all any that has ended may have been a moment ago.
 */
export class Observer {
  private readonly known = new Map<string, ReadonlySet<number>>();

  constructor(private readonly ignored: (connection: Connection) => boolean, private readonly otherActivity: (id: string) => Activity) {}

  observe(candidates: readonly Candidate[], connections: readonly Connection[]): Map<string, Seen> {
    const byGuest = new Map<number, Connection[]>(candidates.map((c) => [addressOf(c), []]));
    for (const c of connections) if (c.original.protocol === IPPROTO.tcp && isInbound(c, c.reply.source)) byGuest.get(c.reply.source)?.push(c);
    return new Map(candidates.map((candidate) => [candidate.id, this.one(candidate, byGuest.get(addressOf(candidate)) ?? [])]));
  }

  /** Forgets all that are not in `kept`. */
  keep(kept: ReadonlySet<string>): void {
    for (const id of [...this.known.keys()]) if (!kept.has(id)) this.known.delete(id);
  }

  private one({ id, policy }: Candidate, inbound: readonly Connection[]): Seen {
    const known = this.known.get(id);
    this.known.set(id, new Set(inbound.map((c) => c.id)));
    const qualifies = policy === null ? () => true : counts(policy);
    const counted = inbound.filter((c) => qualifies(c) && !this.ignored(c));
    return {
      open: counted.filter(isOpen).length,
      ended: counted.filter((c) => !isOpen(c) && wasEstablished(c) && known?.has(c.id) !== true).length,
      other: this.otherActivity(id),
    };
  }
}

/** A knock at a closed port, or one that nobody answered, is no use of the guest. */
const wasEstablished = (c: Connection): boolean => (c.status & IPS.IPS_ASSURED) !== 0;
const addressOf = (candidate: Candidate): number => parseAddress(candidate.ip ?? "") ?? -1;
