// A control group for each VMM: cgroup v2 at <mount>/dormouse/<id> (Documentation/admin-guide/cgroup-v2.rst). Where the
// host has no v2 hierarchy with controllers, VMMs run without one, and `reason` says why.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { messageOf } from "../../errors.ts";

/** What limits and accounts a VMM; those that the host lacks are left out. */
const CONTROLLERS = ["memory", "pids", "cpu", "io"] as const;
/** A VMM has some thirty threads; more than this is an attack or a bug. */
const MAX_THREADS = 256;

export interface Cgroups {
  /** Null where control groups are in use; otherwise why not. */
  readonly reason: string | null;
  /** Puts a process in the group `id`, made where it is missing. */
  add(id: string, pid: number): void;
  /** Kills whatever is left in the group. */
  kill(id: string): void;
  /** Removes the group once it is empty; a missing one is fine. False while processes are in it. */
  remove(id: string): boolean;
  /** Groups that are there. */
  list(): string[];
}

const without = (reason: string): Cgroups => ({ reason, add() {}, kill() {}, remove: () => true, list: () => [] });

/** Mount point and parent may be given for tests. */
export function openCgroups(mountinfo = readFileSync("/proc/self/mountinfo", "utf8")): Cgroups {
  const mount = unifiedMount(mountinfo);
  if (mount === null) return without("no cgroup v2 hierarchy is mounted");
  try {
    const wanted = CONTROLLERS.filter((one) => words(join(mount, "cgroup.controllers")).includes(one));
    if (!wanted.includes("memory")) return without(`the cgroup v2 hierarchy at ${mount} has no memory controller`);
    const parent = join(mount, "dormouse");
    enable(mount, wanted);
    mkdirSync(parent, { recursive: true });
    enable(parent, wanted);
    return inUse(parent);
  } catch (error) {
    return without(`cgroup v2 at ${mount} can't be used: ${messageOf(error)}`);
  }
}

/** Where `cgroup2` is mounted (proc(5), mountinfo): the fifth field of the line whose type, behind ` - `, says so. */
function unifiedMount(mountinfo: string): string | null {
  for (const line of mountinfo.split("\n")) {
    const [fields, rest] = line.split(" - ");
    if (rest?.startsWith("cgroup2 ")) return fields!.split(" ")[4]!;
  }
  return null;
}

const words = (path: string): string[] => readFileSync(path, "utf8").split(/\s+/).filter((word) => word !== "");

function enable(dir: string, controllers: readonly string[]): void {
  const file = join(dir, "cgroup.subtree_control");
  const missing = controllers.filter((one) => !words(file).includes(one));
  if (missing.length > 0) writeFileSync(file, missing.map((one) => `+${one}`).join(" "));
}

function inUse(parent: string): Cgroups {
  return {
    reason: null,
    add(id, pid) {
      const dir = join(parent, id);
      mkdirSync(dir, { recursive: true });
      writeFileSync(join(dir, "pids.max"), String(MAX_THREADS));
      // A guest whose VMM loses one thread to the OOM killer is lost anyway: all or nothing.
      writeFileSync(join(dir, "memory.oom.group"), "1");
      writeFileSync(join(dir, "cgroup.procs"), String(pid));
    },
    kill(id) {
      const file = join(parent, id, "cgroup.kill");
      if (existsSync(file)) writeFileSync(file, "1");
    },
    remove(id) {
      try {
        rmdirSync(join(parent, id));
        return true;
      } catch (error) {
        const code = (error as NodeJS.ErrnoException).code;
        if (code === "ENOENT") return true;
        if (code === "EBUSY") return false;
        throw error;
      }
    },
    list: () => readdirSync(parent, { withFileTypes: true }).filter((entry) => entry.isDirectory()).map((entry) => entry.name),
  };
}
