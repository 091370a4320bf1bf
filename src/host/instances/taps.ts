// The TAPs of all instances: the daemon holds each one's descriptor for the instance's whole life and only lends it to monitors, so
// that packets wait in it while nobody runs the guest. (A TAP without a descriptor is gone, and with it what waited.)
import { okAsync } from "neverthrow";
import type { AsyncRes } from "../../errors.ts";
import { closeFd } from "../../ffi/fd.ts";
import { isTapThere } from "../../ffi/tun.ts";
import { Doorbell, type Visit } from "../network/doorbell.ts";
import type { Lease, NetworkService } from "../network/service.ts";
import type { Poller } from "../poller.ts";

interface Held { readonly fd: number; readonly bell: Doorbell }

export class Taps {
  private readonly held = new Map<string, Held>();

  constructor(private readonly network: Pick<NetworkService, "openTap" | "adoptTap" | "lease">, private readonly poller: Poller) {}

  /** The instance's TAP, opened where it is not held yet, or was removed from the host meanwhile. It stays ours. */
  open(lease: Lease): AsyncRes<number> {
    const there = this.held.get(lease.instanceId);
    if (there !== undefined && isTapThere(there.fd)) return okAsync(there.fd);
    this.close(lease.instanceId);
    return this.network.openTap(lease).map((fd) => this.keep(lease, fd));
  }

  /** Takes over the descriptor that a monitor handed back. */
  adopt(id: string, fd: number): AsyncRes<void> {
    const lease = this.network.lease(id);
    if (lease === null || this.held.has(id)) return okAsync(closeFd(fd));
    this.keep(lease, fd);
    // An earlier daemon may have died over a standby, which was called off then: its filter is still there.
    return this.network.adoptTap(lease, fd).map(() => this.quiet(id));
  }

  /** From here on only knocks come in; the first is told, also one that waits already. Nothing for an instance without a TAP. */
  listen(id: string, visit: Visit): void { this.held.get(id)?.bell.listen(visit); }

  /** What passes while it is listened at, for SaveParams: its monitor stops reading before we can know. */
  filter(id: string): string | undefined {
    const held = this.held.get(id);
    return held && Buffer.from(held.bell.filter).toString("base64");
  }

  /** Whether a frame waits that nobody has read. */
  knocked(id: string): boolean { return this.held.get(id)?.bell.queued() ?? false; }

  /** Throws away what waits: a knock that could not be answered. */
  discard(id: string): void { this.held.get(id)?.bell.discard(); }

  /** Everything comes in again, and nobody is told. */
  quiet(id: string): void { this.held.get(id)?.bell.stop(); }

  close(id: string): void {
    const held = this.held.get(id);
    if (held === undefined) return;
    this.held.delete(id);
    held.bell.stop();
    closeFd(held.fd);
  }

  /** The daemon goes: what its monitors hold stays theirs. */
  closeAll(): void { for (const id of [...this.held.keys()]) this.close(id); }

  private keep(lease: Lease, fd: number): number {
    this.held.set(lease.instanceId, { fd, bell: new Doorbell(this.poller, fd, lease.ip) });
    return fd;
  }
}
