// Whom a standby must not disturb: asked before it begins, and once more when the guest hears nothing any more.
import type { Connection } from "../../ffi/netlink/conntrack.ts";
import { describeError, type Logger } from "../../log.ts";
import { parseAddress } from "../network/address.ts";
import { isOpen } from "../network/connections.ts";
import type { AutoStandbyPolicy } from "../snapshots/service.ts";
import type { Res } from "../../errors.ts";
import type { Activity } from "./activity.ts";
import { counts } from "./policy.ts";
import { nameOf, Visitors, type VisitorsIo } from "./visitors.ts";

/** By hand, connections that are quiet are no reason to stay awake; by itself, any that counts is. */
export type AskedBy = "by hand" | "by itself";
export interface Sleeper { readonly id: string; readonly ip: string | null; readonly autoStandby: AutoStandbyPolicy | null }

export interface GuardDeps extends VisitorsIo {
  /** exec, cp, attach, requests of the ingress. */
  readonly otherActivity: (id: string) => Activity;
  /** The daemon's own connections to guests. */
  readonly ignored: (connection: Connection) => boolean;
  readonly logger: Pick<Logger, "warn">;
}

export class StandbyGuard {
  /** Those of the standbys under way, from visitors() to lateVisitors(). */
  private readonly looking = new Map<string, Visitors>();

  constructor(private readonly deps: GuardDeps) {}

  /** Who uses it, in words; null where it may sleep. Takes two seconds where there are connections. */
  async visitors(sleeper: Sleeper, asked: AskedBy): Promise<string | null> {
    const busy = this.otherUse(sleeper.id);
    const guest = parseAddress(sleeper.ip ?? "");
    if (busy !== null || guest === null) return busy;
    const qualifies = asked === "by hand" || sleeper.autoStandby === null ? () => true : counts(sleeper.autoStandby);
    const visitors = new Visitors(this.deps, guest, (c) => this.deps.ignored(c) || !qualifies(c));
    this.looking.set(sleeper.id, visitors);
    const found = asked === "by hand" ? await visitors.present() : visitors.all().map((all) => all.filter(isOpen));
    const why = this.say(sleeper.id, found, asked === "by hand" ? "in use" : "open") ?? this.otherUse(sleeper.id);
    if (why !== null) this.looking.delete(sleeper.id);
    return why;
  }

  /** Who came since. */
  async lateVisitors(sleeper: Sleeper): Promise<string | null> {
    const visitors = this.looking.get(sleeper.id);
    this.looking.delete(sleeper.id);
    return this.otherUse(sleeper.id) ?? (visitors === undefined ? null : this.say(sleeper.id, visitors.arrived(), "in use"));
  }

  /** There is no such instance any more. */
  forget(id: string): void { this.looking.delete(id); }

  private otherUse(id: string): string | null {
    const { open } = this.deps.otherActivity(id);
    return open === 0 ? null : `it is used by ${open === 1 ? "a session or request" : `${open} sessions and requests`}`;
  }

  /** A kernel that tells nothing must not keep a guest awake against its owner's word. */
  private say(id: string, found: Res<readonly Connection[]>, how: string): string | null {
    if (found.isErr()) {
      this.deps.logger.warn("standby.blind", { instance: id, error: describeError(found.error) });
      return null;
    }
    const [first, ...more] = found.value;
    if (first === undefined) return null;
    return `the connection ${nameOf(first)} is ${how}${more.length === 0 ? "" : `, and ${more.length} more`}`;
  }
}
