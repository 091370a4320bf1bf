// One monitor's life: waits for `boot`, runs the machine, answers the daemon, keeps the record, ends.
import { EPOLLIN, TimerFd, type Epoll } from "../ffi/epoll.ts";
import { fileSize } from "../ffi/fd.ts";
import { decodePairs, encodePairs, pairValue } from "../pairs.ts";
import { Control, type RequestFds } from "./control.ts";
import { Devices } from "./devices/devices.ts";
import { Machine, MAX_MEMORY, MAX_VCPUS, MIN_MEMORY, type MachineEnd } from "./machine.ts";
import { panicMessage, Tail } from "./panic.ts";
import { Frame, type BootParams, type EndReason, type VmmStats, type VmmStatus } from "./protocol.ts";
import { Record } from "./record.ts";

/** What a shutdown may take beyond the workload's grace: killing the rest, syncing, unmounting. */
const SHUTDOWN_SLACK_MS = 5000;
/** A monitor that nobody is connected to ends: its daemon died between starting it and `boot`. */
const UNUSED_MS = 60_000;

interface Running { readonly machine: Machine; readonly devices: Devices }

export class Session {
  /** The process may end: nothing of the guest runs any more, and all is written. */
  done = false;
  private readonly record: Record;
  private readonly control: Control;
  private readonly deadline = new TimerFd();
  private readonly serial = new Tail();
  private running: Running | null = null;

  constructor(private readonly epoll: Epoll, controlFd: number, unusedMs = UNUSED_MS) {
    this.record = new Record((status) => this.control.send({ event: "state", status }));
    this.control = new Control(epoll, controlFd, {
      boot: (params, fds, reply) => reply({ result: this.boot(params, fds) }),
      status: (_params, _fds, reply) => reply({ result: this.record.status }),
      stats: (_params, _fds, reply) => reply({ result: this.stats() }),
      pause: (_params, _fds, reply) => this.need().machine.pause(() => {
        this.record.paused();
        reply({ result: this.record.status });
      }),
      resume: (_params, _fds, reply) => {
        this.need().machine.resume();
        this.record.resumed();
        reply({ result: this.record.status });
      },
      save: () => notYet("save a machine"),
      cancelSave: (_params, _fds, reply) => reply({ result: null }),
      restore: () => notYet("restore a machine"),
      release: () => notYet("release a machine"),
      tap: (_params, _fds, reply) => reply({ result: null, fds: { tap: this.need().devices.tap() } }),
      addLayer: (params, fds, reply) => this.addLayer(params.disk, fds, (error) => reply(error === null ? { result: null } : { error })),
      shutdown: (params, _fds, reply) => reply({ result: this.shutdown(params.graceMs, params.signal) }),
      kill: () => this.end("killed", "killed"),
      vsock: (params, fds, reply) => this.need().devices.connect(params.port, fds.take("stream"), (error) => reply(error === null ? { result: null } : { error })),
    }, () => { if (this.running === null) this.done = true; });
    epoll.add(this.deadline.fd, EPOLLIN, () => this.onDeadline());
    this.deadline.arm(unusedMs);
  }

  private boot(params: BootParams, fds: RequestFds): VmmStatus {
    if (this.running !== null) throw new Error("this monitor runs a guest already");
    check(params);
    const machine = new Machine(this.epoll, {
      kvmFd: fds.take("kvm"), memoryBytes: params.memoryBytes, vcpus: params.vcpus, xsave: params.xsave,
      onSerial: (bytes) => this.onSerial(bytes),
      onEnd: (end) => this.onMachineEnd(end),
    });
    if (fds.has("status")) this.record.open(fds.take("status"));
    const devices = new Devices(this.epoll, machine, params, fds, {
      onFrame: (type, payload) => this.onFrame(type, payload),
      log: (message) => this.log(message),
    });
    this.running = { machine, devices };
    this.deadline.arm(0);
    const file = (name: string) => {
      const fd = fds.take(name);
      return { fd, size: fileSize(fd) };
    };
    machine.boot({ kernel: file("kernel"), initrd: [file("initrd"), file("config")], cmdline: params.cmdline, vcpus: params.vcpus });
    this.record.booted();
    return this.record.status;
  }

  private need(): Running {
    if (this.running === null) throw new Error("no guest has been booted");
    return this.running;
  }

  private addLayer(disk: number, fds: RequestFds, done: (error: string | null) => void): void {
    const { devices } = this.need();
    if (this.record.status.state !== "paused") throw new Error(`Cannot add a layer to disk ${disk}: the guest is not paused`);
    devices.addLayer(disk, fds, done);
  }

  private shutdown(graceMs: number, signal: number): VmmStatus {
    this.need().devices.sendFrame(Frame.SHUTDOWN, encodePairs([["signal", String(signal)], ["grace_ms", String(graceMs)]]));
    this.deadline.arm(graceMs + SHUTDOWN_SLACK_MS);
    return this.record.status;
  }

  private onDeadline(): void {
    this.deadline.drain();
    if (this.running === null) this.done = !this.control.connected;
    else this.end("killed", "the guest did not shut down in time and was killed");
  }

  private onFrame(type: number, payload: Uint8Array): void {
    if (type !== Frame.STATE) return this.log(`the guest sent a frame of unknown type ${type}`);
    const pairs = decodePairs(payload);
    if (pairs === null) return this.log("the guest sent a state that can't be read");
    const state = pairValue(pairs, "state");
    if (state === "running") this.record.running();
    else if (state === "exited") {
      const code = Number(pairValue(pairs, "code"));
      this.record.exited(Number.isInteger(code) && code >= 0 && code <= 255 ? code : 255, pairValue(pairs, "message") ?? "", pairValue(pairs, "reboot") === "1");
    }
  }

  private onSerial(bytes: Uint8Array): void {
    this.serial.add(bytes);
    this.running?.devices.writeVmmLog(bytes);
  }

  /** Into the log of the instance, once it has one. */
  log(message: string): void {
    this.running?.devices.writeVmmLog(Buffer.from(`[vmm] ${message}\n`));
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
    const { machine, devices } = this.need();
    const cpu = process.cpuUsage();
    return { cpuSeconds: (cpu.user + cpu.system) / 1e6, exits: machine.exits(), ...devices.stats() };
  }
}

function notYet(what: string): never {
  throw new Error(`Cannot ${what}: this monitor does not implement it yet`);
}

function check(params: BootParams): void {
  if (!Number.isInteger(params.vcpus) || params.vcpus < 1 || params.vcpus > MAX_VCPUS) throw new Error(`vcpus must be 1 to ${MAX_VCPUS}`);
  if (!Number.isInteger(params.memoryBytes) || params.memoryBytes % 2 ** 20 !== 0 || params.memoryBytes < MIN_MEMORY || params.memoryBytes > MAX_MEMORY)
    throw new Error(`memoryBytes must be whole MiB from ${MIN_MEMORY} to ${MAX_MEMORY}`);
}
