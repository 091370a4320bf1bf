// One virtual machine: memory, vCPUs, interrupts, PCI bus. Owns them all; they live as long as the process.
import type { Mapping } from "../ffi/memory.ts";
import { KVM } from "../ffi/abi/kvm.ts";
import { cpuidFor } from "./arch/x86/cpuid.ts";
import { enterLongMode, loadLinux, type BootImage } from "./arch/x86/boot.ts";
import { signalEventFd, type Epoll } from "../ffi/epoll.ts";
import { cpuFeatures, type CpuFeatures } from "../machine-state/cpu.ts";
import type { BoardState } from "../machine-state/saved-machine.ts";
import type { VcpuState, VmState } from "../machine-state/x86.ts";
import { restoreVcpu, restoreVm, saveVm, StateReader, tellPaused } from "./arch/x86/state.ts";
import { PciBus } from "./bus.ts";
import { Interrupts } from "./interrupts.ts";
import { Kvm, type Vcpu, type Vm } from "./kvm.ts";
import type { GuestMemory } from "./memory.ts";
import type { PciFunction, PciPlatform } from "./pci.ts";
import { Ports } from "./ports.ts";
import { PostedWrites } from "./posted.ts";
import { SERIAL_IRQ, Serial } from "./serial.ts";
import { Discarded } from "./snapshot/discarded.ts";
import { Spares } from "./spares.ts";
import { End } from "./vcpu-exit.ts";
import { Vcpus } from "./vcpus.ts";

export const MAX_VCPUS = 16;
export const MIN_MEMORY = 64 * 2 ** 20;
export const MAX_MEMORY = 64 * 2 ** 30;

export interface MachineOptions {
  readonly kvmFd: number;
  readonly memoryBytes: number;
  readonly vcpus: number;
  /** See CpuidOptions. */
  readonly xsave: boolean;
  /** What was made ahead. */
  readonly spares?: Spares;
  /** Fills memory before the guest has any of it. */
  readonly fill?: (ram: Mapping) => void;
  /** What each vCPU sees, for one that was saved; else what this host has. */
  readonly cpuid?: readonly Uint8Array<ArrayBuffer>[];
  /** Serial output; the bytes are valid only during the call. */
  readonly onSerial: (bytes: Uint8Array) => void;
  /** A vCPU ended; the machine runs no more. Once. */
  readonly onEnd: (end: MachineEnd) => void;
}

export interface MachineEnd { readonly kind: "reset" | "triple-fault" | "failure"; readonly message: string }

/** What lies in KVM and with the vCPUs; memory and devices are saved apart. */
export interface MachineState { readonly vcpus: readonly VcpuState[]; readonly vm: VmState; readonly board: BoardState }

export class Machine {
  readonly memory: GuestMemory;
  readonly platform: PciPlatform;
  readonly discarded: Discarded;
  private readonly kvm: Kvm;
  private readonly vm: Vm;
  private readonly bus = new PciBus();
  private readonly serial: Serial;
  private readonly ports: Ports;
  private readonly interrupts: Interrupts;
  private readonly vcpus: readonly Vcpu[];
  private readonly cpuids: DataView[] = [];
  private readonly threads: Vcpus;
  private ended = false;

  constructor(epoll: Epoll, private readonly options: MachineOptions) {
    this.kvm = new Kvm(options.kvmFd);
    const spares = options.spares ?? Spares.NONE;
    const { vm, vcpus, memory, mapping } = spares.takeBody(this.kvm, options.memoryBytes, options.vcpus);
    this.vm = vm;
    this.vcpus = vcpus;
    this.memory = memory;
    options.fill?.(mapping);
    this.discarded = new Discarded(mapping, options.fill !== undefined);
    this.interrupts = new Interrupts(this.vm);
    const serialIrq = this.interrupts.isa(SERIAL_IRQ);
    this.serial = new Serial(options.onSerial, () => signalEventFd(serialIrq));
    this.platform = this.pciPlatform();
    this.showCpus();
    const { bus } = this, ports = new Ports(bus, this.serial, new PostedWrites(vm.postedPageOf(vcpus[0]!)), () => this.onVcpuEnd(End.RESET, 0));
    this.ports = ports;
    this.threads = spares.takeThreads(vcpus) ?? new Vcpus(epoll, vcpus);
    this.threads.serve({
      portRead: (port, size) => ports.read(port, size),
      portWrite: (port, size, value) => ports.write(port, size, value),
      memoryRead: (gpa, size) => bus.memoryRead(gpa, size),
      memoryWrite: (gpa, size, value) => bus.memoryWrite(gpa, size, value),
      ended: (why, detail) => this.onVcpuEnd(why, detail),
    });
  }

  /** Adds a device to the bus; before start(). */
  add(device: PciFunction): void { this.bus.add(device); }

  /** Loads the kernel and lets the bootstrap vCPU run it. */
  boot(image: BootImage): void {
    enterLongMode(this.vcpus[0]!, loadLinux(this.memory, image));
    this.threads.resume();
  }

