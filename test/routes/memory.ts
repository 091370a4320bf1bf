// In-memory services for tests of the HTTP layer alone: they keep records and answer as the interfaces promise, and a test
// can make them fail. Nothing runs.
import { createId } from "../../src/host/id.ts";
import { errAsync, ok, okAsync, ResultAsync } from "neverthrow";
import { DormouseError, fail, type Res } from "../../src/errors.ts";
import type { ImageRecord, ImageService } from "../../src/host/images/service.ts";
import type { CopyListener, CopyRequest, CopySession, NewEntry, PathStat } from "../../src/host/instances/copy-service.ts";
import type { CreateInstance, ExecListener, ExecRequest, ExecSession, Instance, InstanceService, InstanceState, ListFilter, LogOptions } from "../../src/host/instances/service.ts";
import type { NetworkService } from "../../src/host/network/service.ts";

export const matches = (tags: Readonly<Record<string, string>>, wanted: Readonly<Record<string, string>> = {}) =>
  Object.entries(wanted).every(([key, value]) => tags[key] === value);

export class MemoryImages implements Pick<ImageService, "pull" | "load" | "list" | "get" | "remove" | "tag" | "usage"> {
  readonly records = new Map<string, ImageRecord>();
  lastPull: unknown = null;

  add(name: string, change: Partial<ImageRecord> = {}): ImageRecord {
    const record: ImageRecord = {
      name, digest: `sha256:${"a".repeat(64)}`, status: "ready", error: null, platform: "linux/amd64",
      config: { entrypoint: ["/entry"], cmd: ["serve"], env: ["PATH=/bin", "EMPTY="], workingDir: "/srv", user: null, volumes: [], stopSignal: null, exposedPorts: [], labels: {} },
      sizeBytes: 4096, queuePosition: null, tags: {}, createdAt: Date.UTC(2026, 0, 2, 3, 4, 5), progress: null, ...change,
    };
    this.records.set(name, record);
    return record;
  }
  pull: ImageService["pull"] = (request) => {
    this.lastPull = request;
    return okAsync(this.add(request.name, { status: "pulling", sizeBytes: null, config: null, tags: request.tags ?? {}, progress: { doneBytes: 1, totalBytes: 2 } }));
  };
  load: ImageService["load"] = (path, name) => okAsync(this.add(name ?? path, { status: "converting" }));
  list: ImageService["list"] = (filter) => [...this.records.values()].filter((one) => matches(one.tags, filter?.tags));
  get: ImageService["get"] = (name) => {
    const found = this.records.get(name);
    return found === undefined ? fail("image.not_found", `Cannot find image ${name}.`) : ok(found);
  };
  remove: ImageService["remove"] = (name) =>
    this.records.delete(name) ? okAsync(undefined) : errAsync(new DormouseError("image.not_found", `Cannot delete image ${name}: there is none.`));
  tag: ImageService["tag"] = (name, target) => this.get(name).map((record) => this.add(target, { ...record, name: target }));
  usage: ImageService["usage"] = () => ({ blobBytes: 10, rootfsBytes: 20, images: this.records.size });
}

/** What a test does as the guest's side of an exec. */
export interface FakeExec {
  readonly request: ExecRequest | null;
  readonly listener: ExecListener;
  readonly gone: AbortSignal;
  readonly calls: string[];
  readonly input: string[];
  /** What writeStdin answers. */
  accepting: boolean;
}

/** What a test does as the guest's side of a copy. */
export interface FakeCopy {
  readonly request: CopyRequest;
  readonly listener: CopyListener;
  readonly calls: string[];
  readonly entries: NewEntry[];
  readonly data: string[];
  /** What sendData answers. */
  accepting: boolean;
}

export class MemoryInstances implements InstanceService {
  readonly records = new Map<string, Instance>();
  readonly listeners = new Set<(instance: Instance) => void>();
  readonly execs: FakeExec[] = [];
  readonly calls: string[] = [];
  lines: string[] = [];
  /** Makes the next verb fail, or the log after its lines. */
  failNext: DormouseError | null = null;
  failLog: Error | null = null;
  onExec: (exec: FakeExec) => void = () => {};

