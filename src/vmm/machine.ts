// One virtual machine: memory, vCPUs, interrupts, PCI bus. Owns them all; they live as long as the process.
import { Mapping } from "../ffi/memory.ts";
import type { Epoll } from "../ffi/epoll.ts";
import { KVM } from "../ffi/abi/kvm.ts";
import { cpuidFor } from "./arch/x86/cpuid.ts";
import { enterLongMode, loadLinux, type BootImage } from "./arch/x86/boot.ts";
import { restoreVm, saveVm, StateReader, tellPaused, type VcpuState, type VmState } from "./arch/x86/state.ts";
import { PciBus } from "./bus.ts";
import { Interrupts } from "./interrupts.ts";
import { Kvm, type Vcpu, type Vm } from "./kvm.ts";
import { GuestMemory } from "./memory.ts";
import type { PciFunction, PciPlatform } from "./pci.ts";
import { SERIAL_IRQ } from "./serial.ts";
import { End, MACHINE_SIZE } from "./vcpu-shared.ts";
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
  /** Serial output; the bytes are valid only during the call. */
  readonly onSerial: (bytes: Uint8Array) => void;
  /** A vCPU ended; the machine runs no more. Once. */
  readonly onEnd: (end: MachineEnd) => void;
}

export interface MachineEnd { readonly kind: "reset" | "triple-fault" | "failure"; readonly message: string }

/** What lies in KVM; memory and devices are saved apart. */
export interface MachineState { readonly vcpus: readonly VcpuState[]; readonly vm: VmState }

export class Machine {
  readonly memory: GuestMemory;
  readonly platform: PciPlatform;
  private readonly kvm: Kvm;
  private readonly vm: Vm;
  private readonly bus: PciBus;
  private readonly interrupts: Interrupts;
  private readonly vcpus: Vcpu[] = [];
  private readonly workers: Vcpus;
  private ended = false;

  constructor(epoll: Epoll, private readonly options: MachineOptions) {
    this.kvm = new Kvm(options.kvmFd);
    this.vm = this.kvm.createVm();
    // KVM maps a huge page into the guest only where guest and host addresses agree in their low 21 bits.
    const ram = Mapping.aligned(options.memoryBytes);
    this.memory = GuestMemory.of(ram);
    this.memory.regions.forEach((region, slot) => this.vm.setMemory(slot, region.gpa, region.size, region.hva));
    this.interrupts = new Interrupts(this.vm);
    this.workers = new Vcpus(epoll, options.vcpus, {
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

  /** Puts a saved machine's state into this new one, whose memory is in place already; it is paused until resume(). */
  restore(state: MachineState): void {
    if (state.vcpus.length !== this.vcpus.length) throw new Error(`Cannot restore ${state.vcpus.length} vCPUs into ${this.vcpus.length}`);
    const reader = new StateReader(this.kvm);
    this.vcpus.forEach((vcpu, i) => reader.restoreVcpu(vcpu, state.vcpus[i]!));
    restoreVm(this.vm, state.vm);
    for (const vcpu of this.vcpus) tellPaused(vcpu);
    this.startVcpus(true);
  }

  /** Only after pause() has called back. */
  save(): MachineState {
    const reader = new StateReader(this.kvm);
    return { vcpus: this.vcpus.map((vcpu) => reader.saveVcpu(vcpu)), vm: saveVm(this.vm) };
  }

  /** `done` runs once no vCPU is in the guest any more. */
  pause(done: () => void): void { this.workers.park(done); }
  resume(): void { this.workers.resume(); }
  exits(): number { return this.workers.exits(); }
  drainSerial(): void { this.workers.drainSerial(); }

  private startVcpus(parked: boolean): void {
    const serialIrq = this.interrupts.isa(SERIAL_IRQ);
    for (const vcpu of this.vcpus) this.workers.start(vcpu, serialIrq, parked);
  }

  private createVcpus(): void {
    const supported = this.kvm.supportedCpuid();
    const tscDeadline = this.kvm.extension(KVM.KVM_CAP_TSC_DEADLINE_TIMER) !== 0;
    for (let index = 0; index < this.options.vcpus; index++) {
      const vcpu = this.vm.createVcpu(index);
      vcpu.useHostTscFrequency();
      vcpu.setCpuid(cpuidFor(supported, { index, count: this.options.vcpus, tscDeadline, xsave: this.options.xsave }));
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
