// Tables of the network domain. Addresses are 32-bit numbers; instance ids are those of the instances domain.
import type { Migration } from "../store/migration.ts";

export const networkMigrations: Migration[] = [
  {
    id: "network-1",
    sql: `
      CREATE TABLE network_leases (
        instance_id TEXT PRIMARY KEY,
        ip          INTEGER NOT NULL UNIQUE,
        mac         TEXT NOT NULL UNIQUE,
        tap         TEXT NOT NULL UNIQUE
      ) STRICT;
      CREATE TABLE network_ports (
        protocol    TEXT NOT NULL CHECK (protocol IN ('tcp', 'udp')),
        host_port   INTEGER NOT NULL CHECK (host_port BETWEEN 1 AND 65535),
        guest_port  INTEGER NOT NULL CHECK (guest_port BETWEEN 1 AND 65535),
        instance_id TEXT NOT NULL REFERENCES network_leases ON DELETE CASCADE,
        PRIMARY KEY (protocol, host_port)
      ) STRICT;
      CREATE INDEX network_ports_instance ON network_ports (instance_id);
      CREATE TABLE network_settings (
        key   TEXT PRIMARY KEY,
        value TEXT NOT NULL
      ) STRICT;`,
  },
];
