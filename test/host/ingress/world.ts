// The ingress domain over a database in memory and instances that a test invents: their address is loopback, their ports are
// real servers of this process.
import { Database } from "bun:sqlite";
import { createId } from "../../../src/host/id.ts";
import { ok, okAsync } from "neverthrow";
import { fail, type AsyncRes } from "../../../src/errors.ts";
import { ingressMigrations, openIngress } from "../../../src/host/ingress/ingress.ts";
import type { CreateIngress, Ingress, IngressRule, IngressService } from "../../../src/host/ingress/service.ts";
import type { Timing } from "../../../src/host/ingress/proxy/reach.ts";
import type { Instance } from "../../../src/host/instances/service.ts";
import { createLogger } from "../../../src/log.ts";

export class World {
  readonly instances = new Map<string, Instance>();
  readonly listeners = new Set<(instance: Instance) => void>();
  readonly wakes: string[] = [];
  readonly logged: string[] = [];
  readonly db = new Database(":memory:", { strict: true });
  ingress: IngressService;
  /** Called before an instance is looked up. */
  onRead = (): void => {};
  /** What a wake does; by default it works at once. */
  onWake: (id: string) => AsyncRes<unknown> = (id) => okAsync(this.change(id, { state: "Running" }));

  constructor(private readonly timing: Partial<Timing> = {}, private readonly address = "127.0.0.1", private readonly keptMax?: number) {
    this.db.run("PRAGMA foreign_keys = ON");
    for (const { sql } of ingressMigrations) this.db.run(sql);
    this.ingress = this.open();
  }

  open(): IngressService {
    const instances = {
      get: (ref: string) => {
        this.onRead();
        const all = [...this.instances.values()];
        const exact = all.find((one) => one.id === ref) ?? all.find((one) => one.name === ref) ?? all.find((one) => one.id.startsWith(ref));
        return exact === undefined ? fail("instance.not_found", `Cannot find ${ref}`) : ok(exact);
      },
      subscribe: (listener: (instance: Instance) => void) => (this.listeners.add(listener), () => void this.listeners.delete(listener)),
    };
    const wake = (id: string) => (this.wakes.push(id), this.onWake(id));
    return openIngress({ db: this.db, instances, wake, address: this.address, log: createLogger("debug", (line) => void this.logged.push(line)), timing: { drainMs: 0, ...this.timing }, keptMax: this.keptMax });
  }

  /** An instance on record; long up, unless `change` says otherwise. */
  add(name: string, change: Partial<Instance> = {}): Instance {
    const id = createId();
    const instance = { id, name, state: "Running", ip: "127.0.0.1", phaseSince: 0, ...change } as Instance;
    this.instances.set(id, instance);
    return instance;
  }

  change(id: string, change: Partial<Instance>): Instance {
    const instance = { ...this.instances.get(id)!, ...change };
    this.instances.set(id, instance);
    for (const listener of [...this.listeners]) listener(instance);
    return instance;
  }

  /** An ingress of one rule on a free port; its port. */
  route(hostname: string, instance: string, targetPort: number, change: Partial<IngressRule> = {}): number {
    const port = change.port ?? freePort();
    create(this.ingress, { name: `i-${createId()}`, rules: [rule(hostname, instance, targetPort, { port, ...change })] });
    return port;
  }

  async close(): Promise<void> {
    await this.ingress.close();
    this.db.close();
  }
}

export const rule = (hostname: string, instance: string, targetPort: number, change: Partial<IngressRule> = {}): IngressRule =>
  ({ hostname, port: 80, instance, targetPort, tls: false, redirectHttp: false, auth: null, ...change });

export const create = (ingress: IngressService, request: Partial<CreateIngress> & Pick<CreateIngress, "name" | "rules">): Ingress =>
  ingress.create({ tags: {}, ...request })._unsafeUnwrap();

/** A port that nobody listens on now. */
export function freePort(): number {
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  listener.stop(true);
  return listener.port;
}

export async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await Bun.sleep(2);
}