  change(id: string, change: Partial<Instance>): Instance {
    const now = { ...this.records.get(id), ...change } as Instance;
    this.records.set(id, now);
    for (const listener of this.listeners) listener(now);
    return now;
  }
  protected failure(): DormouseError | null {
    const failure = this.failNext;
    this.failNext = null;
    return failure;
  }
  create: InstanceService["create"] = (request) => {
    const failure = this.failure();
    if (failure !== null) return errAsync(failure);
    if ([...this.records.values()].some((one) => one.name === request.name)) return errAsync(new DormouseError("instance.already_exists", `Cannot create instance ${request.name}: the name is taken.`));
    const id = createId();
    return okAsync(this.change(id, fresh(id, request)));
  };
  list: InstanceService["list"] = (filter: ListFilter = {}) =>
    [...this.records.values()].filter((one) => (filter.state === undefined || one.state === filter.state) && matches(one.tags, filter.tags));
  get: InstanceService["get"] = (ref): Res<Instance> => {
    const all = [...this.records.values()];
    const exact = all.find((one) => one.id === ref) ?? all.find((one) => one.name === ref);
    if (exact !== undefined) return ok(exact);
    const prefixed = all.filter((one) => one.id.startsWith(ref));
    if (prefixed.length > 1) return fail("name.ambiguous", `Cannot tell which instance ${ref} is.`);
    return prefixed[0] === undefined ? fail("instance.not_found", `Cannot find instance ${ref}.`) : ok(prefixed[0]);
  };
  protected verb(ref: string, verb: string, from: InstanceState, to: InstanceState) {
    this.calls.push(verb);
    const failure = this.failure();
    if (failure !== null) return errAsync<Instance, DormouseError>(failure);
    const found = this.get(ref);
    if (found.isErr()) return errAsync<Instance, DormouseError>(found.error);
    if (found.value.state !== from) return errAsync<Instance, DormouseError>(new DormouseError("instance.invalid_state", `Cannot ${verb} instance ${ref}: it is ${found.value.state}.`));
    return okAsync<Instance, DormouseError>(this.change(found.value.id, { state: to }));
  }
  start: InstanceService["start"] = (ref, override) => this.verb(ref, `start ${JSON.stringify(override)}`, "Stopped", "Running");
  stop: InstanceService["stop"] = (ref) => this.verb(ref, "stop", "Running", "Stopped");
  remove: InstanceService["remove"] = (ref, { graceful }) => {
    this.calls.push(`remove ${graceful}`);
    const found = this.get(ref);
    if (found.isErr()) return errAsync(found.error);
    this.records.delete(found.value.id);
    return okAsync(undefined);
  };
  wait: InstanceService["wait"] = (ref, target, timeoutMs, signal) => {
    this.calls.push(`wait ${target} ${timeoutMs}`);
    const found = this.get(ref);
    if (found.isErr()) return errAsync(found.error);
    const { id } = found.value;
    if (found.value.state === target || timeoutMs === 0) return okAsync({ instance: found.value, timedOut: found.value.state !== target });
    return ResultAsync.fromSafePromise(
      new Promise<{ instance: Instance; timedOut: boolean }>((done) => {
        const listener = (instance: Instance) => {
          if (instance.id === id && instance.state === target) done({ instance, timedOut: false });
        };
        this.listeners.add(listener);
        signal.addEventListener("abort", () => {
          this.calls.push("wait aborted");
          this.listeners.delete(listener);
          done({ instance: this.records.get(id) as Instance, timedOut: true });
        });
      }),
    );
  };
  logs: InstanceService["logs"] = (ref, options) => this.get(ref).map(() => this.#lines(options));
  async *#lines({ source, tail, follow, signal }: LogOptions): AsyncGenerator<string> {
    this.calls.push(`logs ${source} ${tail} ${follow}`);
    yield* this.lines.slice(-tail);
    if (this.failLog !== null) throw this.failLog;
    if (!follow || signal.aborted) return;
    await new Promise((done) => signal.addEventListener("abort", done));
    this.calls.push("logs aborted");
  }
  exec: InstanceService["exec"] = (_ref, request, listener, gone) => this.#open(request, listener, gone);
  attach: InstanceService["attach"] = (_ref, listener, gone) => this.#open(null, listener, gone);
  #open(request: ExecRequest | null, listener: ExecListener, gone: AbortSignal) {
    const failure = this.failure();
    if (failure !== null) return errAsync<ExecSession, DormouseError>(failure);
    const exec: FakeExec = { request, listener, gone, calls: [], input: [], accepting: true };
    this.execs.push(exec);
    const decoder = new TextDecoder();
    queueMicrotask(() => this.onExec(exec));
    return okAsync<ExecSession, DormouseError>({
      writeStdin: (bytes) => {
        exec.input.push(decoder.decode(bytes));
        exec.calls.push(`stdin ${bytes.byteLength}`);
        return exec.accepting;
      },
      endStdin: () => void exec.calls.push("end"),
      resize: (rows, cols) => void exec.calls.push(`resize ${rows} ${cols}`),
      signal: (number) => void exec.calls.push(`signal ${number}`),
      pause: () => void exec.calls.push("pause"),
      resume: () => void exec.calls.push("resume"),
      close: () => void exec.calls.push("close"),
    });
  }
  readonly copies: FakeCopy[] = [];
  /** By path; what is not here does not exist. */
  readonly paths = new Map<string, PathStat>();
  copy: InstanceService["copy"] = (_ref, request, listener) => {
    const failure = this.failure();
    if (failure !== null) return errAsync<CopySession, DormouseError>(failure);
    const copy: FakeCopy = { request, listener, calls: [], entries: [], data: [], accepting: true };
    this.copies.push(copy);
    const decoder = new TextDecoder();
    return okAsync<CopySession, DormouseError>({
      sendEntry: (entry) => (copy.entries.push(entry), true),
      sendData: (bytes) => (copy.data.push(decoder.decode(bytes)), copy.accepting),
      endFile: () => (copy.calls.push("end"), true),
      finish: () => void copy.calls.push("finish"),
      pause: () => void copy.calls.push("pause"),
      resume: () => void copy.calls.push("resume"),
      close: () => void copy.calls.push("close"),
    });
  };
  stat: InstanceService["stat"] = (ref, { path, followLinks }) => {
    this.calls.push(`stat ${path} ${followLinks}`);
    return this.get(ref).asyncAndThen(() => okAsync(this.paths.get(path) ?? { entry: null, error: null }));
  };
  attachVolume: InstanceService["attachVolume"] = (ref, mount) => this.verb(ref, `attach ${JSON.stringify(mount)}`, "Stopped", "Stopped").map(({ id, volumes }) => this.change(id, { volumes: [...volumes, mount] }));
  detachVolume: InstanceService["detachVolume"] = (ref, volume) => this.verb(ref, `detach ${volume}`, "Stopped", "Stopped").map(({ id, volumes }) => this.change(id, { volumes: volumes.filter(({ volumeId }) => volumeId !== volume) }));
  stats: InstanceService["stats"] = (ref) =>
    this.get(ref).asyncAndThen(() => okAsync({ cpuSeconds: 1.5, exits: 7, disks: [], net: { rxBytes: 10, txBytes: 20, rxPackets: 1, txPackets: 2 }, residentBytes: 2 ** 28, virtualBytes: 2 ** 31 }));
  subscribe: InstanceService["subscribe"] = (listener) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };
  close = async () => {};
}

export function fresh(id: string, request: CreateInstance): Instance {
  const now = Date.now();
  return {
    ...request, id, imageDigest: `sha256:${"a".repeat(64)}`, state: "Created", stateError: null, createdAt: now, startedAt: null, stoppedAt: null,
    exitCode: null, exitMessage: null, ip: request.network ? "172.30.0.2" : null, mac: request.network ? "02:00:ac:1e:00:02" : null,
    hasSnapshot: false, removing: false, phase: "created", phaseSince: now, phaseDurationsMs: { created: 0 },
  };
}

export const memoryNetwork: Pick<NetworkService, "gateway" | "subnet"> = { gateway: "172.30.0.1", subnet: "172.30.0.0/16" };
