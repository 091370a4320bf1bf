// `dormouse serve`: puts store, artifacts, network, images, instances and API together, and takes them apart again. Guests
// outlive it: a stop leaves them running, and the next daemon finds them by their records and sockets.
import { join } from "node:path";
import { err, ok } from "neverthrow";
import { unpackArtifacts } from "./artifacts.ts";
import { wrap, type Res } from "./errors.ts";
import type { Connection } from "./ffi/netlink/conntrack.ts";
import { endOnCrash, unheardBy } from "./host/background.ts";
import { diskMigrations, Disks } from "./host/disks/disks.ts";
import { probeKvm } from "./host/doctor/probe.ts";
import { imageMigrations, openImages } from "./host/images/images.ts";
import type { ImageService } from "./host/images/service.ts";
import { ingressMigrations, openIngress } from "./host/ingress/ingress.ts";
import { instanceMigrations, nameOfOwner, userOfImage, openInstances, type InstanceDeps } from "./host/instances/instances.ts";
import type { InstanceService } from "./host/instances/service.ts";
import { parseAddress } from "./host/network/address.ts";
import { readConnections } from "./host/network/connections.ts";
import { networkMigrations, openNetwork } from "./host/network/network.ts";
import type { NetworkService } from "./host/network/service.ts";
import { Compressor } from "./host/snapshots/compression/compressor.ts";
import { sqliteRecords } from "./host/snapshots/compression/records.ts";
import { generationDir } from "./host/snapshots/generations.ts";
import type { SleepService } from "./host/snapshots/service.ts";
import { Activities, OwnPorts } from "./host/standby/activity.ts";
import { StandbyGuard } from "./host/standby/guard.ts";
import { openPoller } from "./host/poller.ts";
import { openStore, type Store } from "./host/store/store.ts";
import { Trash } from "./host/trash.ts";
import { diskUsage } from "./host/usage.ts";
import { openCgroups } from "./host/vmm/cgroup.ts";
import { openPool } from "./host/vmm/pool.ts";
import { vmmCommand } from "./host/vmm/spawn.ts";
import type { VolumeService } from "./host/volumes/service.ts";
import { openVolumes, volumeMigrations } from "./host/volumes/volumes.ts";
import { createLogger, describeError, type Logger } from "./log.ts";
import { createApp } from "./routes/app.ts";
import { parseListen } from "./routes/guard.ts";
import { Live } from "./routes/live.ts";
import { checkPort, listen } from "./routes/server.ts";
import type { ServeOptions } from "./serve-options.ts";
import { REVISION, VERSION } from "./version.ts";

export interface Daemon {
  readonly url: string;
  /** Answers what is under way, ends streams, closes all; guests stay. */
  stop(): Promise<void>;
}

/** Exit status of `dormouse serve`; a start that fails says why in one line, and leaves nothing half-made. */
export async function serve(options: ServeOptions): Promise<number> {
  const log = createLogger(options.logLevel);
  const outcome = options.teardown ? await teardown(options, log) : await run(options, log);
  if (outcome.isOk()) return 0;
  process.stderr.write(`dormouse: ${outcome.error.message}\n`);
  log.debug("serve.failed", { error: describeError(outcome.error, true) });
  return 1;
}

async function run(options: ServeOptions, log: Logger): Promise<Res<void>> {
  endOnCrash(log);
  const asked = stopSignal();
  const daemon = await startDaemon(options, log);
  if (daemon.isErr()) return err(daemon.error);
  log.info("serve.ready", { url: daemon.value.url, version: VERSION, revision: REVISION, pid: process.pid, data: options.dataDir });
  log.info("serve.stopping", { signal: await asked });
  await daemon.value.stop();
  log.info("serve.stopped");
  return ok();
}

/** The first SIGTERM or SIGINT; a second one ends the process at once. */
function stopSignal(): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  let asked = false;
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      if (asked) process.exit(130);
      asked = true;
      resolve(signal);
    });
  }
  return promise;
}

/** What was acquired, to be let go in the opposite order. */
class Cleanup {
  readonly #steps: (() => unknown)[] = [];
  push(step: () => unknown): void {
    this.#steps.push(step);
  }
  async unwind(log: Logger): Promise<void> {
    for (const step of this.#steps.reverse()) {
      try {
        await step();
      } catch (error) {
        log.error("serve.cleanup_failed", { error: describeError(error, true) });
      }
    }
  }
}

/** The whole daemon in this process, listening. */
export async function startDaemon(options: ServeOptions, log: Logger): Promise<Res<Daemon>> {
  const cleanup = new Cleanup();
  const started = await assemble(options, log, cleanup).catch((error: unknown) => err(wrap("internal", "Cannot start the daemon", error)));
  if (started.isErr()) {
    await cleanup.unwind(log);
    return err(started.error);
  }
  return ok({ url: started.value, stop: () => cleanup.unwind(log) });
}

