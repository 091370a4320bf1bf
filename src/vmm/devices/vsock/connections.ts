// The connections of a guest, by their two ports.
import type { Connection } from "./connection.ts";

const MAX_CONNECTIONS = 1024;
/** Ports from which host-initiated connections come; below are those that a guest could mean as services. */
const FIRST_PORT = 0x4000_0000, LAST_PORT = 0xffff_fff0;

export class Connections {
  private readonly byPorts = new Map<number, Connection>();
  private nextPort = FIRST_PORT;

  get size(): number { return this.byPorts.size; }
  get full(): boolean { return this.byPorts.size >= MAX_CONNECTIONS; }
  get all(): readonly Connection[] { return [...this.byPorts.values()]; }

  /** Whether one between these ports can be added: a few pairs of ports share a place. */
  hasRoom(guestPort: number, hostPort: number): boolean { return !this.full && !this.byPorts.has(key(guestPort, hostPort)); }

  find(guestPort: number, hostPort: number): Connection | undefined {
    const connection = this.byPorts.get(key(guestPort, hostPort));
    return connection?.hostPort === hostPort ? connection : undefined;
  }

  /** Only where it has room. */
  add(connection: Connection): void { this.byPorts.set(key(connection.guestPort, connection.hostPort), connection); }

  delete({ guestPort, hostPort }: Connection): void { this.byPorts.delete(key(guestPort, hostPort)); }

  /** A port of the host for a new connection to `guestPort`. */
  freePort(guestPort: number): number {
    while (this.byPorts.has(key(guestPort, this.nextPort))) this.advancePort();
    const port = this.nextPort;
    this.advancePort();
    return port;
  }

  private advancePort(): void {
    this.nextPort = this.nextPort >= LAST_PORT ? FIRST_PORT : this.nextPort + 1;
  }
}

/** Both ports in the 53 bits of a number: the host's folded into 21, so a hit must be compared. */
const key = (guestPort: number, hostPort: number): number => guestPort * 0x20_0000 + (hostPort % 0x20_0000);
