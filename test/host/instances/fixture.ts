// An instance domain over a real database, folder and monitor processes; image and network are the least that it asks for.
import type { Database } from "bun:sqlite";
import { mkdirSync, mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ok, okAsync } from "neverthrow";
import { fail } from "../../../src/errors.ts";
import { ProcessHandle, SIGKILL } from "../../../src/ffi/process.ts";
import { diskMigrations, Disks } from "../../../src/host/disks/disks.ts";
import { instanceMigrations, nameOfOwner, openInstances, type InstanceDeps } from "../../../src/host/instances/instances.ts";
import { Records } from "../../../src/host/instances/records.ts";
import type { CreateInstance, InstanceService } from "../../../src/host/instances/service.ts";
import type { ImageConfig } from "../../../src/host/images/service.ts";
import type { Lease, PortMapping } from "../../../src/host/network/service.ts";
import type { SleepService } from "../../../src/host/snapshots/service.ts";
import { Activities } from "../../../src/host/standby/activity.ts";
import { openPoller, type Poller } from "../../../src/host/poller.ts";
import { openStore, type Store } from "../../../src/host/store/store.ts";
import { openVolumes, volumeMigrations } from "../../../src/host/volumes/volumes.ts";
import type { VolumeService } from "../../../src/host/volumes/service.ts";
import { openCgroups } from "../../../src/host/vmm/cgroup.ts";
import { spawning } from "../../../src/host/vmm/pool.ts";
import { createLogger } from "../../../src/log.ts";
import { trashIn } from "../../support/trash.ts";
import type { Trash } from "../../../src/host/trash.ts";

const STAND_IN = join(import.meta.dir, "stand-in.ts");
export const DIGEST = `sha256:${"ab".repeat(32)}`;

export const imageConfig: ImageConfig = {
  entrypoint: null, cmd: ["serve"], env: ["PATH=/bin", "MODE=image"], workingDir: "/srv", user: "www", volumes: ["/data"],
  stopSignal: "SIGQUIT", exposedPorts: [], labels: {},
};

/** Leases and ports in memory, with the refusals of the real one. */
export class MemoryNetwork {
  readonly leases = new Map<string, Lease>();
  readonly ports = new Map<string, readonly PortMapping[]>();
  allocate = (instanceId: string) => {
    const n = this.leases.size + 2;
    const lease = this.leases.get(instanceId) ?? { instanceId, ip: `10.88.0.${n}`, mac: `02:64:0a:58:00:0${n}`, gateway: "10.88.0.1", tap: `t${n}` };
    this.leases.set(instanceId, lease);
    return ok(lease);
  };
  lease = (id: string) => this.leases.get(id) ?? null;
  adoptTap = () => okAsync(undefined);
  setClosed = () => okAsync(undefined);
  forget = () => okAsync(undefined);
  openTap = () => fail("host.network", "Cannot open a TAP here").mapErr((error) => error).asyncMap(async () => 0);
  publish = (id: string, ports: readonly PortMapping[]) => {
    const taken = [...this.ports].some(([owner, theirs]) => owner !== id && theirs.some((one) => ports.some((port) => port.hostPort === one.hostPort)));
    if (taken) return fail("port.taken", "Cannot publish that port: it is taken").asyncMap(async () => undefined);
    this.ports.set(id, ports);
    return ok(undefined).asyncMap(async () => undefined);
  };
  release = (id: string) => (this.leases.delete(id), this.ports.delete(id), ok(undefined).asyncMap(async () => undefined));
  reconcile = (living: ReadonlySet<string>) => {
    for (const id of this.leases.keys()) if (!living.has(id)) this.leases.delete(id);
    return ok(undefined).asyncMap(async () => undefined);
  };
  resolvers = () => ["192.0.2.53"];
}

/** Of all tables that there are in the database. */
/** The table of instances, for tests that look at it beside a daemon's: of volumes it knows nothing. */
export const recordsOf = (db: Database): Records => new Records(db, { attach: () => ok([]), detach: () => fail("volume.not_found", "there are none"), release() {}, mountsOf: () => [] });

export const migrations = [...volumeMigrations, ...instanceMigrations, ...diskMigrations];

export interface Fixture {
  readonly root: string;
  readonly store: Store;
  readonly instances: InstanceService & SleepService;
  readonly volumes: VolumeService;
  readonly network: MemoryNetwork;
  readonly poller: Poller;
  readonly logged: string[];
  /** Ends this daemon's hold (guests run on). */
  close(): Promise<void>;
}

