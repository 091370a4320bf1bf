// SleepService in memory, over the records of memory.ts: states, names and conflicts as the interface promises them.
import { createId } from "../../src/host/id.ts";
import { err, errAsync, ok, okAsync } from "neverthrow";
import { type AsyncRes, DormouseError, fail } from "../../src/errors.ts";
import type { Instance, InstanceState } from "../../src/host/instances/service.ts";
import type { AutoStandbyStatus, SetSchedule, SleepService, Snapshot, SnapshotSchedule, TargetState } from "../../src/host/snapshots/service.ts";
import { fresh, matches, MemoryInstances } from "./memory.ts";

const invalid = (verb: string, { name, state }: Instance) =>
  new DormouseError("instance.invalid_state", `Cannot ${verb} instance ${name}: it is ${state}.`, { details: { state } });

export class MemorySleep extends MemoryInstances implements SleepService {
  readonly snapshots = new Map<string, Snapshot>();
  readonly schedules = new Map<string, SnapshotSchedule>();
  /** What status() tells beyond the policy. */
  status: Partial<AutoStandbyStatus> = {};

  standby: SleepService["standby"] = (ref, options = {}) =>
    this.verb(ref, `standby ${JSON.stringify(options)}`, "Running", "Standby").map(({ id }) => this.change(id, { hasSnapshot: true }));
  restore: SleepService["restore"] = (ref) => this.verb(ref, "restore", "Standby", "Running").map(({ id }) => this.change(id, { hasSnapshot: false }));
  wake: SleepService["wake"] = (ref) =>
    this.get(ref).asyncAndThen((instance): AsyncRes<Instance> => {
      if (instance.state === "Running") return okAsync(instance);
      if (instance.state !== "Standby" || instance.autoStandby?.wakeOnPacket !== true) return errAsync(invalid("wake", instance));
      return this.restore(instance.id);
    });

  fork: SleepService["fork"] = (ref, { name, fromRunning, targetState }) => {
    this.calls.push(`fork ${name} ${fromRunning} ${targetState}`);
    return this.get(ref).asyncAndThen((source) => {
      const settled = source.state === "Stopped" || source.state === "Standby" || source.state === "Running";
      const memoryless = source.state === "Stopped" && targetState === "Standby";
      if (!settled || memoryless || (source.state === "Running" && !fromRunning)) return errAsync(invalid("fork", source));
      return this.#copy(source, name, targetState ?? (source.state as TargetState));
    });
  };
  update: SleepService["update"] = (ref, change) => this.get(ref).asyncAndThen(({ id }) => okAsync(this.change(id, change)));

