// Automatic standby with a clock of its own, a database in memory, and connections by hand.
import { Database } from "bun:sqlite";
import { err, ok, ResultAsync } from "neverthrow";
import type { Connection } from "../../../src/ffi/netlink/conntrack.ts";
import { DormouseError, type ErrorCode, type Res } from "../../../src/errors.ts";
import { Activities } from "../../../src/host/standby/activity.ts";
import { AutoStandby } from "../../../src/host/standby/auto.ts";
import type { Candidate } from "../../../src/host/standby/decide.ts";
import { standbyMigrations } from "../../../src/host/standby/migrations.ts";
import { TimerStore } from "../../../src/host/standby/timers.ts";
import { FakeClock, GUEST, policy, settle } from "./support.ts";

export const MINUTE = 60_000, DAY = 24 * 60 * MINUTE;

/** One attempt to put an instance to sleep; ends as the test says. */
interface Asked { readonly id: string; readonly calledOff: AbortSignal; end(code?: ErrorCode): Promise<void>; fail(): Promise<void> }

/** A daemon with instances by hand; open() again is the next one, over the same database. */
export class World {
  readonly clock = new FakeClock();
  readonly db = new Database(":memory:");
  readonly instances = new Map<string, Candidate>();
  connections: Connection[] = [];
  failure: Error | null = null;
  looks = 0;
  /** Called in the middle of each. */
  onLook = () => {};
  readonly asked: Asked[] = [];
  readonly log: string[] = [];
  readonly activities = new Activities(() => this.clock.now());
  auto: AutoStandby;

  constructor() {
    this.db.run("PRAGMA foreign_keys = ON");
    this.db.run("CREATE TABLE instances (id TEXT PRIMARY KEY) STRICT");
    for (const migration of standbyMigrations) this.db.run(migration.sql);
    this.auto = this.open();
  }

  add(id: string, change: Partial<Candidate> = {}): void {
    this.db.run("INSERT OR IGNORE INTO instances (id) VALUES (?)", [id]);
    this.instances.set(id, { id, state: "Running", network: true, ip: GUEST, policy: policy({ idleTimeoutMs: MINUTE }), runningSince: this.clock.now(), ...this.instances.get(id), ...change });
  }

  open(): AutoStandby {
    const logger = (event: string) => void this.log.push(event);
    return new AutoStandby({
      enabled: () => [...this.instances.values()].filter((one) => one.policy?.enabled === true),
      find: (id) => this.instances.get(id) ?? null,
      connections: () => {
        this.looks++;
        this.onLook();
        if (this.failure !== null) throw this.failure;
        return this.connections;
      },
      otherActivity: (id) => this.activities.of(id),
      ignored: (c) => c.original.sourcePort === 9_999,
      standby: (id, calledOff) => new ResultAsync(this.ask(id, calledOff)),
      timers: new TimerStore(this.db), clock: this.clock, elapsed: () => 0, logger: { info: logger, warn: logger },
    });
  }

  private ask(id: string, calledOff: AbortSignal): Promise<Res<void>> {
    const { promise, resolve, reject } = Promise.withResolvers<Res<void>>();
    this.asked.push({
      id, calledOff,
      fail: () => (reject(new Error("a bug")), settle()),
      end: (code) => {
        if (code === undefined) this.add(id, { state: "Standby" });
        resolve(code === undefined ? ok() : err(new DormouseError(code, "it was not to be")));
        return settle();
      },
    });
    return promise;
  }

  status(id = "a") { return this.auto.status(id)._unsafeUnwrap(); }
}
