// Instances with TAPs of their own, over a real network in a namespace and stand-in monitors: what the files of tests of knocks share.
import { afterEach, beforeEach, setDefaultTimeout } from "bun:test";
import { isReadable } from "../../../src/ffi/fd.ts";
import type { InstanceDeps } from "../../../src/host/instances/instances.ts";
import { openNetwork } from "../../../src/host/network/network.ts";
import type { Lease, NetworkService } from "../../../src/host/network/service.ts";
import type { AutoStandbyPolicy } from "../../../src/host/snapshots/service.ts";
import { datagram, ETH_IP, ethernet, FLAGS, FrameSender, packet, segment, TCP, UDP, waiting } from "../network/frames.ts";
import { database, inNamespace, run } from "../network/world.ts";
import { open, removeRoots, type Change, type Fixture } from "./fixture.ts";

interface World {
  network: NetworkService;
  fixture: Fixture;
  /** The daemon's own descriptor of each instance's TAP. */
  readonly taps: Map<string, number>;
}
/** Of the test that runs. */
export const world: World = { network: null!, fixture: null!, taps: new Map() };

/** Once in a file of such tests. */
export function overNetwork(): void {
  setDefaultTimeout(60_000); // only a guard: processes start slowly on a busy or emulated machine
  inNamespace();
  beforeEach(async () => {
    world.network = openNetwork({ db: database() })._unsafeUnwrap();
    (await world.network.start())._unsafeUnwrap();
  });
  afterEach(async () => {
    await world.fixture.close();
    await removeRoots();
    (await world.network.teardown())._unsafeUnwrap();
    world.network.close();
    world.taps.clear();
  });
}

/** The daemon of the test; it is closed with it. */
export async function opened(root: string | undefined, change: Change): Promise<Fixture> {
  return (world.fixture = await open(root, change));
}

/** The real network, whose TAPs can be looked at. */
export const looked = (change: Partial<InstanceDeps["network"]> = {}): InstanceDeps["network"] => ({
  allocate: (id) => world.network.allocate(id), lease: (id) => world.network.lease(id), publish: (id, ports) => world.network.publish(id, ports), release: (id) => world.network.release(id),
  reconcile: (living) => world.network.reconcile(living), resolvers: () => world.network.resolvers(), setClosed: (id, closed) => world.network.setClosed(id, closed), forget: (id) => world.network.forget(id),
  openTap: (lease) => world.network.openTap(lease).map((fd) => (world.taps.set(lease.instanceId, fd), fd)),
  adoptTap: (lease, fd) => (world.taps.set(lease.instanceId, fd), world.network.adoptTap(lease, fd)),
  ...change,
});
export const policy = (wakeOnPacket: boolean): AutoStandbyPolicy => ({ enabled: false, idleTimeoutMs: 0, ignoreDestinationPorts: [], ignoreSourceCidrs: [], wakeOnPacket });
export const WAKING = { network: true, autoStandby: policy(true) } as const, SILENT = { network: true, autoStandby: null } as const;

export function send(lease: Lease, frame: number[]): void {
  const sender = new FrameSender(lease.tap);
  sender.send(ethernet(lease.mac, ETH_IP, frame));
  sender.close();
}
export const leaseOf = (name: string): Lease => world.network.lease(world.fixture.instances.get(name)._unsafeUnwrap().id)!;
export const knock = (lease: Lease): void => send(lease, packet(UDP, "192.0.2.77", lease.ip, datagram(9, "knock")));
/** Whether what is no knock comes through: what belongs to a connection that is there. */
export function hears(name: string): boolean {
  const lease = leaseOf(name), fd = world.taps.get(lease.instanceId)!;
  waiting(fd);
  send(lease, packet(TCP, "192.0.2.77", lease.ip, segment(FLAGS.ACK)));
  const heard = isReadable(fd);
  waiting(fd);
  return heard;
}
export const closed = (): boolean => run("nft", "list", "set", "ip", "dormouse", "closed").includes("10.");
