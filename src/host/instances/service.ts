// What the instance domain offers to routes. Implemented in this folder; one file a verb.
import type { AsyncRes, Res } from "../../errors.ts";
import type { PortMapping } from "../network/service.ts";
import type { AutoStandbyPolicy, SnapshotPolicy } from "../snapshots/service.ts";
import type { VolumeMount } from "../volumes/service.ts";
import type { VmmStats } from "../../vmm/protocol.ts";
import type { CopyListener, CopyRequest, CopySession, PathStat, StatRequest } from "./copy-service.ts";

export const INSTANCE_STATES = ["Created", "Initializing", "Running", "Paused", "Shutdown", "Stopped", "Standby", "Unknown"] as const;
export type InstanceState = (typeof INSTANCE_STATES)[number];

/** What a caller asks for; sizes are bytes, checked by the route's schema and again here. */
export interface CreateInstance {
  readonly name: string;
  readonly image: string;
  readonly memoryBytes: number;
  readonly vcpus: number;
  readonly overlayBytes: number;
  readonly env: Readonly<Record<string, string>>;
  readonly tags: Readonly<Record<string, string>>;
  /** Null keeps the image's. */
  readonly entrypoint: readonly string[] | null;
  readonly cmd: readonly string[] | null;
  readonly network: boolean;
  readonly ports: readonly PortMapping[];
  /** Terminal and standard input of the workload (`run -it`); extensions of ours. */
  readonly tty: boolean;
  readonly openStdin: boolean;
  /** Null: it sleeps only when told to, and wakes by request alone. */
  readonly autoStandby: AutoStandbyPolicy | null;
  readonly snapshotPolicy: SnapshotPolicy | null;
  /** In order of attachment; of an instance on record by id. */
  readonly volumes: readonly VolumeMount[];
}

/** The record as routes see it. Times in milliseconds since the epoch. */
export interface Instance extends CreateInstance {
  readonly id: string;
  readonly imageDigest: string;
  readonly state: InstanceState;
  readonly stateError: string | null;
  readonly createdAt: number;
  readonly startedAt: number | null;
  readonly stoppedAt: number | null;
  readonly exitCode: number | null;
  readonly exitMessage: string | null;
  readonly ip: string | null;
  readonly mac: string | null;
  readonly hasSnapshot: boolean;
  /** Its deletion has begun, or it is a fork that is nobody yet: it can be deleted, and nothing else. */
  readonly removing: boolean;
  readonly phase: string;
  readonly phaseSince: number;
  /** Milliseconds in each past phase, and in the current one until now. */
  readonly phaseDurationsMs: Readonly<Record<string, number>>;
}

export interface ListFilter { readonly state?: InstanceState; readonly tags?: Readonly<Record<string, string>> }

export type LogSource = "app" | "vmm" | "dormouse";
export interface LogOptions { readonly source: LogSource; /** Last lines first; default 100. */ readonly tail: number; readonly follow: boolean; readonly signal: AbortSignal }

export interface ExecRequest {
  readonly command: readonly string[];
  readonly tty: boolean;
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string | null;
  readonly user: string | null;
  readonly rows: number;
  readonly cols: number;
  /** Null: no limit. Past it the command is killed and the code is 124. */
  readonly timeoutMs: number | null;
  /** How long to wait for an agent that is not there yet. */
  readonly waitForAgentMs: number;
}
export interface ExecEnd { readonly code: number; readonly message: string | null }

/** A running exec (or attach). The listener is set at once by the caller of exec(). */
export interface ExecSession {
  /** False while the peer is slow: wait for onDrain before writing more. */
  writeStdin(bytes: Uint8Array): boolean;
  endStdin(): void;
  resize(rows: number, cols: number): void;
  signal(number: number): void;
  /** Stops reading output until resume(): back-pressure from a slow client. */
  pause(): void;
  resume(): void;
  /** Hangs up: the command is killed. Idempotent. */
  close(): void;
}
export interface ExecListener {
  onStdout(bytes: Uint8Array): void;
  onStderr(bytes: Uint8Array): void;
  onDrain(): void;
  /** Once, last. A command that can't start ends here with 127 or 126 and a message. */
  onEnd(end: ExecEnd): void;
  /** Once, instead of onEnd: the guest or its agent went away. */
  onLost(reason: string): void;
}

/** The monitor's figures, and the memory of its process (guest memory that was touched is part of it). */
export interface InstanceStats extends VmmStats { readonly residentBytes: number; readonly virtualBytes: number }

export interface InstanceService {
  /** Records and starts it in the background; a later failure ends in Stopped with exitMessage. */
  create(request: CreateInstance): AsyncRes<Instance>;
  list(filter?: ListFilter): Instance[];
  /** Exact id, exact name, then unique id prefix; `name.ambiguous` otherwise. */
  get(ref: string): Res<Instance>;
  start(ref: string, override: { entrypoint?: readonly string[]; cmd?: readonly string[] }): AsyncRes<Instance>;
  /** Graceful: StopSignal, 10 s (or graceMs), SIGKILL. Answers when it is Stopped. Joins a stop under way. */
  stop(ref: string, options?: { graceMs?: number }): AsyncRes<Instance>;
  remove(ref: string, options: { graceful: boolean }): AsyncRes<void>;
  /** Of a stopped instance, in effect at its next start; `instance.invalid_state` otherwise. */
  attachVolume(ref: string, mount: VolumeMount): AsyncRes<Instance>;
  /** The same; what was written over it is deleted. */
  detachVolume(ref: string, volume: string): AsyncRes<Instance>;
  /** Resolves on the target, on a state from which it can't come, or at the deadline (`timedOut`). */
  wait(ref: string, target: InstanceState, timeoutMs: number, signal: AbortSignal): AsyncRes<{ instance: Instance; timedOut: boolean }>;
  /** Whole lines without their newline. The iterator throws where the log can't be read on; `log.not_found` before. */
  logs(ref: string, options: LogOptions): Res<AsyncIterable<string>>;
  /** `gone`: whoever asked waits for the session no longer. One that is there is ended by its close(). */
  exec(ref: string, request: ExecRequest, listener: ExecListener, gone: AbortSignal): AsyncRes<ExecSession>;
  /** The workload's own terminal or stdin (extension of ours). */
  attach(ref: string, listener: ExecListener, gone: AbortSignal): AsyncRes<ExecSession>;
  /** Files in or out of a running instance; keeps it awake, as exec does. */
  copy(ref: string, request: CopyRequest, listener: CopyListener): AsyncRes<CopySession>;
  stat(ref: string, request: StatRequest): AsyncRes<PathStat>;
  stats(ref: string): AsyncRes<InstanceStats>;
  /** Called with every change of a record that is committed, in order; at last, deleted, with one that is Stopped and `removing`. Returns the unsubscribe. */
  subscribe(listener: (instance: Instance) => void): () => void;
  close(): Promise<void>;
}
