// One monitor's life: waits for `boot` or `restore`, runs the machine, answers the daemon, keeps the record, ends.
import { EPOLLIN, TimerFd, type Epoll } from "../ffi/epoll.ts";
import { monotonicMs } from "../ffi/clock.ts";
import { closeFd, fileSize, O_RDONLY, openFd } from "../ffi/fd.ts";
import { faultMessage, MachineStateError } from "../machine-state/fault.ts";
import { decodePairs, encodePairs, pairValue } from "../pairs.ts";
import { Agent } from "./agent.ts";
import { Control, type Handlers, type Reply, type RequestFds } from "./control.ts";
import { Devices } from "./devices/devices.ts";
import type { Guest } from "./guest.ts";
import { Machine, MAX_MEMORY, MAX_VCPUS, MIN_MEMORY, type MachineEnd } from "./machine.ts";
import { panicMessage, Tail } from "./panic.ts";
import { Frame, type BootParams, type EndReason, type LoadParams, type PrepareParams, type RestoreParams, type SaveParams, type VmmStats, type VmmStatus } from "./protocol.ts";
import { Record } from "./record.ts";
import { rehearse } from "./rehearsal.ts";
import { loadMachine, restoreDevices, type Loaded } from "./restore.ts";
import { Sleep } from "./sleep.ts";
import { NO_CHAIN } from "./snapshot/plan.ts";
import { Spares } from "./spares.ts";

/** What a shutdown may take beyond the workload's grace: killing the rest, syncing, unmounting. */
const SHUTDOWN_SLACK_MS = 5000;
/** What a start has left in the heap is collected once it is over and nobody waits any more. */
const COLLECT_MS = 5000;
/** A monitor that nobody is connected to ends: its daemon died between starting it and `boot`. */
const UNUSED_MS = 60_000;

interface Running { readonly guest: Guest; readonly sleep: Sleep }

export class Session {
  /** The process may end: nothing of the guest runs any more, and all is written. */
  done = false;
  private readonly record: Record;
  private readonly control: Control;
  /** Of a monitor without a guest, then of its first moments, then of a guest that is to shut down. */
  private readonly deadline = new TimerFd();
  private shuttingDown = false;
  private readonly serial = new Tail();
  /** The one file that a monitor opens by itself, and early: later it may not be allowed to. */
  private readonly pagemapFd = openPagemap();
  /** From its first line on, also while it is still being made. */
  private devices: Devices | null = null;
  private agent: Agent;
  /** What a restore has begun with. */
  private loaded: Loaded | null = null;
  private running: Running | null = null;
  private spares = Spares.NONE;

  constructor(private readonly epoll: Epoll, controlFd: number, unusedMs = UNUSED_MS) {
    this.record = new Record((status) => this.control.send({ event: "state", status }));
    this.agent = new Agent(epoll, (type, payload) => this.devices?.sendFrame(type, payload) ?? false);
    this.control = new Control(epoll, controlFd, this.handlers(), () => this.onHangUp());
    epoll.add(this.deadline.fd, EPOLLIN, () => this.onDeadline());
    this.deadline.arm(unusedMs);
  }

  private handlers(): Handlers {
    const resume = (_params: null, _fds: RequestFds, reply: Reply<"resume">) =>
      this.need().sleep.resume((status, error) => reply(status === null ? { error: `Cannot let the guest go on: ${error}` } : { result: status }));
    return {
      prepare: (params, fds, reply) => {
        this.prepare(params, fds);
        reply({ result: null });
      },
      boot: (params, fds, reply) => reply({ result: this.boot(params, fds) }),
      load: (params, fds, reply) => this.load(params, fds, reply),
      restore: (params, fds, reply) => this.restore(params, fds, reply),
      status: (_params, _fds, reply) => reply({ result: this.record.status }),
      stats: (_params, _fds, reply) => reply({ result: this.stats() }),
      pause: (_params, _fds, reply) => this.need().sleep.pause(() => reply({ result: this.record.status })),
      resume,
      release: resume,
      save: (params, fds, reply) => this.save(params, fds, reply),
      cancelSave: (_params, _fds, reply) => {
        this.running?.sleep.cancelSave();
        reply({ result: null });
      },
      tap: (_params, _fds, reply) => reply({ result: null, fds: { tap: this.need().guest.devices.tap() } }),
      addLayer: (params, fds, reply) => this.addLayer(params.disk, fds, (error) => reply(error === null ? { result: null } : { error })),
      shutdown: (params, _fds, reply) => reply({ result: this.shutdown(params.graceMs, params.signal) }),
      kill: () => this.end("killed", "killed"),
      vsock: (params, fds, reply) => this.need().guest.devices.connect(params.port, fds.take("stream"), (error) => reply(error === null ? { result: null } : { error })),
    };
  }