  autoStandbyStatus: SleepService["autoStandbyStatus"] = (ref) => this.get(ref).asyncAndThen((instance) => okAsync(this.#status(instance)));
  holdAutoStandby: SleepService["holdAutoStandby"] = (ref) =>
    this.get(ref).asyncAndThen((instance): AsyncRes<AutoStandbyStatus> => {
      if (instance.state === "Standby") return errAsync(new DormouseError("instance.in_standby", `Cannot hold instance ${ref}: it sleeps.`));
      if (instance.autoStandby?.enabled === true) this.status = { ...this.status, holdUntil: Date.now() + instance.autoStandby.idleTimeoutMs };
      return okAsync(this.#status(instance));
    });

  createSnapshot: SleepService["createSnapshot"] = (ref, request) => {
    const failure = this.failure();
    if (failure !== null) return errAsync(failure);
    return this.get(ref).asyncAndThen((source): AsyncRes<Snapshot> => {
      const able: readonly InstanceState[] = request.kind === "Stopped" ? ["Stopped"] : ["Running", "Standby"];
      if (!able.includes(source.state)) return errAsync(invalid(`take a ${request.kind} snapshot of`, source));
      const { name } = request;
      if (name !== null && this.listSnapshots({ name, sourceInstanceId: source.id }).length > 0) return errAsync(new DormouseError("name.taken", `Cannot create snapshot ${name}: there is one of ${source.name} by that name.`));
      const compression = request.compression ?? source.snapshotPolicy?.compression ?? null;
      const snapshot: Snapshot = {
        id: createId(), name, kind: request.kind, tags: request.tags, createdAt: Date.now(), sourceInstanceId: source.id, sourceInstanceName: source.name, sizeBytes: 4096,
        compression, compressionState: compression?.enabled === true ? "compressing" : "none", compressionError: null, compressedSizeBytes: null, uncompressedSizeBytes: null,
      };
      this.snapshots.set(snapshot.id, snapshot);
      return okAsync(snapshot);
    });
  };
  restoreSnapshot: SleepService["restoreSnapshot"] = (ref, snapshotRef, targetState) => {
    this.calls.push(`restoreSnapshot ${targetState}`);
    const failure = this.failure();
    if (failure !== null) return errAsync(failure);
    return this.get(ref).andThen((instance) => this.getSnapshot(snapshotRef).map((snapshot) => ({ instance, snapshot })))
      .asyncAndThen(({ instance, snapshot }): AsyncRes<Instance> => {
        if (snapshot.sourceInstanceId !== instance.id) return errAsync(new DormouseError("snapshot.not_found", `Cannot restore instance ${ref}: the snapshot is another instance's.`));
        if (snapshot.kind === "Stopped" && targetState === "Standby") return errAsync(new DormouseError("request.bad", `Cannot restore instance ${ref}: a snapshot of kind Stopped has no memory.`));
        return okAsync(this.#arrive(instance.id, targetState ?? targetOf(snapshot)));
      });
  };
  forkSnapshot: SleepService["forkSnapshot"] = (snapshotRef, { name, targetState }) => {
    this.calls.push(`forkSnapshot ${name} ${targetState}`);
    return this.getSnapshot(snapshotRef).asyncAndThen((snapshot) => {
      const source = this.records.get(snapshot.sourceInstanceId) ?? fresh(snapshot.sourceInstanceId, GONE);
      return this.#copy(source, name, targetState ?? targetOf(snapshot));
    });
  };

  listSnapshots: SleepService["listSnapshots"] = ({ kind, name, sourceInstanceId, tags } = {}) =>
    [...this.snapshots.values()].reverse().filter((one) =>
      (kind === undefined || one.kind === kind) && (name === undefined || one.name === name) && (sourceInstanceId === undefined || one.sourceInstanceId === sourceInstanceId) && matches(one.tags, tags));
  getSnapshot: SleepService["getSnapshot"] = (ref) => {
    const all = [...this.snapshots.values()];
    const found = [all.filter(({ id }) => id === ref), all.filter(({ name }) => name === ref), all.filter(({ id }) => id.startsWith(ref))].find((some) => some.length > 0) ?? [];
    if (found.length > 1) return fail("name.ambiguous", `Cannot tell which snapshot ${ref} is.`);
    return found[0] === undefined ? fail("snapshot.not_found", `Cannot find snapshot ${ref}.`) : ok(found[0]);
  };
  removeSnapshot: SleepService["removeSnapshot"] = (ref) => this.getSnapshot(ref).asyncAndThen(({ id }) => okAsync(void this.snapshots.delete(id)));

  setSchedule: SleepService["setSchedule"] = (ref, schedule) =>
    this.get(ref).asyncAndThen(({ id }) => okAsync(this.#setSchedule(id, schedule)));
  getSchedule: SleepService["getSchedule"] = (ref) => this.get(ref).andThen(({ id }) => {
    const found = this.schedules.get(id);
    return found === undefined ? err(new DormouseError("snapshot.not_found", `Cannot find a snapshot schedule of instance ${ref}.`)) : ok(found);
  });
  removeSchedule: SleepService["removeSchedule"] = (ref) => this.getSchedule(ref).asyncAndThen(({ instanceId }) => okAsync(void this.schedules.delete(instanceId)));

  #setSchedule(instanceId: string, schedule: SetSchedule): SnapshotSchedule {
    const now = Date.now(), before = this.schedules.get(instanceId);
    const nextRunAt = before?.intervalMs === schedule.intervalMs ? before.nextRunAt : now + schedule.intervalMs;
    const set = { ...schedule, instanceId, createdAt: before?.createdAt ?? now, updatedAt: now, nextRunAt, lastRunAt: null, lastSnapshotId: null, lastError: null };
    this.schedules.set(instanceId, set);
    return set;
  }

  #copy(source: Instance, name: string, state: TargetState): AsyncRes<Instance> {
    if ([...this.records.values()].some((one) => one.name === name)) return errAsync(new DormouseError("instance.already_exists", `Cannot fork ${source.name} as ${name}: the name is taken.`));
    const id = createId();
    this.change(id, fresh(id, { ...source, name, ports: [] }));
    return okAsync(this.#arrive(id, state));
  }
  #arrive(id: string, state: TargetState): Instance {
    return this.change(id, { state, hasSnapshot: state === "Standby" });
  }

  #status({ autoStandby, state }: Instance): AutoStandbyStatus {
    const enabled = autoStandby?.enabled === true, eligible = enabled && state === "Running";
    return {
      activeInboundConnections: 0, configured: autoStandby !== null, eligible, enabled, supported: true, trackingMode: "memory",
      reason: autoStandby === null ? "policy_missing" : !enabled ? "policy_disabled" : eligible ? "idle_timeout_not_elapsed" : "instance_not_running",
      status: !enabled ? "disabled" : eligible ? "idle_countdown" : "ineligible",
      countdownRemainingMs: null, holdUntil: null, idleSince: null, idleTimeoutMs: enabled ? autoStandby.idleTimeoutMs : null, lastInboundActivityAt: null, nextStandbyAt: null, ...this.status,
    };
  }
}

const targetOf = ({ kind }: Snapshot): TargetState => (kind === "Standby" ? "Running" : "Stopped");

/** What a snapshot knows of a source that was deleted; its own record would. */
const GONE = {
  name: "gone", image: "gone", memoryBytes: 2 ** 30, vcpus: 2, overlayBytes: 2 ** 30, env: {}, tags: {}, entrypoint: null, cmd: null,
  network: true, ports: [], tty: false, openStdin: false, autoStandby: null, snapshotPolicy: null, volumes: [],
} as const;