async function assemble(options: ServeOptions, log: Logger, cleanup: Cleanup): Promise<Res<string>> {
  const address = parseListen(options.listen);
  if (address.isErr()) return err(address.error);
  const free = checkPort(address.value);
  if (free.isErr()) return err(free.error);
  const store = openDatabase(options, cleanup);
  if (store.isErr()) return err(store.error);
  const network = await openNetworkOf(options, store.value, log, cleanup);
  if (network.isErr()) return err(network.error);
  const trash = new Trash(join(options.dataDir, "trash"), unheardBy(log));
  const images = openImages({ db: store.value.db, dir: join(options.dataDir, "images"), trash, userOf: (digest) => userOfImage(store.value.db, digest), failed: unheardBy(log) });
  if (images.isErr()) return err(images.error);
  cleanup.push(() => images.value.close());
  const volumes = openVolumes({ db: store.value.db, dir: join(options.dataDir, "volumes"), trash, nameOf: (owner) => nameOfOwner(store.value.db, owner) });
  if (volumes.isErr()) return err(volumes.error);
  const kvm = probeKvm();
  if (!kvm.able) log.warn("kvm.unable", { found: kvm.found });
  const standby = openStandby(network.value, log);
  const instances = await openInstancesOf(options, log, cleanup, { store: store.value, network: network.value, images: images.value, volumes: volumes.value, trash, standby, xsave: kvm.able && kvm.xsave });
  if (instances.isErr()) return err(instances.error);
  const ingresses = openIngress({ db: store.value.db, instances: instances.value, wake: (ref) => instances.value.wake(ref), activities: standby.activities, ownPorts: standby.ownPorts, address: options.ingressAddress, log });
  cleanup.push(() => ingresses.close());
  const live = new Live();
  const host = { version: REVISION === "unknown" ? VERSION : `${VERSION}+${REVISION}`, runtimeAvailable: kvm.able, diskUsage: () => diskUsage(options.dataDir) };
  const app = createApp({ images: images.value, instances: instances.value, ingresses, volumes: volumes.value, network: network.value, host, live, log });
  return listen(app, address.value, live, log).map(({ url, stop }) => {
    cleanup.push(stop);
    return url;
  });
}

async function openNetworkOf(options: ServeOptions, store: Store, log: Logger, cleanup: Cleanup): Promise<Res<NetworkService>> {
  const network = networkOf(options, store, log);
  if (network.isErr()) return network;
  cleanup.push(() => network.value.close());
  return network.value.start().map(() => network.value);
}

interface Under { readonly store: Store; readonly network: NetworkService; readonly images: ImageService; readonly trash: Trash; readonly standby: Standby; readonly volumes: VolumeService; readonly xsave: boolean }

async function openInstancesOf({ dataDir, vmmPool }: ServeOptions, log: Logger, cleanup: Cleanup, { store, network, images, trash, standby, volumes, xsave }: Under): Promise<Res<InstanceService & SleepService>> {
  const artifacts = await unpackArtifacts(join(dataDir, "artifacts"));
  if (artifacts.isErr()) return err(artifacts.error);
  const memoryDir = join(dataDir, "memory");
  const disks = await Disks.open({ db: store.db, dataDir, trash, onError: (error) => log.warn("disks.unmerged", { error: describeError(error) }) });
  if (disks.isErr()) return err(disks.error);
  const compression = new Compressor({ records: sqliteRecords(store.db), trash, failed: unheardBy(log) });
  cleanup.push(() => compression.close());
  const poller = openPoller(unheardBy(log));
  cleanup.push(() => poller.close());
  const pool = openPool({ command: vmmCommand(), size: vmmPool, dir: join(dataDir, "pool"), poller, logger: log });
  if (pool.isErr()) return err(pool.error);
  cleanup.push(() => pool.value.close());
  const instances = await openInstances({
    db: store.db, dir: join(dataDir, "instances"), memoryDir, trash, ...standby, disks: disks.value, volumes, compression, images, network, artifacts: artifacts.value, poller, cgroups: openCgroups(), logger: log, monitors: pool.value, xsave,
  });
  if (instances.isErr()) return instances;
  cleanup.push(() => instances.value.close());
  compression.resume((generation) => generationDir(store.db, memoryDir, generation));
  return instances;
}

type Standby = Pick<InstanceDeps, "guard" | "activities" | "connections" | "ownConnection"> & { readonly ownPorts: OwnPorts };

/** What keeps a guest awake: sessions, connections from outside; not our own. */
function openStandby(network: NetworkService, log: Logger): Standby {
  const activities = new Activities(), ownPorts = new OwnPorts(parseAddress(network.gateway) ?? 0);
  const shared = { connections: readConnections, ownConnection: (connection: Connection) => ownPorts.has(connection) };
  const guard = new StandbyGuard({
    connections: shared.connections, ignored: shared.ownConnection, otherActivity: (id) => activities.of(id), logger: log,
    now: () => performance.now(), pause: (ms) => Bun.sleep(ms),
  });
  return { ...shared, guard, activities, ownPorts };
}

function openDatabase({ dataDir }: ServeOptions, cleanup: Cleanup): Res<Store> {
  const store = openStore(join(dataDir, "dormouse.db"), [...networkMigrations, ...imageMigrations, ...volumeMigrations, ...instanceMigrations, ...diskMigrations, ...ingressMigrations]);
  if (store.isOk()) cleanup.push(() => store.value.close());
  return store;
}

const networkOf = ({ range, dns }: ServeOptions, { db }: Store, log: Logger) =>
  openNetwork({ db, dns, nameOf: (id) => nameOfOwner(db, { kind: "instance", id }), ...(range === null ? {} : { range }), log: (message) => log.info("network", { message }) });

/** Removes what is ours of the host's network. Refused while a daemon runs: it holds the database's lock. */
async function teardown(options: ServeOptions, log: Logger): Promise<Res<void>> {
  const cleanup = new Cleanup();
  const store = openDatabase(options, cleanup);
  if (store.isErr()) return err(store.error);
  const network = networkOf(options, store.value, log);
  const done = network.isErr() ? err(network.error) : await network.value.teardown();
  if (network.isOk()) network.value.close();
  await cleanup.unwind(log);
  return done;
}