  private prepare(params: PrepareParams, fds: RequestFds): void {
    if (this.running !== null || this.loaded !== null || this.spares !== Spares.NONE) throw new Error("this monitor is prepared already");
    check(params);
    const kvm = fds.take("kvm");
    try {
      this.spares = Spares.make(this.epoll, kvm, params);
      rehearse(kvm); // once: eight times made a restore faster by 0.4 ms, and a monitor larger by 1.4 to 3.4 MiB
      Bun.gc(true); // or it comes in the middle of a restore: for what the rehearsal has left, and since views of RAM count as if they were JavaScript's own
    } finally {
      closeFd(kvm); // what was made keeps KVM's own reference
    }
  }

  private boot(params: BootParams, fds: RequestFds): VmmStatus {
    this.begin(params);
    this.openRecord(fds);
    const machine = new Machine(this.epoll, { kvmFd: fds.take("kvm"), memoryBytes: params.memoryBytes, vcpus: params.vcpus, xsave: params.xsave, ...this.machineEvents() });
    const devices = new Devices(this.epoll, machine, params, fds, this.deviceEvents(), this.spares);
    this.run({ machine, devices, agent: this.agent, params, chain: NO_CHAIN });
    const file = (name: string) => {
      const fd = fds.take(name);
      return { fd, size: fileSize(fd) };
    };
    machine.boot({ kernel: file("kernel"), initrd: [file("initrd"), file("config")], cmdline: params.cmdline, vcpus: params.vcpus });
    this.record.booted();
    return this.record.status;
  }

  private load(params: LoadParams, fds: RequestFds, reply: Reply<"load">): void {
    this.begin(params);
    this.orEnd(reply, () => {
      this.loaded = loadMachine(this.epoll, params, fds, this.machineEvents());
      reply({ result: null });
    });
  }

  private restore(params: RestoreParams, fds: RequestFds, reply: Reply<"restore">): void {
    const { loaded } = this;
    if (loaded === null || this.running !== null) throw new Error("no saved machine was loaded for this");
    this.orEnd(reply, () => {
      const startedAt = performance.now(), { machine, chain, saved: { guest }, loadMs } = loaded;
      this.openRecord(fds);
      const devices = restoreDevices(this.epoll, loaded, params, fds, this.deviceEvents(), this.spares);
      const { sleep } = this.run({ machine, devices, agent: this.agent, params: loaded.params, chain });
      this.record.restored(guest.bootedAt, guest.runningAt);
      const readyAt = performance.now();
      let run = 0, runsSinceMs = 0;
      const running = () => {
        runsSinceMs = monotonicMs();
        run = performance.now() - readyAt;
      };
      sleep.wake(params.identity, params.deadlineMs, running, (error) => {
        if (this.done) return;
        if (error !== null) return this.fail(reply, new Error(`Cannot wake the guest: ${error}`));
        const stepsMs = { load: loadMs, machine: loaded.machineMs + readyAt - startedAt, run, acknowledged: performance.now() - readyAt };
        reply({ result: { status: this.record.status, stepsMs, runsSinceMs } });
      });
    });
  }

  /** Whatever fails ends the monitor: a machine that is half there is of no use, and nothing of it has run. */
  private orEnd(reply: (answer: { error: string }) => void, work: () => void): void {
    try {
      work();
    } catch (error) {
      this.fail(reply, error);
    }
  }

  private fail(reply: (answer: { error: string }) => void, error: unknown): void {
    const message = error instanceof MachineStateError ? faultMessage(error) : error instanceof Error ? error.message : String(error);
    reply({ error: message });
    this.end("internal", message);
  }

  private save(params: SaveParams, fds: RequestFds, reply: Reply<"save">): void {
    const { sleep } = this.need();
    const refusal = sleep.refusal(params.base);
    if (refusal !== null) throw new Error(refusal);
    if (this.pagemapFd < 0) this.log("the page map of this process can't be read: all pages that are not zero are written");
    sleep.saveTo(params, { machine: fds.take("machine"), memory: fds.take("memory") }, (result, error) => reply(result === null ? { error } : { result }));
  }

  private begin(params: Pick<BootParams, "vcpus" | "memoryBytes">): void {
    if (this.running !== null || this.loaded !== null) throw new Error("this monitor runs a guest already");
    check(params);
  }

  private openRecord(fds: RequestFds): void {
    if (fds.has("status")) this.record.open(fds.take("status"));
  }

