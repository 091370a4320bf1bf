// The kernel's network settings (Documentation/networking/ip-sysctl.rst), by their files, in the calling thread's network namespace.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";

const ROOT = "/proc/sys/net";

/** `name` as in `ipv4/ip_forward`; null where this kernel does not have it. */
export function readSysctl(name: string): string | null {
  try {
    return readFileSync(`${ROOT}/${name}`, "utf8").trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

/** Writes only where the value differs from what it is `now`; false where it was so already. Throws where it cannot be written. */
export function writeSysctl(name: string, value: string, now = readSysctl(name)): boolean {
  if (now === value) return false;
  writeFileSync(`${ROOT}/${name}`, value);
  return true;
}

/** Interfaces with IPv4 settings, `all` and `default` among them. */
export const sysctlInterfaces = (): string[] => readdirSync(`${ROOT}/ipv4/conf`);