const roots: string[] = [];
/** Call in afterAll: ends every monitor that a test left, by the process ids on record, and removes the folders. */
export async function removeRoots(): Promise<void> {
  for (const root of roots.splice(0)) {
    for (const pid of monitorsIn(root)) killIfThere(pid);
    rmSync(root, { recursive: true, force: true });
  }
}

/** One that ends by itself may have ended by now. */
export function killIfThere(pid: number): void {
  const handle = ProcessHandle.open(pid);
  handle?.signal(SIGKILL);
  handle?.close();
}

/** Stand-ins whose working instance is under `root`: recognized by their open log files. */
export function monitorsIn(root: string): number[] {
  return readdirSync("/proc").filter((name) => /^\d+$/.test(name)).map(Number).filter((pid) => pid !== process.pid && holdsFileOf(pid, root));
}

function holdsFileOf(pid: number, root: string): boolean {
  try {
    return readdirSync(`/proc/${pid}/fd`).some((fd) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith(`${root}/instances/`);
      } catch {
        return false; // closed meanwhile
      }
    });
  } catch {
    return false; // ended meanwhile
  }
}

export function freshRoot(): string {
  const root = mkdtempSync(join(tmpdir(), "dormouse-instances-"));
  roots.push(root);
  for (const name of ["kernel", "initramfs", "rootfs"]) writeFileSync(join(root, name), name);
  return root;
}

/** Any name is an image that is ready, but for `missing` and `slow`. */
export const imagesIn = (root: string): InstanceDeps["images"] => ({
  ready(name) {
    if (name === "missing") return fail("image.not_found", "Cannot find the image missing");
    if (name === "slow") return fail("image.not_ready", "The image slow is being pulled");
    return ok({ config: imageConfig, rootfsPath: join(root, "rootfs"), record: { name: "img", digest: DIGEST } as never });
  },
});

/** Nobody visits, nothing is compressed. */
const alone: Pick<InstanceDeps, "compression" | "guard" | "activities" | "connections" | "ownConnection"> = {
  compression: { schedule() {}, ensureRaw: () => okAsync(undefined), cancel: async () => {}, moved() {}, before: async () => {}, state: () => ({ state: "none", error: null, compressedBytes: null, uncompressedBytes: null }) },
  guard: { forget() {}, visitors: async () => null, lateVisitors: async () => null },
  activities: new Activities(), connections: () => [], ownConnection: () => false,
};

export type Change = Partial<InstanceDeps> | ((db: Database, trash: Trash) => Partial<InstanceDeps>);

export async function open(root = freshRoot(), change: Change = {}, network = new MemoryNetwork()): Promise<Fixture> {
  mkdirSync(root, { recursive: true });
  const store = openStore(join(root, "dormouse.db"), migrations)._unsafeUnwrap();
  const poller = openPoller();
  const logged: string[] = [];
  const trash = trashIn(root), disks = (await Disks.open({ db: store.db, dataDir: root, trash }))._unsafeUnwrap();
  const volumes = openVolumes({ db: store.db, dir: join(root, "volumes"), trash, nameOf: (owner) => nameOfOwner(store.db, owner) })._unsafeUnwrap();
  const opened = await openInstances({
    db: store.db, dir: join(root, "instances"), memoryDir: join(root, "memory"), trash, ...alone, disks, volumes, poller, network, xsave: true,
    images: imagesIn(root),
    artifacts: { kernelPath: join(root, "kernel"), initramfsPath: join(root, "initramfs") },
    cgroups: openCgroups(), logger: createLogger("debug", (line) => logged.push(line)),
    monitors: spawning([process.execPath, STAND_IN]),
    host: { memoryBytes: 8 * 2 ** 30, vcpus: 4 },
    ...(typeof change === "function" ? change(store.db, trash) : change),
  });
  const instances = opened._unsafeUnwrap();
  return {
    root, store, instances, volumes, network, poller, logged,
    async close() {
      await instances.close();
      await poller.close();
      store.close();
    },
  };
}

export const request = (name: string, cmd: readonly string[] | null, change: Partial<CreateInstance> = {}): CreateInstance => ({
  name, image: "img", memoryBytes: 128 * 2 ** 20, vcpus: 1, overlayBytes: 64 * 2 ** 20, env: {}, tags: {}, entrypoint: null, cmd,
  network: false, ports: [], tty: false, openStdin: false, autoStandby: null, snapshotPolicy: null, volumes: [], ...change,
});

export const never = () => new AbortController().signal;
