// What all verbs share: the record, the machines at hand, and the few things that more than one of them does.
import { join } from "node:path";
import type { Database } from "bun:sqlite";
import type { Artifacts } from "../../artifacts.ts";
import { messageOf, type Res } from "../../errors.ts";
import type { Connection } from "../../ffi/netlink/conntrack.ts";
import { describeError, type Logger } from "../../log.ts";
import type { DiskService } from "../disks/service.ts";
import { Ext4Images } from "../ext4-images.ts";
import { FileWatches } from "../file-watches.ts";
import type { ImageService } from "../images/service.ts";
import type { NetworkService } from "../network/service.ts";
import type { Poller } from "../poller.ts";
import type { Trash } from "../trash.ts";
import type { Activities } from "../standby/activity.ts";
import type { StandbyGuard } from "../standby/guard.ts";
import { Generations } from "../snapshots/generations.ts";
import type { Compressor } from "../snapshots/compression/compressor.ts";
import { Merger } from "../snapshots/merging/merger.ts";
import { Merges } from "../snapshots/merging/plan.ts";
import { Snapshots } from "../snapshots/snapshots.ts";
import type { VolumeService } from "../volumes/service.ts";
import type { Cgroups } from "../vmm/cgroup.ts";
import type { Machine } from "../vmm/machine.ts";
import type { Monitors } from "../vmm/pool.ts";
import { Lanes } from "./lanes.ts";
import type { DiskFiles } from "./boot.ts";
import { appendOperation } from "./oplog.ts";
import { Records } from "./records.ts";
import type { Save } from "./saving.ts";
import { isStart } from "./states.ts";
import { Taps } from "./taps.ts";

export const SLEEP_STEPS = ["begun", "deaf", "saved", "asleep", "ended", "started", "acknowledged", "awake", "released"] as const;
export type SleepStep = (typeof SLEEP_STEPS)[number];

export interface InstanceDeps {
  /** With `instanceMigrations` applied. */
  readonly db: Database;
  /** `<data>/instances`; made where it is missing. */
  readonly dir: string;
  readonly images: Pick<ImageService, "ready">;
  /** Started. */
  readonly network: Pick<NetworkService, "allocate" | "lease" | "openTap" | "adoptTap" | "setClosed" | "publish" | "forget" | "release" | "reconcile" | "resolvers">;
  readonly artifacts: Artifacts;
  readonly poller: Poller;
  readonly cgroups: Cgroups;
  readonly logger: Logger;
  /** Where monitors come from: the pool, or `spawning()`. */
  readonly monitors: Monitors;
  /** Whether guests see XSAVE (`dormouse doctor`'s probe). */
  readonly xsave: boolean;
  /** `<data>/memory`: saved machines. */
  readonly memoryDir: string;
  readonly trash: Trash;
  /** Whom a standby must not disturb. */
  readonly guard: Pick<StandbyGuard, "visitors" | "lateVisitors" | "forget">;
  /** Sessions open to guests: they keep them awake. */
  readonly activities: Pick<Activities, "begin" | "of" | "forget">;
  /** The daemon's own connections to guests. */
  readonly ownConnection: (connection: Connection) => boolean;
  /** The kernel's table of connections; may throw. */
  readonly connections: () => readonly Connection[];
  readonly disks: DiskService;
  readonly volumes: Pick<VolumeService, "get" | "attach" | "detach" | "release" | "mountsOf" | "files">;
  /** What becomes of a saved machine's memory file while nobody needs it. */
  readonly compression: Pick<Compressor, "schedule" | "ensureRaw" | "cancel" | "state" | "moved" | "before">;
  /** How long a save may take at most, by the bytes of the guest's memory; the product's own unless given. */
  readonly saveTimeoutMs?: (memoryBytes: number) => number;
  /** Told of each step of a standby and a restore as it is done: for tests that kill whoever is at work there. */
  readonly onStep?: (step: SleepStep) => void;
  /** Told when the vCPUs of a guest that wakes were let go, by the host's monotonic clock in milliseconds: for benches. */
  readonly onRunning?: (atMs: number) => void;
  /** What guests may have at most; the host's own unless given. */
  readonly host?: { readonly memoryBytes: number; readonly vcpus: number };
}

