// NetworkService: records in SQLite, TAPs and the shared parts by rtnetlink, rules by nf_tables.
// Order everywhere: the record first, then the host; what a crash leaves between the two, start() and reconcile() settle.
import type { Database } from "bun:sqlite";
import { TableMessages } from "../../ffi/netlink/nftables.ts";
import { RouteSocket } from "../../ffi/netlink/route.ts";
import { closeFd } from "../../ffi/fd.ts";
import { err, ok } from "neverthrow";
import { fail, wrap, type AsyncRes, type Res } from "../../errors.ts";
import { attempt } from "./attempt.ts";
import { contains, formatAddress, parseAddress, parseRange, type Range } from "./address.ts";
import { ends, forgetConnections, wasAnswered } from "./connections.ts";
import { enableForwarding, restoreForwarding } from "./forwarding.ts";
import { LeaseStore, type Published } from "./leases.ts";
import { NetworkLock } from "./lock.ts";
import { checkPorts, portChanges, samePorts } from "./ports.ts";
import { portName, Reservations } from "./reservations.ts";
import { hostResolvers, parseResolvers } from "./resolvers.ts";
import { Rules } from "./rules.ts";
import { CLOSED, closedElement, guestElement, GUESTS, IPPROTO, TABLE, type RulesetOptions } from "./ruleset.ts";
import type { Lease, NetworkService, PortMapping } from "./service.ts";
import { addShared, refuseOverlap, removeShared } from "./shared.ts";
import { adoptGuestTap, hasGuestTaps, openGuestTap, removeGuestTap, removeGuestTaps, repairGuestTap } from "./tap.ts";

export { networkMigrations } from "./migrations.ts";
export { doctorForwarding, type ForwardingFinding } from "./doctor.ts";
export { HOST_MAC } from "./address.ts";

const DEFAULT_RANGE = "10.88.0.0/16";

export interface NetworkOptions {
  /** With `networkMigrations` applied. */
  readonly db: Database;
  /** Where guests' addresses come from, in CIDR notation, /8 to /29; DEFAULT_RANGE if not given. */
  readonly range?: string;
  /** IPv4 resolvers for guests; the host's if not given or empty. */
  readonly dns?: readonly string[];
  /** Lets guests talk to each other by their addresses; off if not given. */
  readonly guestToGuest?: boolean;
  /** What users call an instance, for messages. */
  readonly nameOf?: (instanceId: string) => string;
  /** Called with one line for each thing that an operator should know. */
  readonly log?: (line: string) => void;
}

/** The network as it is recorded; nothing on the host is touched before start(). Works on the caller's network namespace. */
export function openNetwork(options: NetworkOptions): Res<NetworkService> {
  return parseRange(options.range ?? DEFAULT_RANGE).andThen((range) =>
    parseResolvers(options.dns ?? []).andThen((dns): Res<NetworkService> => {
      try {
        return ok(new Network(range, dns, options));
      } catch (error) {
        return err(wrap("host.network", "Cannot talk to the kernel's network configuration", error));
      }
    }));
}

const RANGE_SETTING = "range";

class Network implements NetworkService {
  readonly gateway: string;
  readonly subnet: string;
  private readonly store: LeaseStore;
  private readonly lock = new NetworkLock();
  private readonly reservations = new Reservations();
  private readonly route = new RouteSocket();
  private readonly rules: Rules;
  /** Ids of instances that sleep and must not be woken; the next daemon is told anew. */
  private readonly closed = new Set<string>();
  private readonly log: (line: string) => void;

  constructor(private readonly range: Range, private readonly dns: readonly string[], private readonly options: NetworkOptions) {
    this.gateway = formatAddress(range.gateway);
    this.subnet = range.text;
    this.store = new LeaseStore(options.db, range, options.nameOf);
    this.log = options.log ?? (() => {});
    this.rules = new Rules(() => this.asRecorded(), this.log);
  }

  resolvers(): readonly string[] {
    return this.dns.length > 0 ? this.dns : hostResolvers();
  }

  start(): AsyncRes<void> {
    return attempt("Cannot start the network", () => this.lock.take().andThen(() => {
      const stray = this.store.strays()[0];
      if (stray !== undefined)
        return fail("host.network", `Cannot use ${this.range.text} for guests: instance ${stray.instanceId} has the address ${stray.ip} of another range; delete it or start with the range from before`);
      const before = this.store.setting(RANGE_SETTING);
      if (before !== this.range.text) this.removeRange(before);
      return this.checkRange().andThen(() => this.bringUp(before === null));
    }));
  }

