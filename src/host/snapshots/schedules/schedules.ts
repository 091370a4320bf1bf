// Takes snapshots of instances by their schedules, and deletes those of them that retention no longer keeps.
import type { Database } from "bun:sqlite";
import { err, ok } from "neverthrow";
import { fail, messageOf, type AsyncRes, type Res } from "../../../errors.ts";
import { Rounds, type Unheard } from "../../background.ts";
import { systemClock, type Clock } from "../../clock.ts";
import type { InstanceState } from "../../instances/service.ts";
import type { SetSchedule, Snapshot, SnapshotSchedule } from "../service.ts";
import { checkSchedule, snapshotName } from "./check.ts";
import { ScheduleRecords, type Mark, type RunResult } from "./records.ts";

type Taken = Pick<Snapshot, "id" | "name" | "createdAt">;

export interface ScheduleDeps {
  /** With `scheduleMigrations` applied. */
  readonly db: Database;
  readonly clock?: Clock;
  /** Null where there is no such instance. */
  readonly stateOf: (instanceId: string) => InstanceState | null;
  /** Of the kind that fits the instance's state when its turn comes. */
  readonly createSnapshot: (instanceId: string, name: string, metadata: Readonly<Record<string, string>>) => AsyncRes<Pick<Taken, "id">>;
  /** All of an instance's, those made by hand too. */
  readonly listSnapshots: (instanceId: string) => readonly Taken[];
  readonly removeSnapshot: (id: string) => AsyncRes<void>;
  readonly failed: Unheard;
}

/** The wall clock may jump, and what grows old is nobody's event: so it is looked at as often as that. What went wrong is tried again after as long. */
const LOOK_MS = 60_000;
/** Instances at once: each run pauses a guest and writes its memory. */
const MAX_RUNS = 2;

const TAKEN_IN: readonly (InstanceState | null)[] = ["Running", "Standby", "Stopped"];

export class Schedules {
  private readonly records: ScheduleRecords;
  private readonly clock: Clock;
  private readonly busy = new Map<string, Promise<void>>();
  /** Schedules in trouble: not to be looked at before. */
  private readonly retryAt = new Map<string, number>();
  private readonly rounds: Rounds;
  private started = false;

  constructor(private readonly deps: ScheduleDeps) {
    this.records = new ScheduleRecords(deps.db);
    this.clock = deps.clock ?? systemClock;
    this.rounds = new Rounds(this.clock, LOOK_MS, () => this.look(), (error) => deps.failed("look after snapshot schedules", error));
  }

  /** `request.bad`, `instance.not_found`. */
  set(instanceId: string, wanted: SetSchedule): Res<SnapshotSchedule> {
    const checked = checkSchedule(wanted);
    if (checked.isErr()) return err(checked.error);
    if (this.deps.stateOf(instanceId) === null) return fail("instance.not_found", `Cannot set the snapshot schedule of instance ${instanceId}: there is no such instance`);
    this.records.set(instanceId, checked.value, this.clock.now());
    this.rounds.now();
    return this.get(instanceId);
  }

  /** `snapshot.not_found` where there is none; `called`: what a message calls the instance. */
  get(instanceId: string, called = instanceId): Res<SnapshotSchedule> {
    const found = this.records.find(instanceId);
    return found === null ? fail("snapshot.not_found", `Cannot find a snapshot schedule of instance ${called}: none is set`) : ok(found);
  }

  /** Its snapshots stay, and are a new schedule's if one is set. A run under way ends as it would have. */
  remove(instanceId: string, called = instanceId): Res<void> {
    if (!this.records.remove(instanceId)) return fail("snapshot.not_found", `Cannot remove the snapshot schedule of instance ${called}: none is set`);
    return ok();
  }

  /** Once instances and snapshots are as they were left: what is due runs now. */
  start(): void {
    this.started = true;
    this.rounds.now();
  }

  /** Resolves once the runs under way have ended. */
  async idle(): Promise<void> {
    while (this.busy.size > 0) await Promise.all(this.busy.values());
  }

  async close(): Promise<void> {
    this.started = false;
    this.rounds.stop();
    await this.idle();
  }

  /** A daemon ended in the middle of a run, or could not record how it had ended: it counts if its snapshot came to be, and is repeated if not. */
  private takeUp(mark: Mark): void {
    const taken = this.deps.listSnapshots(mark.instanceId).find((one) => one.name === mark.name);
    const schedule = this.records.find(mark.instanceId);
    if (taken === undefined) this.records.unmark(mark);
    else if (schedule === null) this.records.identify(mark, taken.id);
    else this.records.ended(schedule, mark.name, { at: taken.createdAt, snapshotId: taken.id, error: null }, taken.createdAt);
  }

