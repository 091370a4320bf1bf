// Starting `dormouse vmm`: a process of a session of its own that outlives the daemon, with nothing of the daemon's but
// its listening control socket (descriptor 3) and a log on standard output and error.
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ok } from "neverthrow";
import { fail, messageOf, type Res } from "../../errors.ts";
import { closeFd, O_CREAT, O_WRONLY, openFd } from "../../ffi/fd.ts";
import { processStart, type ProcessHandle } from "../../ffi/process.ts";
import { listenSeqpacket } from "../../ffi/socket.ts";
import { logPaths, socketPath } from "./files.ts";

const O_APPEND = 0o2000;

/**
 * A monitor is one loop over a heap of a megabyte, and there is one for each guest: its engine does without what pays in large programs.
 * Together 1.4 MiB of 6.6 for each restored guest; requests of a running one cost the same (bench virtqueue). An unknown name ends the process at once (a test asks the engine for each).
 */
const SMALL_ENGINE: Readonly<Record<string, string>> = {
  BUN_JSC_forceMiniVMMode: "1", // 0.3 MiB: the heap grows by a fifth, not by half
  BUN_JSC_thresholdForJITAfterWarmUp: "2000", // 0.5 MiB: code that runs once in a restore is not compiled, loops still are (500 as it comes)
  // 0.4 MiB: else as many threads as the host has CPUs, each with a stack and a heap of its own, for a collection of two milliseconds.
  BUN_JSC_numberOfGCMarkers: "1", BUN_JSC_useConcurrentGC: "0", BUN_JSC_minNumberOfWorklistThreads: "1", BUN_JSC_maxNumberOfWorklistThreads: "1",
  MIMALLOC_PURGE_DELAY: "0", // 0.1 MiB: what is freed goes back at once, with no thread for it
};

/**
 * Guest RAM that is looked at counts as the engine's own memory: the first look brought a collection on, two milliseconds while somebody waits.
 * So RAM comes on top of the 8 MiB that a heap may have anyway. The option is a 32-bit number.
 */
export const engineOptions = (memoryBytes: number): Readonly<Record<string, string>> => ({ ...SMALL_ENGINE, BUN_JSC_largeHeapSize: String(Math.min(memoryBytes + 2 ** 23, 2 ** 32 - 1)) });

export interface Spawned { readonly pid: number; /** Tells this process from a later one with the same number. */ readonly start: number }

/** A monitor that was started for somebody, or ahead. `held`: who has waited with it holds it already; whoever gets it goes on with that, or closes it. */
export interface Taken extends Spawned { readonly held?: HeldMonitor }
export interface HeldMonitor { readonly process: ProcessHandle; /** The newest connection to its control socket. */ readonly connection: number }

export function closeHeld(held: HeldMonitor | undefined): void {
  if (held === undefined) return;
  held.process.close();
  closeFd(held.connection);
}

/** This executable as a monitor; in development, the sources under Bun. */
export function vmmCommand(): readonly string[] {
  if (Bun.isStandaloneExecutable) return [process.execPath, "vmm"];
  return [process.execPath, join(import.meta.dir, "../../main.ts"), "vmm"];
}

/** Starts `command` for the instance whose folder is `dir`, with a new control socket in it and its vmm log. `memoryBytes`: of the guest that it most likely gets. */
export function spawnVmm(command: readonly string[], dir: string, memoryBytes = 0): Res<Spawned> {
  let listener = -1;
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    rmSync(socketPath(dir), { force: true });
    listener = listenSeqpacket(socketPath(dir));
    return spawnWith(command, listener, logPaths(dir, "vmm")[0], memoryBytes);
  } catch (error) {
    return fail("host.process", `Cannot start a monitor in ${dir}: ${messageOf(error)}`, { cause: error });
  } finally {
    if (listener >= 0) closeFd(listener);
  }
}

/** Starts `command` with its control socket, which stays the caller's too; what it says is appended to the file `log`. */
export function spawnWith(command: readonly string[], listener: number, log: string, memoryBytes: number): Res<Spawned> {
  let output = -1;
  try {
    output = openFd(log, O_WRONLY | O_CREAT | O_APPEND);
    const child = Bun.spawn([...command], {
      stdio: ["ignore", output, output, listener],
      cwd: "/",
      // Nothing of the daemon's environment: it may hold secrets, and the runtime reads options from it.
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LANG: "C.UTF-8", ...engineOptions(memoryBytes) },
      detached: true,
    });
    child.unref();
    const start = processStart(child.pid);
    if (start === null) return fail("host.process", `Cannot start the monitor: it ended at once; ${log} may say why`);
    return ok({ pid: child.pid, start });
  } catch (error) {
    return fail("host.process", `Cannot start the monitor ${command.join(" ")}: ${messageOf(error)}`, { cause: error });
  } finally {
    if (output >= 0) closeFd(output);
  }
}