export class Context {
  readonly records: Records;
  readonly lanes = new Lanes();
  readonly ext4: Ext4Images;
  readonly machines = new Map<string, Machine>();
  readonly generations: Generations;
  readonly merger: Merger;
  readonly snapshots: Snapshots;
  readonly taps: Taps;
  /** Saves under way, by instance. */
  readonly saves = new Map<string, Save>();
  /** Standbys that are still looking who is there. */
  readonly dozing = new Map<string, Save>();
  /** Who wants to hear that a monitor has stopped reading its TAP. */
  readonly onDeaf = new Map<string, () => void>();
  /** Who is trying last to have packets wake an instance. */
  readonly listening = new Map<string, object>();
  /** Wakes those who follow logs. */
  readonly files: FileWatches;
  /** The daemon is going: nothing new is begun, and news of machines are left to the next one. */
  closing = false;

  constructor(readonly deps: InstanceDeps) {
    this.records = new Records(deps.db, deps.volumes, (error) => deps.logger.error("instance.listener_failed", { error: describeError(error) }));
    this.files = new FileWatches(deps.poller);
    const left = (error: unknown) => deps.logger.warn("memory.left", { error: describeError(error), hint: "what nobody needs is deleted with the next that goes" });
    this.generations = new Generations(deps.db, deps.memoryDir, deps.trash, { going: (id) => (void deps.compression.cancel(id).catch(left), this.merger.gone(id)), left });
    this.merger = mergerOf(deps, this.generations);
    this.snapshots = new Snapshots(deps.db, deps.volumes);
    this.taps = new Taps(deps.network, deps.poller);
    this.ext4 = new Ext4Images(join(deps.dir, ".templates"));
  }

  get poller(): Poller { return this.deps.poller; }

  step(step: SleepStep): void { this.deps.onStep?.(step); }

  dir(id: string): string { return join(this.deps.dir, id); }

  /** The files of its writable disk; `used`: it has run on them, so they are there, or an error. */
  disk(id: string, used = false): Res<DiskFiles> { return this.deps.disks.files({ kind: "instance", id }, used).map((layers) => ({ layers })); }

  /** True where it is Stopped and no start is under way, or gone from the record: nothing more is written to its logs. */
  hasEnded(id: string): boolean {
    const instance = this.records.find(id);
    if (instance === null) return true;
    const starting = this.lanes.verbs(id).some((verb) => isStart(verb) || verb === "restart");
    return instance.state === "Stopped" && !starting;
  }

  /** Does what must not stop a verb where it fails; that is told in the log. */
  attempt(id: string, what: string, work: () => void): void {
    try {
      work();
    } catch (error) {
      this.note(id, `${what}: ${messageOf(error)}`, "warn");
    }
  }

  /** Into the instance's own log, and the daemon's. A log that can't be written stops no verb. */
  note(id: string, text: string, level: "info" | "warn" = "info"): void {
    this.deps.logger[level]("instance", { instance: id, text });
    try {
      appendOperation(this.dir(id), text);
    } catch (error) {
      this.deps.logger.warn("instance.log_unwritable", { instance: id, error: describeError(error) });
    }
  }
}

/** A chain is merged before it is compressed. */
function mergerOf({ db, compression, logger }: InstanceDeps, generations: Generations): Merger {
  const merger = new Merger({ generations, merges: new Merges(db), compression, failed: (generation, error) => logger.warn("memory.unmerged", { generation, error: describeError(error) }) });
  compression.before = (gid) => merger.settled(gid);
  return merger;
}