  /** Begins what is due and there is room for. */
  private look(): number | null {
    if (!this.started) return null;
    for (const mark of this.records.interrupted()) if (!this.busy.has(mark.instanceId)) this.takeUp(mark);
    const now = this.clock.now(), aged = this.records.aged(now);
    this.records.comeBack(now);
    for (const schedule of this.records.all()) {
      if (this.busy.size >= MAX_RUNS) break;
      const { instanceId, nextRunAt } = schedule;
      if (this.busy.has(instanceId) || now < this.notBefore(instanceId)) continue;
      if (nextRunAt <= now) this.begin(schedule, () => this.run(schedule));
      else if (aged.has(instanceId)) this.begin(schedule, () => this.retain(schedule, null));
    }
    return this.nextLook();
  }

  /** One that is further away than it was set to be means nothing: the clock was set back. */
  private notBefore(instanceId: string): number {
    const at = this.retryAt.get(instanceId) ?? 0;
    return at - this.clock.now() > LOOK_MS ? 0 : at;
  }

  private nextLook(): number | null {
    // With no room left the next run's end looks again.
    if (this.busy.size >= MAX_RUNS) return null;
    const times = this.records.all().filter(({ instanceId }) => !this.busy.has(instanceId)).map(({ instanceId, nextRunAt }) => Math.max(nextRunAt, this.notBefore(instanceId)));
    return times.length === 0 ? null : Math.min(Math.min(...times) - this.clock.now(), LOOK_MS);
  }

  private begin(schedule: SnapshotSchedule, work: () => Promise<void>): void {
    this.retryAt.delete(schedule.instanceId);
    const done = work()
      .catch((error: unknown) => {
        this.deps.failed(`carry out the snapshot schedule of instance ${schedule.instanceId}`, error);
        this.complain(schedule, messageOf(error));
      })
      // A database that takes no complaint either.
      .catch((error: unknown) => this.deps.failed(`record what is wrong with the snapshot schedule of instance ${schedule.instanceId}`, error))
      .finally(() => {
        this.busy.delete(schedule.instanceId);
        this.rounds.now();
      });
    this.busy.set(schedule.instanceId, done);
  }

  /** What went wrong beside a run's own outcome is tried again, but not at once. */
  private complain(schedule: SnapshotSchedule, error: string): void {
    this.retryAt.set(schedule.instanceId, this.clock.now() + LOOK_MS);
    this.records.complain(schedule, error);
  }

  private async run(schedule: SnapshotSchedule): Promise<void> {
    const { instanceId } = schedule, at = this.clock.now();
    const state = this.deps.stateOf(instanceId);
    if (!TAKEN_IN.includes(state)) {
      const error = `Cannot take the scheduled snapshot: the instance is ${state ?? "gone"}, and must be Running, Standby or Stopped`;
      return this.records.ended(schedule, null, { at, snapshotId: null, error }, this.clock.now());
    }
    const names = new Set([...this.deps.listSnapshots(instanceId), ...this.records.marks(instanceId)].map((one) => one.name));
    const name = snapshotName(schedule.namePrefix, at, (one) => names.has(one));
    this.records.mark(instanceId, name, at);
    const result = await this.take(schedule, name, at);
    this.records.ended(schedule, name, result, this.clock.now());
    // Retention as it is by now: it may have been changed while the snapshot was taken.
    const current = this.records.find(instanceId);
    if (result.snapshotId !== null && current !== null) await this.retain(current, current.maxCount);
  }

  private async take({ instanceId, metadata }: SnapshotSchedule, name: string, at: number): Promise<RunResult> {
    try {
      const taken = await this.deps.createSnapshot(instanceId, name, metadata);
      return taken.match(({ id }): RunResult => ({ at, snapshotId: id, error: null }), (error) => ({ at, snapshotId: null, error: error.message }));
    } catch (error) {
      return { at, snapshotId: null, error: `Cannot take the scheduled snapshot: ${messageOf(error)}` };
    }
  }

  /** The schedule's snapshots that are too many (of `maxCount`, where it is given) or too old. Marks of what somebody deleted go. */
  private surplus({ instanceId, maxAgeMs }: SnapshotSchedule, maxCount: number | null): Mark[] {
    const there = new Set(this.deps.listSnapshots(instanceId).map(({ id }) => id));
    const own = this.records.marks(instanceId).filter((mark) => {
      if (mark.snapshotId === null) return false;
      if (!there.has(mark.snapshotId)) this.records.unmark(mark);
      return there.has(mark.snapshotId);
    });
    const oldest = maxAgeMs === null ? Number.NEGATIVE_INFINITY : this.clock.now() - maxAgeMs;
    return own.filter(({ takenAt }, index) => takenAt < oldest || (maxCount !== null && index >= maxCount));
  }

  private async retain(schedule: SnapshotSchedule, maxCount: number | null): Promise<void> {
    for (const mark of this.surplus(schedule, maxCount)) {
      const removed = await this.deps.removeSnapshot(mark.snapshotId!);
      if (removed.isOk() || removed.error.code === "snapshot.not_found") this.records.unmark(mark);
      else this.complain(schedule, `Cannot delete the old snapshot ${mark.name}: ${removed.error.message}`);
    }
  }
}
