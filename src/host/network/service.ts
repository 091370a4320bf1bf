// What the network domain offers to instances. Implemented in this folder (network.ts).
import type { AsyncRes, Res } from "../../errors.ts";

export interface PortMapping { readonly guestPort: number; readonly hostPort: number; readonly protocol: "tcp" | "udp" }

/** An instance's place in the network; on record from create to delete. */
export interface Lease {
  readonly instanceId: string;
  /** Dotted quad; the guest configures it as /32. */
  readonly ip: string;
  readonly mac: string;
  readonly gateway: string;
  readonly tap: string;
}

export interface NetworkService {
  readonly gateway: string;
  readonly subnet: string;
  /** Resolvers for guests: given by --dns, or the host's without loopback ones. */
  resolvers(): readonly string[];
  /** Brings up what all instances share: gateway address, sysctls, the nftables table. Refuses a range that overlaps a host network. Idempotent. */
  start(): AsyncRes<void>;
  /** A free address, MAC and TAP name on record. Idempotent for each instance. */
  allocate(instanceId: string): Res<Lease>;
  lease(instanceId: string): Lease | null;
  /**
   * Creates or finds the TAP, its route and neighbour entry; returns its descriptor, owned by the caller until closed.
   * `vnet_hdr` on, offloads off until the driver negotiates them.
   */
  openTap(lease: Lease): AsyncRes<number>;
  /**
   * As openTap() for a TAP that a monitor held on: `fd` is the one that it handed back, and stays the caller's.
   * What was negotiated with the guest's driver stays as it is. `host.network` where it is not the instance's TAP.
   */
  adoptTap(lease: Lease, fd: number): AsyncRes<void>;
  /**
   * True for a guest that sleeps and must not be woken: whoever may reach it is answered as by a closed port. False again
   * before it runs. Not on record: the next daemon says it anew. Idempotent.
   */
  setClosed(instanceId: string, closed: boolean): AsyncRes<void>;
  /** Publishes ports (replacing what was published for the instance); `port.taken` where another has one. */
  publish(instanceId: string, ports: readonly PortMapping[]): AsyncRes<void>;
  /**
   * The guest that had the instance's connections is no more: those that were answered mean nothing, though the kernel would keep
   * open ones for days. One that has only been knocked for stays: it waits for the guest that comes.
   */
  forget(instanceId: string): AsyncRes<void>;
  /** Removes the TAP if it is there, rules and record. Idempotent. */
  release(instanceId: string): AsyncRes<void>;
  /** After a restart: drops TAPs, rules and leases of instances that are not in `living`. */
  reconcile(living: ReadonlySet<string>): AsyncRes<void>;
  /** Removes all that is ours from the host (`dormouse serve --teardown`). */
  teardown(): AsyncRes<void>;
  close(): void;
}
