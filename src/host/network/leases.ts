// The record of who has which address, MAC, TAP and ports (SQLite), and the choice of free ones.
import type { Database } from "bun:sqlite";
import { ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";
import { contains, formatAddress, macOf, sizeOf, tapOf, type Range } from "./address.ts";
import type { Lease, PortMapping } from "./service.ts";

interface LeaseRow { instance_id: string; ip: number; mac: string; tap: string }
interface PortRow { protocol: "tcp" | "udp"; host_port: number; guest_port: number; instance_id: string }

/** A published port with the address that it leads to. */
export interface Published extends PortMapping { readonly instanceId: string; readonly ip: number }

const CURSOR = "next_address";

export class LeaseStore {
  /** `nameOf`: what users call an instance, for messages. */
  constructor(private readonly db: Database, private readonly range: Range, private readonly nameOf = (id: string): string => `instance ${id}`) {}

  find(instanceId: string): Lease | null {
    const row = this.db.query<LeaseRow, [string]>("SELECT * FROM network_leases WHERE instance_id = ?").get(instanceId);
    return row === null ? null : this.lease(row);
  }

  all(): Lease[] {
    return this.db.query<LeaseRow, []>("SELECT * FROM network_leases ORDER BY ip").all().map((row) => this.lease(row));
  }

  /** The instance's lease, made where it has none. */
  allocate(instanceId: string): Res<Lease> {
    // IMMEDIATE: the free address must still be free when it is written.
    return this.db.transaction((): Res<Lease> => {
      const existing = this.find(instanceId);
      if (existing !== null) return ok(existing);
      const ip = this.freeAddress();
      if (ip === null) return fail("resources.insufficient", `Cannot give instance ${instanceId} an address: all of ${this.range.text} are in use; delete instances or start with a wider range`);
      const row = { instance_id: instanceId, ip, mac: macOf(ip), tap: tapOf(this.range, ip) };
      this.db.query("INSERT INTO network_leases (instance_id, ip, mac, tap) VALUES (?, ?, ?, ?)").run(row.instance_id, row.ip, row.mac, row.tap);
      this.setSetting(CURSOR, String(ip + 1));
      return ok(this.lease(row));
    }).immediate();
  }

  remove(instanceId: string): void {
    this.db.transaction(() => {
      this.db.query("DELETE FROM network_ports WHERE instance_id = ?").run(instanceId);
      this.db.query("DELETE FROM network_leases WHERE instance_id = ?").run(instanceId);
    }).immediate();
  }

  /** Leases outside of the range, made when it was another one. */
  strays(): Lease[] {
    return this.db.query<LeaseRow, []>("SELECT * FROM network_leases").all()
      .filter((row) => !contains(this.range.base, this.range.prefix, row.ip)).map((row) => this.lease(row));
  }

  published(): Published[] {
    return this.db.query<PortRow & { ip: number }, []>("SELECT p.*, l.ip FROM network_ports p JOIN network_leases l USING (instance_id) ORDER BY protocol, host_port").all().map(publishedOf);
  }

  publishedOf(instanceId: string): Published[] {
    return this.published().filter((port) => port.instanceId === instanceId);
  }

  /** Replaces the instance's published ports; `port.taken` names the instance that has one already. */
  setPorts(instanceId: string, ports: readonly PortMapping[]): Res<void> {
    return this.db.transaction((): Res<void> => {
      for (const port of ports) {
        const owner = this.db.query<PortRow, [string, number]>("SELECT * FROM network_ports WHERE protocol = ? AND host_port = ?").get(port.protocol, port.hostPort);
        if (owner !== null && owner.instance_id !== instanceId)
          return fail("port.taken", `Cannot publish port ${port.hostPort}/${port.protocol}: ${this.nameOf(owner.instance_id)} has published it; choose another port of the host, or delete that instance`, { details: { port: port.hostPort, protocol: port.protocol } });
      }
      this.db.query("DELETE FROM network_ports WHERE instance_id = ?").run(instanceId);
      const insert = this.db.query("INSERT INTO network_ports (protocol, host_port, guest_port, instance_id) VALUES (?, ?, ?, ?)");
      for (const port of ports) insert.run(port.protocol, port.hostPort, port.guestPort, instanceId);
      return ok();
    }).immediate();
  }

  clearPorts(): void {
    this.db.query("DELETE FROM network_ports").run();
  }

  setting(key: string): string | null {
    return this.db.query<{ value: string }, [string]>("SELECT value FROM network_settings WHERE key = ?").get(key)?.value ?? null;
  }

  setSetting(key: string, value: string | null): void {
    if (value === null) this.db.query("DELETE FROM network_settings WHERE key = ?").run(key);
    else this.db.query("INSERT INTO network_settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value").run(key, value);
  }

  /**
   * The next free address after the last one given, round the range: an address comes back as late as possible,
   * because its old peers may still hold connections to it.
   */
  private freeAddress(): number | null {
    const first = this.range.gateway + 1, last = this.range.base + sizeOf(this.range) - 2;
    const wanted = Number(this.setting(CURSOR) ?? first);
    const start = wanted >= first && wanted <= last ? wanted : first;
    return this.freeIn(start, last) ?? this.freeIn(first, start - 1);
  }

  private freeIn(from: number, to: number): number | null {
    if (from > to) return null;
    const taken = this.db.query<{ n: number }, [number]>("SELECT 1 AS n FROM network_leases WHERE ip = ?").get(from) !== null;
    if (!taken) return from;
    const gap = this.db.query<{ free: number }, [number, number]>(
      "SELECT a.ip + 1 AS free FROM network_leases a WHERE a.ip BETWEEN ? AND ? AND NOT EXISTS (SELECT 1 FROM network_leases b WHERE b.ip = a.ip + 1) ORDER BY a.ip LIMIT 1",
    ).get(from, to - 1);
    return gap?.free ?? null;
  }

  private lease(row: LeaseRow): Lease {
    return { instanceId: row.instance_id, ip: formatAddress(row.ip), mac: row.mac, gateway: formatAddress(this.range.gateway), tap: row.tap };
  }
}

const publishedOf = (row: PortRow & { ip: number }): Published =>
  ({ protocol: row.protocol, hostPort: row.host_port, guestPort: row.guest_port, instanceId: row.instance_id, ip: row.ip });