  /**
   * Puts what lies in KVM of a saved machine into this new one, whose memory is in place already; it is paused until resume().
   * Devices are restored after it (they raise interrupts), restoreBoard() comes after them.
   */
  restore(state: Pick<MachineState, "vcpus" | "vm">): void {
    if (state.vcpus.length !== this.vcpus.length) throw new Error(`Cannot restore ${state.vcpus.length} vCPUs into ${this.vcpus.length}`);
    this.vcpus.forEach((vcpu, i) => restoreVcpu(vcpu, state.vcpus[i]!));
    restoreVm(this.vm, state.vm);
  }

  /** Serial port and where the BARs are. */
  restoreBoard(board: BoardState): void {
    this.bus.address = board.pciAddress;
    this.bus.restore(board.bars);
    this.serial.restore(board.serial);
  }

  /** Only after pause() has called back. */
  save(): MachineState {
    this.ports.settle();
    this.serial.flush();
    const reader = new StateReader(this.kvm);
    const bytesOf = (table: DataView) => new Uint8Array(new Uint8Array(table.buffer, table.byteOffset, table.byteLength));
    return {
      vcpus: this.vcpus.map((vcpu, i) => ({ ...reader.saveVcpu(vcpu), cpuid: bytesOf(this.cpuids[i]!) })), vm: saveVm(this.vm),
      board: { pciAddress: this.bus.address, serial: this.serial.save(), bars: this.bus.save() },
    };
  }

  /** What its first vCPU sees. */
  get cpuid(): DataView { return this.cpuids[0]!; }

  /** `done` runs once no vCPU is in the guest any more. */
  pause(done: () => void): void { this.threads.park(done); }
  /** Every vCPU is on its way into the guest. */
  resume(): void {
    for (const vcpu of this.vcpus) tellPaused(vcpu);
    this.threads.resume();
  }
  exits(): number { return this.threads.exits(); }

  private showCpus(): void {
    const supported = this.kvm.supportedCpuid();
    for (const [index, vcpu] of this.vcpus.entries()) {
      const saved = this.options.cpuid?.[index];
      const table = saved === undefined ? hostTable(this.kvm, supported, index, this.options.vcpus, this.options.xsave) : new DataView(saved.buffer, saved.byteOffset, saved.byteLength);
      vcpu.setCpuid(table);
      this.cpuids.push(table);
    }
  }

  private pciPlatform(): PciPlatform {
    return {
      addIoEvent: (gpa, fd) => this.vm.ioeventfd(fd, gpa, true),
      removeIoEvent: (gpa, fd) => this.vm.ioeventfd(fd, gpa, false),
      allocateIrq: () => this.interrupts.allocate(),
      setMsiRoute: (gsi, message) => this.interrupts.setMessage(gsi, message),
      commitRoutes: () => this.interrupts.commit(),
    };
  }

  private onVcpuEnd(why: number, detail: number): void {
    if (this.ended) return;
    this.ended = true;
    this.threads.stop();
    this.serial.flush();
    this.options.onEnd(describeEnd(why, detail));
  }
}

function hostTable(kvm: Kvm, supported: DataView, index: number, count: number, xsave: boolean): DataView {
  return cpuidFor(supported, { index, count, tscDeadline: kvm.extension(KVM.KVM_CAP_TSC_DEADLINE_TIMER) !== 0, xsave });
}

/** What a vCPU would see on this host, were it the only one. */
export function hostCpuid(kvmFd: number, xsave: boolean): DataView {
  const kvm = new Kvm(kvmFd);
  return hostTable(kvm, kvm.supportedCpuid(), 0, 1, xsave);
}

/** With and without XSAVE: the same for every machine while this process lives, however many vCPUs it has. */
const features: { [xsave: string]: CpuFeatures } = {};
export const hostFeatures = (kvmFd: number, xsave: boolean): CpuFeatures => (features[String(xsave)] ??= cpuFeatures(hostCpuid(kvmFd, xsave)));

function describeEnd(why: number, detail: number): MachineEnd {
  switch (why) {
    case End.RESET: return { kind: "reset", message: "the guest reset itself" };
    case End.SHUTDOWN: return { kind: "triple-fault", message: "the guest's CPU gave up (triple fault)" };
    case End.INTERNAL_ERROR:
      return { kind: "failure", message: `KVM could not go on (internal error ${detail}): this host's KVM may be unable to run an ordinary kernel; see dormouse doctor` };
    case End.FAIL_ENTRY: return { kind: "failure", message: `KVM could not enter the guest (hardware reason 0x${(detail >>> 0).toString(16)})` };
    case End.RUN_FAILED: return { kind: "failure", message: `KVM_RUN failed with errno ${detail}` };
    default: return { kind: "failure", message: `a vCPU ended unexpectedly (${why}, ${detail})` };
  }
}
