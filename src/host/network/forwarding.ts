// Turns IPv4 forwarding on, and back to what it was: the kernel resets each interface's own setting with the global one.
import { readFileSync } from "node:fs";
import type { LeaseStore } from "./leases.ts";
import { readSysctl, sysctlInterfaces, writeSysctl } from "./sysctl.ts";

const RECORD = "forwarding_before";

interface Before {
  /** The record is worthless after a reboot: what was set then is gone. */
  readonly boot: string;
  readonly values: Readonly<Record<string, string>>;
}

const bootId = (): string => readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();

/** True where it had to be changed; what was before is on record then, written first. */
export function enableForwarding(store: LeaseStore): boolean {
  if (readSysctl("ipv4/ip_forward") !== "0") return false;
  // Forwarding also flips all.accept_redirects (inet_forward_change in the kernel's devinet.c).
  const names = ["ipv4/conf/all/accept_redirects", ...sysctlInterfaces().map((link) => `ipv4/conf/${link}/forwarding`)];
  const values = Object.fromEntries(names.flatMap((name) => { const value = readSysctl(name); return value === null ? [] : [[name, value]]; }));
  store.setSetting(RECORD, JSON.stringify({ boot: bootId(), values } satisfies Before));
  return writeSysctl("ipv4/ip_forward", "1");
}

/** Undoes `enableForwarding` where this boot's record says that we did it. */
export function restoreForwarding(store: LeaseStore): void {
  const record = store.setting(RECORD);
  if (record === null) return;
  const before = JSON.parse(record) as Before;
  if (before.boot === bootId()) {
    writeSysctl("ipv4/ip_forward", "0");
    for (const [name, value] of Object.entries(before.values)) {
      if (!name.includes("/conf/all/forwarding") && readSysctl(name) !== null) writeSysctl(name, value);
    }
  }
  store.setSetting(RECORD, null);
}