  allocate(instanceId: string): Res<Lease> {
    try {
      return this.store.allocate(instanceId);
    } catch (error) {
      return err(wrap("host.storage", `Cannot record an address for instance ${instanceId}`, error));
    }
  }

  lease(instanceId: string): Lease | null {
    return this.store.find(instanceId);
  }

  openTap(lease: Lease): AsyncRes<number> {
    return attempt(`Cannot open the TAP of instance ${lease.instanceId}`, () => this.recorded(lease).andThen((recorded) =>
      openGuestTap(this.route, recorded).andThen((fd) => {
        try {
          this.letIn(recorded);
          return ok(fd);
        } catch (error) {
          closeFd(fd);
          throw error;
        }
      })));
  }

  adoptTap(lease: Lease, fd: number): AsyncRes<void> {
    return attempt(`Cannot take over the TAP of instance ${lease.instanceId}`, () =>
      this.recorded(lease).andThen((recorded) => adoptGuestTap(this.route, recorded, fd).map(() => this.letIn(recorded))));
  }

  setClosed(instanceId: string, closed: boolean): AsyncRes<void> {
    return attempt(`Cannot ${closed ? "close" : "open"} the address of instance ${instanceId}`, () => {
      const lease = this.store.find(instanceId);
      if (lease === null) return ok();
      if (closed) this.closed.add(instanceId);
      else this.closed.delete(instanceId);
      const table = new TableMessages(TABLE), element = [closedElement(lease.ip)];
      // Adding before deleting: it may not be there, and that is fine.
      this.rules.commit("Cannot change closed addresses", [...table.addElements(CLOSED, element), ...(closed ? [] : table.deleteElements(CLOSED, element))]);
      return ok();
    });
  }

  publish(instanceId: string, ports: readonly PortMapping[]): AsyncRes<void> {
    return attempt(`Cannot publish ports of instance ${instanceId}`, () => {
      if (this.store.find(instanceId) === null) return fail("internal", `Cannot publish ports of instance ${instanceId}: it has no address on record`);
      return checkPorts(ports).andThen(() => this.replacePorts(instanceId, ports));
    });
  }

  forget(instanceId: string): AsyncRes<void> {
    return attempt(`Cannot forget the connections of instance ${instanceId}`, () => ok(this.forgetPeers([this.store.find(instanceId)], true)));
  }

  release(instanceId: string): AsyncRes<void> {
    return attempt(`Cannot release the network of instance ${instanceId}`, () => ok(this.releaseNow([instanceId])));
  }

  reconcile(living: ReadonlySet<string>): AsyncRes<void> {
    return attempt("Cannot reconcile the network", () => {
      this.releaseNow(this.store.all().map((lease) => lease.instanceId).filter((id) => !living.has(id)));
      const kept = this.store.all();
      for (const lease of kept) repairGuestTap(this.route, lease);
      const known = new Set(kept.map((lease) => lease.tap));
      for (const tap of removeGuestTaps(this.route, (name) => !known.has(name))) this.log(`removed ${tap}, the link of an instance that is not on record`);
      return ok();
    });
  }

  teardown(): AsyncRes<void> {
    return attempt("Cannot take the network down", () => this.lock.take().andThen(() => {
      removeGuestTaps(this.route, () => true);
      this.rules.remove();
      removeShared(this.route, this.range);
      this.removeRange(this.store.setting(RANGE_SETTING));
      restoreForwarding(this.store);
      forgetConnections(this.log, (c) => ends(c).some((address) => contains(this.range.base, this.range.prefix, address)));
      this.reservations.close();
      this.store.clearPorts();
      this.store.setSetting(RANGE_SETTING, null);
      return ok();
    }));
  }

  close(): void {
    this.lock.close();
    this.reservations.close();
    this.route.close();
    this.rules.close();
  }

  /** While guests run (the daemon was restarted), a collision that came up since is no reason to abandon them. */
  private checkRange(): Res<void> {
    const checked = refuseOverlap(this.route, this.range);
    if (checked.isOk() || !hasGuestTaps(this.route)) return checked;
    this.log(`${checked.error.message} (guests are running, so it is used on)`);
    return ok();
  }

  /** `fresh`: nothing of ours was there before, so a failure half-way takes back what it did. */
  private bringUp(fresh: boolean): Res<void> {
    this.store.setSetting(RANGE_SETTING, this.range.text);
    const undo = () => {
      if (!fresh) return;
      removeShared(this.route, this.range);
      this.store.setSetting(RANGE_SETTING, null);
    };
    try {
      const shared = addShared(this.route, this.range);
      if (shared.isErr()) {
        undo();
        return shared;
      }
      this.rules.apply();
      if (enableForwarding(this.store)) this.log("turned IPv4 forwarding on (net.ipv4.ip_forward=1); `dormouse serve --teardown` turns it off again");
    } catch (error) {
      undo();
      throw error;
    }
    this.reservations.keep(this.store.published(), this.log);
    if (this.resolvers().length === 0) this.log("the host has no resolver that guests can reach; give one with --dns");
    return ok();
  }

