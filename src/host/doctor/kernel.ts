// The machine and its kernel.
import { existsSync, readFileSync } from "node:fs";
import { arch, release } from "node:os";
import { bad, ok, type Row, warn } from "./row.ts";

/** pidfd_getfd, close_range and openat2 are in 5.10, and so are the long-term kernels of the distributions we name. */
const OLDEST = [5, 10] as const;
/** Debian 12 and Ubuntu 22.04 have it or newer; what is older is not tried. */
const TRIED = [5, 15] as const;

export const checkRoot = (): Row =>
  process.geteuid?.() === 0 ? ok("root", "effective uid 0") : bad("root", `effective uid ${process.geteuid?.()}`, "run it as root: KVM, TAPs and cgroups are root's");

export function checkKernel(): Row {
  const version = release();
  const found = `Linux ${version}, ${arch()}`;
  if (arch() !== "x64") return bad("kernel", found, "use an x86-64 machine: there is no build for another one");
  const [major = 0, minor = 0] = version.split(".").map(Number.parseFloat);
  const before = ([a, b]: readonly [number, number]) => major < a || (major === a && minor < b);
  if (before(OLDEST)) return bad("kernel", found, `upgrade to Linux ${OLDEST.join(".")} or newer`);
  if (before(TRIED)) return warn("kernel", found, `upgrade to Linux ${TRIED.join(".")} or newer; older ones are not tested`);
  return ok("kernel", found);
}

const WANTED = ["cpu", "memory", "pids"] as const;

export function checkCgroup(): Row {
  const root = "/sys/fs/cgroup";
  if (existsSync(`${root}/cgroup.controllers`)) {
    const there = readFileSync(`${root}/cgroup.controllers`, "utf8").trim().split(/\s+/);
    const missing = WANTED.filter((one) => !there.includes(one));
    if (missing.length === 0) return ok("cgroup", `version 2 with ${WANTED.join(", ")}`);
    return warn("cgroup", `version 2 without ${missing.join(", ")}`, `boot with those controllers on version 2 (cgroup_no_v1=all); machines run without a limit of ${missing.join(", ")}`);
  }
  if (existsSync(`${root}/unified/cgroup.controllers`) || existsSync(`${root}/memory`))
    return warn("cgroup", "version 1", "boot with systemd.unified_cgroup_hierarchy=1; until then machines run without limits of their own");
  return warn("cgroup", "none mounted", "mount -t cgroup2 none /sys/fs/cgroup; until then machines run without limits of their own");
}

/** A guest of the default size, and the daemon. */
const ROOM = 1.25 * 2 ** 30;

export function checkMemory(): Row {
  const line = /^MemAvailable:\s+(\d+) kB$/m.exec(readFileSync("/proc/meminfo", "utf8"));
  const available = Number(line?.[1] ?? 0) * 1024;
  const found = `${(available / 2 ** 30).toFixed(1)} GiB available`;
  return available >= ROOM ? ok("memory", found) : warn("memory", found, "free memory, or run instances smaller than the default 1 GiB (-m)");
}
