// A machine of our own monitor with nothing of the daemon around it: for what needs vsock. Needs an able /dev/kvm.
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { $ } from "bun";
import { streamPair } from "../../src/ffi/socket.ts";
import { closeFd, O_CREAT, O_RDONLY, O_RDWR, openFd } from "../../src/ffi/fd.ts";
import { AgentStream } from "../../src/host/agent/stream.ts";
import { probeKvm } from "../../src/host/doctor/probe.ts";
import { BootFds, bootParams, loadParams, openBootFds, openKvm, openMachineFds, restoreParams } from "../../src/host/instances/boot.ts";
import { cpio } from "../../src/host/instances/cpio.ts";
import { openPoller, type Poller } from "../../src/host/poller.ts";
import { VmmClient } from "../../src/host/vmm/client.ts";
import { logPaths, socketPath } from "../../src/host/vmm/files.ts";
import { spawnVmm, vmmCommand } from "../../src/host/vmm/spawn.ts";
import { encodePairs, type Pair } from "../../src/pairs.ts";
import { AGENT_PORT, type RestoreResult, type SaveResult, type VmmStatus } from "../../src/vmm/protocol.ts";
import { Agent, Session } from "./harness.ts";
import { until } from "./machine.ts";

const repo = join(import.meta.dir, "../..");

export interface VmOptions {
  /** Of its own: logs and the control socket go there. */
  readonly folder: string;
  readonly image: string;
  readonly disk: string;
  readonly config: readonly Pair[];
  readonly memoryBytes?: number;
  readonly vcpus?: number;
}

export class Vm extends Agent {
  readonly statuses: VmmStatus[] = [];
  private constructor(private readonly folder: string, readonly pid: number, private readonly client: VmmClient, private readonly poller: Poller) { super(); }

  /** A monitor without a guest, connected. */
  private static spawn(folder: string): Vm {
    const poller = openPoller();
    const spawned = spawnVmm(vmmCommand(), folder);
    if (spawned.isErr()) throw spawned.error;
    let vm: Vm | null = null;
    const client = VmmClient.connect(socketPath(folder), poller, { onState: (status) => void vm?.statuses.push(status), onClosed: () => {} });
    if (client.isErr()) throw client.error;
    vm = new Vm(folder, spawned.value.pid, client.value, poller);
    return vm;
  }

  static async boot(options: VmOptions): Promise<Vm> {
    const probe = probeKvm();
    if (!probe.able) throw new Error("Cannot boot: /dev/kvm is not able; run this in scripts/testbed");
    const kernelPath = (await $`${repo}/scripts/kernel guest`.quiet().text()).trim();
    const initramfsPath = (await $`${repo}/scripts/guest`.quiet().text()).trim();
    const vm = Vm.spawn(options.folder);
    const fds = new BootFds();
    const config = cpio([{ name: "dormouse", mode: 0o040700 }, { name: "dormouse/config", mode: 0o100600, data: encodePairs(options.config) }]);
    const disk = { layers: [{ path: options.disk, map: null }] };
    openBootFds({ dir: options.folder, kernelPath, initramfsPath, rootfsPath: options.image, disk, config }, fds);
    const params = bootParams({ memoryBytes: options.memoryBytes ?? 256 << 20, vcpus: options.vcpus ?? 1, mac: null, name: "guest" }, probe.xsave, disk);
    const booted = await vm.client.request("boot", params, { fds: fds.fds, timeoutMs: 60_000 });
    fds.close();
    if (booted.isErr()) throw booted.error;
    return vm;
  }

  /** Another monitor with the machine that `generations` (folders by id, newest first) hold; its workload waits for release(). */
  static async restore(options: Omit<VmOptions, "config">, generations: Readonly<Record<string, string>>, hostname: string): Promise<{ readonly vm: Vm; readonly result: RestoreResult }> {
    const vm = Vm.spawn(options.folder);
    const machineFds = new BootFds(), fds = new BootFds();
    const disk = { layers: [{ path: options.disk, map: null }] }, probe = probeKvm();
    for (const [i, folder] of Object.values(generations).entries()) for (const name of ["machine", "memory"]) machineFds.open(`${name}${i}`, join(folder, name), O_RDONLY);
    openKvm(machineFds);
    openMachineFds({ dir: options.folder, rootfsPath: options.image, disk }, fds);
    const guest = { memoryBytes: options.memoryBytes ?? 256 << 20, vcpus: options.vcpus ?? 1, mac: null, name: hostname };
    const loading = vm.client.request("load", loadParams(guest, probe.able && probe.xsave, Object.keys(generations)), { fds: machineFds.fds, timeoutMs: 120_000 });
    const asked = vm.client.request("restore", restoreParams(guest, disk, null, 60_000), { fds: fds.fds, timeoutMs: 120_000 });
    machineFds.close();
    fds.close();
    const restored = await loading.andThen(() => asked);
    if (restored.isErr()) throw restored.error;
    return { vm, result: restored.value };
  }

  async save(folder: string, id: string, base: string | null): Promise<SaveResult> {
    mkdirSync(folder);
    const fds = { machine: openFd(join(folder, "machine"), O_RDWR | O_CREAT), memory: openFd(join(folder, "memory"), O_RDWR | O_CREAT) };
    const saved = this.client.request("save", { id, base }, { fds, timeoutMs: 120_000 });
    Object.values(fds).forEach(closeFd);
    return (await saved)._unsafeUnwrap();
  }

  async release(): Promise<VmmStatus> { return (await this.client.request("release", null, { timeoutMs: 60_000 }))._unsafeUnwrap(); }

  /** What the workload has written. */
  get output(): string { return readFileSync(logPaths(this.folder, "app")[0], "latin1"); }

  state(state: VmmStatus["state"]): Promise<VmmStatus> {
    const serial = () => readFileSync(logPaths(this.folder, "vmm")[0], "latin1").slice(-2000);
    return until(() => this.statuses.find((status) => status.state === state), () => `statuses ${JSON.stringify(this.statuses)}, serial ${serial()}, output ${this.output.slice(-1000)}`, 240_000);
  }

  async session(): Promise<Session> {
    const [ours, theirs] = streamPair();
    const connected = await this.client.request("vsock", { port: AGENT_PORT }, { fds: { stream: theirs }, timeoutMs: 30_000 });
    closeFd(theirs);
    if (connected.isErr()) throw connected.error;
    let stream: AgentStream | null = null;
    const session: Session = new Session({
      send: (frame) => void stream?.send(frame), pause: () => stream?.pause(), resume: () => stream?.resume(), hangUp: () => stream?.close(),
    });
    stream = await AgentStream.open(ours, {
      onFrame: ({ type, payload }) => session.take(type, payload), onDrain: () => {}, onClosed: () => void (session.closed = true),
    });
    return session;
  }

  async shutdown(graceMs: number, signal = 0): Promise<void> {
    const asked = await this.client.request("shutdown", { graceMs, signal });
    if (asked.isErr()) throw asked.error;
  }

  async close(): Promise<void> {
    try {
      process.kill(this.pid, "SIGKILL");
    } catch {
      // it has ended by itself
    }
    this.client.close();
    await this.poller.close();
  }
}
