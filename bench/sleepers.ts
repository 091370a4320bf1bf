// What the benches of sleep and wake share: a daemon with real nginx instances in the testbed, put to sleep and woken, and how long a
// first byte takes. Times of steps are the daemon's and monitor's own, out of the instance's log.
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { SERVE_DEFAULTS } from "../src/serve-options.ts";
import { Daemon } from "../test/support/daemon.ts";
import { image } from "../test/support/images.ts";
import { Registry } from "../test/support/registry.ts";
import { served, until } from "../test/support/until.ts";
import { guestKernel } from "./files.ts";
import { say } from "./metric.ts";

export interface Sleeper { readonly id: string; readonly name: string; readonly ip: string }
interface View { readonly id: string; readonly name: string; readonly state: string; readonly exit_message?: string; readonly network: { readonly ip: string } }

/** Milliseconds of a restore's steps, as the daemon notes them, and of a standby. */
export interface WakeSteps { readonly load: number; readonly machine: number; readonly run: number; readonly acknowledged: number }
export interface Slept { readonly bytes: number; readonly pausedMs: number; readonly wholeMs: number }

/** Builds what needs the network or time, outside of the testbed. */
export async function prepareSleepers(): Promise<void> {
  await guestKernel();
  await image("nginx", say);
}

export class Sleepers implements AsyncDisposable {
  private constructor(readonly daemon: Daemon, private readonly registry: Registry, private readonly reference: string, private readonly pool: number) {}

  /** `pool`: how many idle monitors the daemon keeps. */
  static async start(flags: readonly string[] = [], pool: number = SERVE_DEFAULTS.vmmPool): Promise<Sleepers> {
    const registry = await Registry.start();
    const reference = await (await image("nginx", say)).push(registry.host, "nginx");
    const daemon = await Daemon.start({ flags: [...flags, "--vmm-pool", String(pool)] });
    await daemon.run(["pull", "-q", reference]);
    return new Sleepers(daemon, registry, reference, pool);
  }

  /** A running nginx that answers; a packet wakes it once it sleeps. It never goes to sleep by itself. */
  async create(name: string, size = "256MB"): Promise<Sleeper> {
    const auto_standby = { enabled: false, wake_on_packet: true };
    const { id } = await this.daemon.api<View>("POST", "/instances", { name, image: this.reference, size, vcpus: 1, overlay_size: "1GB", auto_standby });
    await until(`${name} to run`, async () => {
      const { state, exit_message } = await this.view(id);
      if (state === "Stopped") throw new Error(`it is Stopped: ${exit_message}`);
      return state === "Running";
    });
    const { network: { ip } } = await this.view(id);
    await served(`http://${ip}/`);
    return { id, name, ip };
  }

  view(ref: string): Promise<View> { return this.daemon.api<View>("GET", `/instances/${ref}`); }

  async standby({ id }: Sleeper): Promise<Slept> {
    const started = performance.now();
    await this.daemon.api("POST", `/instances/${id}/standby`, { force: true });
    const wholeMs = performance.now() - started;
    const [, bytes, pausedMs] = this.noted(id, /asleep: (\d+) bytes of memory written, after ([\d.]+) ms of pause/g);
    return { bytes: Number(bytes), pausedMs: Number(pausedMs), wholeMs };
  }

  async restore({ id }: Sleeper): Promise<void> { await this.daemon.api("POST", `/instances/${id}/restore`); }

  /** Of the last wake; waits until it is written down, which is after the first byte. */
  async steps({ id }: Sleeper): Promise<WakeSteps> {
    await until("the instance to run", async () => (await this.view(id)).state === "Running");
    const figures = this.noted(id, /awake: state loaded in ([\d.]+) ms, machine made in ([\d.]+) ms, running after ([\d.]+) ms, acknowledged after ([\d.]+) ms/g).slice(1).map(Number);
    const [load = Number.NaN, machine = Number.NaN, run = Number.NaN, acknowledged = Number.NaN] = figures;
    return { load, machine, run, acknowledged };
  }

  /** In the guest; throws unless it ends with status 0. */
  exec({ name }: Sleeper, ...argv: readonly string[]): Promise<string> { return this.daemon.run(["exec", name, ...argv]); }

  /** The process that runs the guest. */
  monitor({ id }: Sleeper): number { return Number(readFileSync(`/sys/fs/cgroup/dormouse/${id}/cgroup.procs`, "utf8").split("\n", 1)[0]); }

  /** Waits until the pool of idle monitors is full and they have made ahead what they can: as it is when a guest has slept for a while. */
  async poolReady(): Promise<void> {
    let before = "";
    await until("the pool of idle monitors", () => {
      const spent = this.pooled().map((pid) => `${pid} ${cpuTicks(pid)}`);
      const now = spent.join(), same = now === before;
      before = now;
      // until() looks every 50 ms; a tick is 10.
      return spent.length === this.pool && same;
    });
  }

  /** Those whose words go to the pool's log, and that no instance's group has taken. */
  private pooled(): number[] {
    const log = join(this.daemon.dataDir, "pool/vmm.log");
    const waiting = readdirSync(join(this.daemon.dataDir, "pool")).filter((name) => name.endsWith(".sock")).length;
    const all = readdirSync("/proc").filter((name) => /^\d+$/.test(name) && linkOf(`/proc/${name}/fd/1`) === log).map(Number);
    const idle = all.filter((pid) => !/dormouse\/[a-z0-9]+$/m.test(readFileSync(`/proc/${pid}/cgroup`, "utf8")));
    return waiting === idle.length ? idle : [];
  }

  async fork(source: Sleeper, name: string, target: "Running" | "Standby"): Promise<Sleeper> {
    const { id, network: { ip } } = await this.daemon.api<View>("POST", `/instances/${source.id}/fork`, { name, target_state: target });
    return { id, name, ip };
  }

  remove({ id }: Sleeper): Promise<string> { return this.daemon.run(["rm", "-f", id]); }

  private noted(id: string, pattern: RegExp): RegExpExecArray {
    const match = [...readFileSync(join(this.daemon.dataDir, "instances", id, "dormouse.0.log"), "utf8").matchAll(pattern)].at(-1);
    if (match === undefined) throw new Error(`instance ${id} has nothing like ${pattern} in its log`);
    return match;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.daemon[Symbol.asyncDispose]();
    await this.registry.stop();
  }
}

/** Milliseconds from the attempt to connect to the first byte of the answer. One connection, nothing is repeated. */
export function firstByte(ip: string, host = ip, port = 80): Promise<number> {
  const started = performance.now();
  return new Promise((resolve, reject) => {
    const socket = connect({ host: ip, port }, () => socket.write(`GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`));
    socket.once("data", (bytes: Buffer) => {
      const ms = performance.now() - started;
      socket.destroy();
      if (bytes.toString("latin1").startsWith("HTTP/1.1 200")) resolve(ms);
      else reject(new Error(`${ip} answered ${JSON.stringify(bytes.toString("latin1").slice(0, 100))}`));
    });
    socket.on("error", reject);
    socket.on("close", () => reject(new Error(`${ip} hung up without a word`)));
  });
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return ""; // ended meanwhile, or without such a descriptor
  }
}

/** User and system time of a process, in ticks (fields 14 and 15 of /proc/PID/stat, proc(5)). */
function cpuTicks(pid: number): string {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ").slice(14 - 3, 16 - 3).join("+");
}

/** KiB of one field of /proc/PID/smaps_rollup. */
export const rollupKib = (pid: number, field: "Pss" | "Private_Dirty"): number => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1]);