  private run(guest: Guest): Running {
    const { epoll, pagemapFd, record } = this;
    this.devices = guest.devices;
    this.running = { guest, sleep: new Sleep(guest, { epoll, pagemapFd, record, deaf: () => this.control.send({ event: "deaf" }) }) };
    this.deadline.arm(COLLECT_MS);
    return this.running;
  }

  private machineEvents() {
    return { spares: this.spares, onSerial: (bytes: Uint8Array) => this.onSerial(bytes), onEnd: (end: MachineEnd) => this.onMachineEnd(end) };
  }

  private deviceEvents() {
    return {
      onFrame: (type: number, payload: Uint8Array) => this.onFrame(type, payload),
      log: (message: string) => this.log(message),
      onDiskFailed: (disk: number, errno: number) => this.control.send({ event: "diskFailed", disk, errno }),
    };
  }

  private need(): Running {
    if (this.running === null) throw new Error("no guest has been booted");
    return this.running;
  }

  private addLayer(disk: number, fds: RequestFds, done: (error: string | null) => void): void {
    const { devices } = this.need().guest;
    if (this.record.status.state !== "paused") throw new Error(`Cannot add a layer to disk ${disk}: the guest is not paused`);
    devices.addLayer(disk, fds, done);
  }

  private shutdown(graceMs: number, signal: number): VmmStatus {
    this.need().guest.devices.sendFrame(Frame.SHUTDOWN, encodePairs([["signal", String(signal)], ["grace_ms", String(graceMs)]]));
    this.shuttingDown = true;
    this.deadline.arm(graceMs + SHUTDOWN_SLACK_MS);
    return this.record.status;
  }

  /** The daemon has gone: what it had begun is called off, so that the guest does not wait for the next one. */
  private onHangUp(): void {
    if (this.running === null) this.done = true;
    else this.running.sleep.cancelSave();
  }

  private onDeadline(): void {
    this.deadline.drain();
    if (this.running === null) this.done = !this.control.connected;
    else if (!this.shuttingDown) Bun.gc(true);
    else this.end("killed", "the guest did not shut down in time and was killed");
  }

  private onFrame(type: number, payload: Uint8Array): void {
    if (type !== Frame.STATE && type !== Frame.ACK) return this.log(`the guest sent a frame of unknown type ${type}`);
    const pairs = decodePairs(payload);
    if (pairs === null) return this.log("the guest sent a frame that can't be read");
    if (type === Frame.ACK) return this.agent.answered(pairs);
    const state = pairValue(pairs, "state");
    if (state === "running") this.record.running();
    else if (state === "exited") {
      const code = Number(pairValue(pairs, "code"));
      this.record.exited(Number.isInteger(code) && code >= 0 && code <= 255 ? code : 255, pairValue(pairs, "message") ?? "", pairValue(pairs, "reboot") === "1");
    }
  }

  private onSerial(bytes: Uint8Array): void {
    this.serial.add(bytes);
    this.devices?.writeVmmLog(bytes);
  }

  /** Into the log of the instance, once it has one. */
  log(message: string): void {
    this.devices?.writeVmmLog(Buffer.from(`[vmm] ${message}\n`));
  }

  private onMachineEnd(end: MachineEnd): void {
    const panic = panicMessage(this.serial.text());
    if (end.kind === "reset") this.end(panic === null ? "reset" : "panic", panic ?? "the guest reset itself without a word from init");
    else if (end.kind === "triple-fault") this.end("triple-fault", end.message);
    else this.end("internal", end.message);
  }

  private end(reason: EndReason, message: string): void {
    this.record.ended(reason, message);
    this.log(`ended: ${this.record.status.reason}: ${this.record.status.exitMessage}`);
    this.done = true;
  }

  private stats(): VmmStats {
    const { machine, devices } = this.need().guest;
    const cpu = process.cpuUsage();
    return { cpuSeconds: (cpu.user + cpu.system) / 1e6, exits: machine.exits(), ...devices.stats() };
  }
}

/** -1 where the host hides it. */
function openPagemap(): number {
  try {
    return openFd("/proc/self/pagemap", O_RDONLY);
  } catch {
    return -1; // a save says so, and writes more
  }
}

function check(params: Pick<BootParams, "vcpus" | "memoryBytes">): void {
  if (!Number.isInteger(params.vcpus) || params.vcpus < 1 || params.vcpus > MAX_VCPUS) throw new Error(`vcpus must be 1 to ${MAX_VCPUS}`);
  if (!Number.isInteger(params.memoryBytes) || params.memoryBytes % 2 ** 20 !== 0 || params.memoryBytes < MIN_MEMORY || params.memoryBytes > MAX_MEMORY)
    throw new Error(`memoryBytes must be whole MiB from ${MIN_MEMORY} to ${MAX_MEMORY}`);
}
