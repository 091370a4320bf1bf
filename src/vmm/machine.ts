// One virtual machine: memory, vCPUs, interrupts, PCI bus. Owns them all; they live as long as the process.
import type { Mapping } from "../ffi/memory.ts";
import { KVM } from "../ffi/abi/kvm.ts";
import { cpuidFor } from "./arch/x86/cpuid.ts";
import { enterLongMode, loadLinux, type BootImage } from "./arch/x86/boot.ts";
import { signalEventFd, type Epoll } from "../ffi/epoll.ts";
import type { BoardState } from "../machine-state/saved-machine.ts";
import type { VcpuState, VmState } from "../machine-state/x86.ts";
import { restoreVm, saveVm, StateReader, tellPaused } from "./arch/x86/state.ts";
import { PciBus } from "./bus.ts";
import { Interrupts } from "./interrupts.ts";
import { Kvm, type Vcpu, type Vm } from "./kvm.ts";
import type { GuestMemory } from "./memory.ts";
import type { PciFunction, PciPlatform } from "./pci.ts";
import { SERIAL_IRQ, SERIAL_STATE_SIZE, serialInterrupts } from "./serial.ts";
import { End, Machine as MachineWord, MACHINE_SIZE, SERIAL_OFFSET } from "./vcpu-shared.ts";
import { Discarded } from "./snapshot/discarded.ts";
import { Spares } from "./spares.ts";
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
  private readonly bus: PciBus;
  private readonly interrupts: Interrupts;
  private readonly vcpus: Vcpu[] = [];
  private readonly cpuids: DataView[] = [];
  private serialIrq = -1;
  private readonly workers: Vcpus;
  private ended = false;

  constructor(epoll: Epoll, private readonly options: MachineOptions) {
    this.kvm = new Kvm(options.kvmFd);
    const spares = options.spares ?? Spares.NONE;
    const { vm, memory, mapping } = spares.takeVm(this.kvm, options.memoryBytes);
    this.vm = vm;
    this.memory = memory;
    options.fill?.(mapping);
    this.discarded = new Discarded(mapping, options.fill !== undefined);
    this.interrupts = new Interrupts(this.vm);
    this.workers = new Vcpus(epoll, options.vcpus, () => spares.takeWorker(), {
      portRead: (port, size) => this.bus.configRead(port, size),
      portWrite: (port, size, value) => this.bus.configWrite(port, size, value),
      memoryRead: (gpa, size) => this.bus.memoryRead(gpa, size),
      memoryWrite: (gpa, size, value) => this.bus.memoryWrite(gpa, size, value),
      serial: options.onSerial,
      ended: (_vcpu, why, detail) => this.onVcpuEnd(why, detail),
    });
    this.bus = new PciBus(new DataView(this.workers.shared.buffer(0, MACHINE_SIZE)), (slot) => this.workers.pciMirror(slot));
    this.platform = this.pciPlatform();
    this.createVcpus();
  }

  /** Adds a device to the bus; before start(). */
  add(device: PciFunction): void { this.bus.add(device); }

  /** Loads the kernel and lets the bootstrap vCPU run it. */
  boot(image: BootImage): void {
    // Workers take as long to start as the kernel to load.
    this.startVcpus(true);
    enterLongMode(this.vcpus[0]!, loadLinux(this.memory, image));
    this.workers.resume();
  }

  /**
   * Puts what lies in KVM of a saved machine into this new one, whose memory is in place already; it is paused until resume().
   * Devices are restored after it (they raise interrupts), restoreBoard() comes after them.
   */
  restore(state: Pick<MachineState, "vcpus" | "vm">): void {
    if (state.vcpus.length !== this.vcpus.length) throw new Error(`Cannot restore ${state.vcpus.length} vCPUs into ${this.vcpus.length}`);
    this.startVcpus(true); // their threads start meanwhile; parked, they touch nothing of this
    const reader = new StateReader(this.kvm);
    this.vcpus.forEach((vcpu, i) => reader.restoreVcpu(vcpu, state.vcpus[i]!));
    restoreVm(this.vm, state.vm);
  }

  /** Serial port and where the BARs are. The serial port's interrupt may have been on its way: it comes again. */
  restoreBoard(board: BoardState): void {
    new Int32Array(this.workers.shared.buffer(0, MACHINE_SIZE))[MachineWord.PCI_ADDRESS] = board.pciAddress | 0;
    this.workers.shared.bytes(SERIAL_OFFSET, SERIAL_STATE_SIZE).set(board.serial.slice(0, SERIAL_STATE_SIZE));
    this.bus.restore(board.bars);
    if (serialInterrupts(board.serial)) signalEventFd(this.serialIrq);
  }

  /** Only after pause() has called back. */
  save(): MachineState {
    this.workers.drainSerial();
    const reader = new StateReader(this.kvm);
    const bytesOf = (table: DataView) => new Uint8Array(new Uint8Array(table.buffer, table.byteOffset, table.byteLength));
    const pciAddress = new Int32Array(this.workers.shared.buffer(0, MACHINE_SIZE))[MachineWord.PCI_ADDRESS]! >>> 0;
    return {
      vcpus: this.vcpus.map((vcpu, i) => ({ ...reader.saveVcpu(vcpu), cpuid: bytesOf(this.cpuids[i]!) })), vm: saveVm(this.vm),
      board: { pciAddress, serial: [...this.workers.shared.bytes(SERIAL_OFFSET, SERIAL_STATE_SIZE)], bars: this.bus.save() },
    };
  }

  /** What its first vCPU sees. */
  get cpuid(): DataView { return this.cpuids[0]!; }

  /** `done` runs once no vCPU is in the guest any more. */
  pause(done: () => void): void { this.workers.park(done); }
  /** `running` runs once every vCPU is on its way into the guest. */
  resume(running?: () => void): void {
    for (const vcpu of this.vcpus) tellPaused(vcpu);
    this.workers.resume(running);
  }
  exits(): number { return this.workers.exits(); }
  drainSerial(): void { this.workers.drainSerial(); }

  private startVcpus(parked: boolean): void {
    this.serialIrq = this.interrupts.isa(SERIAL_IRQ);
    for (const vcpu of this.vcpus) this.workers.start(vcpu, this.serialIrq, parked);
  }

  private createVcpus(): void {
    const supported = this.kvm.supportedCpuid();
    for (let index = 0; index < this.options.vcpus; index++) {
      const vcpu = this.vm.createVcpu(index);
      vcpu.useHostTscFrequency();
      const saved = this.options.cpuid?.[index];
      const table = saved === undefined ? hostTable(this.kvm, supported, index, this.options.vcpus, this.options.xsave) : new DataView(saved.buffer, saved.byteOffset, saved.byteLength);
      vcpu.setCpuid(table);
      this.cpuids.push(table);
      this.vcpus.push(vcpu);
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
    this.workers.drainSerial();
    this.options.onEnd(describeEnd(why, detail));
  }
}

