// Starting `dormouse vmm`: a process of a session of its own that outlives the daemon, with nothing of the daemon's but
// its listening control socket (descriptor 3) and the instance's log on standard output and error.
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ok } from "neverthrow";
import { fail, messageOf, type Res } from "../../errors.ts";
import { closeFd, O_CREAT, O_WRONLY, openFd } from "../../ffi/fd.ts";
import { processStart } from "../../ffi/process.ts";
import { listenSeqpacket } from "../../ffi/socket.ts";
import { logPaths, socketPath } from "./files.ts";

const O_APPEND = 0o2000;

export interface Spawned { readonly pid: number; /** Tells this process from a later one with the same number. */ readonly start: number }

/** This executable as a monitor; in development, the sources under Bun. */
export function vmmCommand(): readonly string[] {
  if (Bun.isStandaloneExecutable) return [process.execPath, "vmm"];
  return [process.execPath, join(import.meta.dir, "../../main.ts"), "vmm"];
}

/** Starts `command` for the instance whose folder is `dir`, with a new control socket in it. */
export function spawnVmm(command: readonly string[], dir: string): Res<Spawned> {
  const owned: number[] = [];
  const own = (fd: number) => (owned.push(fd), fd);
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    rmSync(socketPath(dir), { force: true });
    const listener = own(listenSeqpacket(socketPath(dir)));
    const log = own(openFd(logPaths(dir, "vmm")[0], O_WRONLY | O_CREAT | O_APPEND));
    const child = Bun.spawn([...command], {
      stdio: ["ignore", log, log, listener],
      cwd: "/",
      // Nothing of the daemon's environment: it may hold secrets, and the runtime reads options from it.
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LANG: "C.UTF-8" },
      detached: true,
    });
    child.unref();
    const start = processStart(child.pid);
    if (start === null) return fail("host.process", `Cannot start the monitor: it ended at once; ${logPaths(dir, "vmm")[0]} may say why`);
    return ok({ pid: child.pid, start });
  } catch (error) {
    return fail("host.process", `Cannot start the monitor ${command.join(" ")}: ${messageOf(error)}`, { cause: error });
  } finally {
    owned.forEach(closeFd);
  }
}
