// Instances and snapshots as far as schedules see them, and a clock that tests set.
import { errAsync, ResultAsync } from "neverthrow";
import { DormouseError, type ErrorCode } from "../../../../src/errors.ts";
import { instanceMigrations } from "../../../../src/host/instances/migrations.ts";
import type { InstanceState } from "../../../../src/host/instances/service.ts";
import { Schedules } from "../../../../src/host/snapshots/schedules/schedules.ts";
import type { SetSchedule } from "../../../../src/host/snapshots/service.ts";
import { openStore } from "../../../../src/host/store/store.ts";
import { ManualClock } from "../../../support/clock.ts";
import { TempDir } from "../../../support/paths.ts";

export const MINUTE = 60_000, HOUR = 60 * MINUTE, DAY = 24 * HOUR;
export const NOON = Date.UTC(2026, 10, 27, 12);
export const HOURLY: SetSchedule = { intervalMs: HOUR, maxCount: 3, maxAgeMs: null, namePrefix: "web", metadata: { team: "a" } };

interface Taken { id: string; instanceId: string; name: string; createdAt: number; metadata: Readonly<Record<string, string>> }
export const refusal = (code: ErrorCode, message: string) => new DormouseError(code, message);

export class World {
  private readonly temp = new TempDir("schedules");
  readonly clock = new ManualClock(NOON);
  readonly store = openStore(this.temp.join("db"), instanceMigrations)._unsafeUnwrap();
  readonly states = new Map<string, InstanceState>();
  snapshots: Taken[] = [];
  removed: string[] = [];
  /** Awaited before a snapshot is there, and before it is told of. */
  before: (instanceId: string) => Promise<void> = async () => {};
  after: () => Promise<void> = async () => {};
  creating: DormouseError | null = null;
  removing: DormouseError | null = null;
  private count = 0;
  readonly told: string[] = [];
  atOnce = 0;
  mostAtOnce = 0;
  schedules = this.daemon();

  /** A daemon begins; the last one is no more. */
  daemon(): Schedules {
    return this.schedules = new Schedules({
      db: this.store.db, clock: this.clock,
      stateOf: (id) => this.states.get(id) ?? null,
      createSnapshot: (instanceId, name, metadata) => this.creating === null ? ResultAsync.fromSafePromise(this.take(instanceId, name, metadata)) : errAsync(this.creating),
      listSnapshots: (instanceId) => this.snapshots.filter((one) => one.instanceId === instanceId),
      removeSnapshot: (id) => this.removing === null ? ResultAsync.fromSafePromise(this.drop(id)) : errAsync(this.removing),
      failed: (what) => this.told.push(what),
    });
  }

  private async take(instanceId: string, name: string, metadata: Taken["metadata"]): Promise<Taken> {
    this.mostAtOnce = Math.max(this.mostAtOnce, ++this.atOnce);
    await this.before(instanceId);
    const taken = { id: `s${this.count++}`, instanceId, name, metadata, createdAt: this.clock.now() };
    this.snapshots.push(taken);
    await this.after();
    this.atOnce--;
    return taken;
  }
  private async drop(id: string): Promise<void> {
    this.snapshots = this.snapshots.filter((one) => one.id !== id);
    this.removed.push(id);
  }

  instance(id: string, state: InstanceState = "Running"): string {
    this.states.set(id, state);
    this.store.db.query(`INSERT INTO instances (id, name, image, image_digest, memory_bytes, vcpus, overlay_bytes, env, tags, network, ports, tty, open_stdin, state, created_at)
      VALUES (?, ?, '', '', 0, 1, 0, '{}', '{}', 0, '[]', 0, 0, ?, 0)`).run(id, id, state);
    return id;
  }
  set(id: string, change: Partial<SetSchedule> = {}) { return this.schedules.set(id, { ...HOURLY, ...change })._unsafeUnwrap(); }
  get(id: string) { return this.schedules.get(id)._unsafeUnwrap(); }
  names(): string[] { return this.snapshots.map((one) => one.name); }
  /** Time passes, and what it starts ends. */
  async pass(ms: number): Promise<void> {
    this.clock.advance(ms);
    await this.schedules.idle();
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.schedules.close();
    this.store.close();
    this.temp[Symbol.dispose]();
  }
}
