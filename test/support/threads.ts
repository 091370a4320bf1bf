// What the threads of a process are at, for a guest that does not get on: whether its vCPUs sleep, spin or get no processor is gone once
// the test has ended.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const LOOK_MS = 2000;
/** Clock ticks a second in /proc (sysconf(_SC_CLK_TCK) on Linux). */
const TICKS = 100;
/** Of /proc/PID/stat behind the command's name, which may contain anything; proc(5) counts from 1, and these are fields 3, 14 and 15. */
const STATE = 0, UTIME = 11, STIME = 12;

interface Thread { readonly name: string; readonly state: string; readonly cpuMs: number; readonly waitsIn: string; readonly call: string }

function look(pid: number): Map<string, Thread> {
  const threads = new Map<string, Thread>();
  for (const tid of readdirSync(`/proc/${pid}/task`)) {
    const read = (name: string) => readFileSync(join(`/proc/${pid}/task`, tid, name), "utf8").trim();
    try {
      const stat = read("stat"), fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      const cpuMs = ((Number(fields[UTIME]) + Number(fields[STIME])) * 1000) / TICKS;
      threads.set(tid, { name: read("comm"), state: fields[STATE]!, cpuMs, waitsIn: read("wchan"), call: read("syscall") });
    } catch {
      // it has ended meanwhile
    }
  }
  return threads;
}

/** A line a thread: its state, the processor time that it got over some seconds and in all, and which system call it is in. */
export async function describeThreads(pid: number): Promise<string> {
  const before = look(pid), from = performance.now();
  await Bun.sleep(LOOK_MS);
  const after = look(pid), tookMs = performance.now() - from;
  return [...after].map(([tid, { name, state, cpuMs, waitsIn, call }]) => {
    const got = cpuMs - (before.get(tid)?.cpuMs ?? cpuMs);
    return `${tid} ${name}: ${state}, ${got} of ${Math.round(tookMs)} ms (${(cpuMs / 1000).toFixed(1)} s in all), waits in ${waitsIn}, system call ${call}`;
  }).join("\n");
}