  /** What an earlier start with another range left on the host; `text` as it was recorded. */
  private removeRange(text: string | null): void {
    const old = text === null ? null : parseRange(text);
    if (old?.isOk()) removeShared(this.route, old.value);
  }

  private asRecorded(): RulesetOptions {
    const leases = this.store.all();
    const closed = leases.filter((lease) => this.closed.has(lease.instanceId)).map((lease) => lease.ip);
    return { range: this.range, guestToGuest: this.options.guestToGuest ?? false, leases, published: this.store.published(), closed };
  }

  private recorded(lease: Lease): Res<Lease> {
    const recorded = this.store.find(lease.instanceId);
    if (recorded !== null && recorded.tap === lease.tap && recorded.ip === lease.ip) return ok(recorded);
    return fail("internal", `Cannot open the TAP of instance ${lease.instanceId}: its address ${lease.ip} is not on record`);
  }

  private letIn(lease: Lease): void {
    this.rules.commit("Cannot let the guest in", new TableMessages(TABLE).addElements(GUESTS, [guestElement(lease)]));
  }

  private replacePorts(instanceId: string, ports: readonly PortMapping[]): Res<void> {
    const old = this.store.publishedOf(instanceId);
    // As at each wake: the datagram that knocked waits for its answer, whose way back must not be forgotten.
    if (samePorts(old, ports)) return ok(this.reservations.keep(old, this.log));
    const held: PortMapping[] = [];
    const undo = () => held.forEach((port) => this.reservations.drop(port));
    const recorded = this.store.setPorts(instanceId, ports);
    if (recorded.isErr()) return recorded;
    try {
      for (const port of ports) {
        if (this.reservations.holds(port)) continue;
        const hold = this.reservations.hold(port);
        if (hold.isErr()) return this.store.setPorts(instanceId, old).andThen(() => (undo(), hold));
        held.push(port);
      }
      const now = this.store.publishedOf(instanceId);
      this.rules.commit("Cannot change published ports", portChanges(old, now));
      this.settlePorts(old, now);
      return ok();
    } catch (error) {
      undo();
      const restored = this.store.setPorts(instanceId, old);
      if (restored.isErr()) this.log(restored.error.message);
      throw error;
    }
  }

  /** After the rules changed: ports that nobody publishes any more are free again, and UDP "connections" from before are forgotten. */
  private settlePorts(old: readonly Published[], now: readonly Published[]): void {
    for (const port of old) if (!now.some((p) => portName(p) === portName(port))) this.reservations.drop(port);
    const udp = new Set([...old, ...now].filter((p) => p.protocol === "udp").map((p) => p.hostPort));
    if (udp.size > 0) forgetConnections(this.log, (c) => c.original.protocol === IPPROTO.udp && udp.has(c.original.destinationPort));
  }

  private releaseNow(instanceIds: readonly string[]): void {
    const leases = instanceIds.map((id) => this.store.find(id)).filter((l) => l !== null);
    for (const lease of leases) {
      const ports = this.store.publishedOf(lease.instanceId);
      this.store.remove(lease.instanceId);
      removeGuestTap(this.route, lease.tap);
      if (this.store.setting(RANGE_SETTING) !== null) this.dropElements(lease, ports);
    }
    this.forgetPeers(leases, false); // the next instance with this address must not be sent what was meant for this one
  }

  private forgetPeers(leases: readonly (Lease | null)[], answered: boolean): void {
    const addresses = new Set(leases.map((lease) => parseAddress(lease?.ip ?? "")).filter((address) => address !== null));
    if (addresses.size > 0) forgetConnections(this.log, (c) => (!answered || wasAnswered(c)) && ends(c).some((address) => addresses.has(address)));
  }

  private dropElements(lease: Lease, ports: readonly Published[]): void {
    const table = new TableMessages(TABLE);
    // It may have been allocated and never opened: adding before deleting makes both cases one.
    this.rules.commit("Cannot remove the guest's rules", [
      ...portChanges(ports, []), ...table.addElements(GUESTS, [guestElement(lease)]), ...table.deleteElements(GUESTS, [guestElement(lease)]),
      ...(this.closed.delete(lease.instanceId) ? table.deleteElements(CLOSED, [closedElement(lease.ip)]) : []),
    ]);
    this.settlePorts(ports, []);
  }
}