function hostTable(kvm: Kvm, supported: DataView, index: number, count: number, xsave: boolean): DataView {
  return cpuidFor(supported, { index, count, tscDeadline: kvm.extension(KVM.KVM_CAP_TSC_DEADLINE_TIMER) !== 0, xsave });
}

/** What the first of `vcpus` would see on this host. */
export function hostCpuid(kvmFd: number, vcpus: number, xsave: boolean): DataView {
  const kvm = new Kvm(kvmFd);
  return hostTable(kvm, kvm.supportedCpuid(), 0, vcpus, xsave);
}

function describeEnd(why: number, detail: number): MachineEnd {
  switch (why) {
    case End.RESET: return { kind: "reset", message: "the guest reset itself" };
    case End.SHUTDOWN: return { kind: "triple-fault", message: "the guest's CPU gave up (triple fault)" };
    case End.INTERNAL_ERROR:
      return { kind: "failure", message: `KVM could not go on (internal error ${detail}): this host's KVM may be unable to run an ordinary kernel; see dormouse doctor` };
    case End.FAIL_ENTRY: return { kind: "failure", message: `KVM could not enter the guest (hardware reason 0x${(detail >>> 0).toString(16)})` };
    case End.RUN_FAILED: return { kind: "failure", message: `KVM_RUN failed with errno ${detail}` };
    case End.NOT_STARTED: return { kind: "failure", message: "a vCPU's thread did not start: was the executable replaced or damaged while it ran?" };
    default: return { kind: "failure", message: `a vCPU ended unexpectedly (${why}, ${detail})` };
  }
}
