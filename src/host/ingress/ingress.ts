// The ingress domain: rules on record, the ports they need, and the proxy behind them.
import type { Database } from "bun:sqlite";
import { createId } from "../id.ts";
import { err, ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";
import { describeError, type Logger } from "../../log.ts";
import type { Instance, InstanceService } from "../instances/service.ts";
import { asCapture } from "./hostname.ts";
import { Listeners } from "./listeners.ts";
import type { Proxy } from "./proxy/client.ts";
import { Reach, TIMING, type Timing } from "./proxy/reach.ts";
import { type OwnPorts, Pool } from "./proxy/upstream.ts";
import { Ledger } from "./proxy/wire.ts";
import { Records } from "./records.ts";
import { checkRules } from "./rules.ts";
import type { CreateIngress, Ingress, IngressRule, IngressService, Route, Wake } from "./service.ts";
import { RouteTable } from "./table.ts";

export { ingressMigrations } from "./migrations.ts";

export interface IngressDeps {
  readonly db: Database;
  readonly instances: Pick<InstanceService, "get" | "subscribe">;
  /** Of SleepService: Running answers at once. */
  readonly wake: Wake;
  /** Address that ports listen on. */
  readonly address: string;
  readonly log: Logger;
  /** Told of each request from begin to end, and of the local port of each connection to an instance (src/host/standby). */
  readonly activities?: { begin(instanceId: string): () => void };
  readonly ownPorts?: OwnPorts;
  readonly timing?: Partial<Timing>;
  readonly keptMax?: number;
}

/** Bytes of bodies and answers that are kept in memory, of all connections together: half a thousand that read nothing at all. */
const KEPT_MAX = 256 * 1024 * 1024;

/** Listens for all rules on record. A port that can't be had is logged and tried again. */
export function openIngress(deps: IngressDeps): IngressService {
  return new Ingresses(deps);
}

class Ingresses implements IngressService {
  private readonly records: Records;
  private readonly pool: Pool;
  private readonly listeners: Listeners;
  private readonly unsubscribe: () => void;
  private readonly flights = new Map<string, number>();
  private readonly watchers = new Set<(instanceId: string, inFlight: number) => void>();
  /** Ids by what routes call instances; emptied by every change of an instance. */
  private readonly ids = new Map<string, string>();
  /** Instances that run, by id; emptied likewise. */
  private readonly running = new Map<string, Instance>();
  private readonly timing: Timing;
  private table: RouteTable;

  constructor(private readonly deps: IngressDeps) {
    const { db, instances, wake, address, log, timing } = deps;
    this.records = new Records(db);
    this.table = new RouteTable(this.records.list());
    const ledger = new Ledger(deps.keptMax ?? KEPT_MAX);
    this.pool = new Pool(ledger, (error) => log.error("ingress.bug", { error: describeError(error, true) }), deps.ownPorts ?? null);
    this.timing = { ...TIMING, ...timing };
    const reach = new Reach({ instances, running: (id) => this.runningNow(id), wake, pool: this.pool, log, timing: this.timing });
    const proxy: Proxy = {
      reach, pool: this.pool, ledger, headS: this.timing.headS,
      find: (port, host) => this.table.find(port, host),
      instanceOf: (route) => this.instanceOf(route),
      begin: (id) => this.begin(id),
    };
    this.listeners = new Listeners(address, proxy, log);
    this.unsubscribe = instances.subscribe((instance) => this.changed(instance));
    this.listeners.listenAll(this.table.ports);
  }

  create(request: CreateIngress): Res<Ingress> {
    const checked = checkRules(request);
    if (checked.isErr()) return err(checked.error);
    const rules = this.checkTargets(checked.value.rules);
    if (rules.isErr()) return err(rules.error);
    if (this.records.nameTaken(request.name)) return fail("ingress.already_exists", `Cannot create an ingress with the name ${request.name}: there is one already; choose another name, or delete that one`);
    for (const rule of rules.value) {
      const holder = this.records.holderOf(rule);
      if (holder !== null) return fail("hostname.taken", `Cannot create the ingress ${request.name}: the ingress ${holder} has ${rule.hostname} on port ${rule.port} already`, { details: { hostname: rule.hostname, port: rule.port } });
    }
    for (const { port } of rules.value) {
      const listening = this.listeners.listen(port);
      if (listening.isOk()) continue;
      this.listeners.keepOnly(this.table.ports);
      return err(listening.error);
    }
    const ingress = this.records.insert(createId(), { ...request, rules: rules.value });
    this.reload();
    return ok(ingress);
  }

  made(request: CreateIngress): Ingress | null {
    const wanted = checkRules(request).andThen(({ rules }) => this.checkTargets(rules));
    const there = this.records.get(request.name);
    if (wanted.isErr() || there.isErr() || there.value.name !== request.name) return null;
    return Bun.deepEquals([there.value.rules, there.value.tags], [wanted.value, request.tags]) ? there.value : null;
  }

  list({ tags = {} }: { readonly tags?: Readonly<Record<string, string>> } = {}): Ingress[] {
    const wanted = Object.entries(tags);
    return this.records.list().filter((one) => wanted.every(([key, value]) => one.tags[key] === value));
  }

  get(ref: string): Res<Ingress> {
    return this.records.get(ref);
  }

  remove(ref: string): Res<void> {
    return this.records.get(ref).map(({ id }) => {
      this.records.delete(id);
      this.reload();
    });
  }

  inFlight(instanceId: string): number {
    return this.flights.get(instanceId) ?? 0;
  }

  subscribe(listener: (instanceId: string, inFlight: number) => void): () => void {
    this.watchers.add(listener);
    return () => void this.watchers.delete(listener);
  }

  idleUpstreamPorts(instanceId: string): ReadonlySet<number> {
    return this.pool.idlePorts(instanceId);
  }

  async close(): Promise<void> {
    await this.listeners.close(this.timing.drainMs);
    this.unsubscribe();
    this.pool.close();
  }

  /** A literal target must be there; a prefix of an id is kept as the id, which stays true when others come. */
  private checkTargets(rules: readonly IngressRule[]): Res<IngressRule[]> {
    const checked: IngressRule[] = [];
    for (const [i, rule] of rules.entries()) {
      if (asCapture(rule.instance) !== null) { checked.push(rule); continue; }
      const found = this.deps.instances.get(rule.instance);
      if (found.isErr() && found.error.code !== "instance.not_found") return err(found.error);
      const field = `rules[${i}].target.instance`;
      if (found.isErr()) return fail("ingress.target_not_found", `Cannot accept field ${field}: there is no instance ${rule.instance}; create it first, or use a capture`, { details: { field } });
      checked.push(found.value.name === rule.instance ? rule : { ...rule, instance: found.value.id });
    }
    return ok(checked);
  }

  private reload(): void {
    this.table = new RouteTable(this.records.list());
    this.listeners.listenAll(this.table.ports);
    this.listeners.keepOnly(this.table.ports);
  }

  private instanceOf({ instance: ref, captured }: Route): string | null {
    const known = this.ids.get(ref);
    if (known !== undefined) return known;
    const found = this.deps.instances.get(ref);
    // What a stranger writes into a host name must not find instances by the start of their ids.
    if (found.isErr() || (captured && found.value.id !== ref && found.value.name !== ref)) return null;
    if (found.value.state === "Running") this.ids.set(ref, found.value.id);
    return found.value.id;
  }

  /** Without asking the database for each request. */
  private runningNow(id: string): Instance | null {
    const known = this.running.get(id);
    if (known !== undefined) return known;
    const found = this.deps.instances.get(id);
    if (found.isErr() || found.value.state !== "Running") return null;
    this.running.set(id, found.value);
    return found.value;
  }

  private changed({ id, state }: Instance): void {
    this.ids.clear();
    this.running.clear();
    if (state === "Running") return;
    if (state === "Stopped" || state === "Unknown") this.pool.dropAll(id);
    else if (state === "Standby") this.pool.fellAsleep(id);
    else this.pool.dropIdle(id);
  }

  private begin(id: string): () => void {
    const ended = this.deps.activities?.begin(id);
    this.count(id, 1);
    return () => {
      this.count(id, -1);
      ended?.();
    };
  }

  private count(id: string, by: 1 | -1): void {
    const now = this.inFlight(id) + by;
    if (now === 0) this.flights.delete(id);
    else this.flights.set(id, now);
    for (const watcher of [...this.watchers]) watcher(id, now);
  }
}
