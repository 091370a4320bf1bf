// What a machine needs and what takes long to make, made ahead by a monitor that waits in the daemon's pool: KVM's VM with memory of the
// size that is expected and with its vCPUs, their threads, a ring for disk I/O.
// All of it is as good as new: nothing of a guest has been in it.
import type { Epoll } from "../ffi/epoll.ts";
import { Mapping } from "../ffi/memory.ts";
import type { DiskIo } from "./devices/block/disk-io.ts";
import { UringIo } from "./devices/block/uring.ts";
import { Kvm, type Vcpu, type Vm } from "./kvm.ts";
import { GuestMemory } from "./memory.ts";
import { Vcpus } from "./vcpus.ts";
import { PCI_CONFIG_ADDRESS, PCI_CONFIG_ADDRESS_SIZE } from "./ports.ts";
import type { PrepareParams } from "./protocol.ts";

/** Guest RAM: its mapping, and the views of it. */
interface Ram { readonly mapping: Mapping; readonly memory: GuestMemory }
export interface Body extends Ram { readonly vm: Vm; readonly vcpus: Vcpu[] }

/** Each piece is taken at most once, by the one guest that this monitor will have. */
export class Spares {
  private constructor(private body: Body | null, private threads: Vcpus | null, private io: DiskIo | null) {}

  static readonly NONE = new Spares(null, null, null);

  static make(epoll: Epoll, kvmFd: number, { memoryBytes, vcpus }: PrepareParams): Spares {
    const body = newBody(new Kvm(kvmFd), memoryBytes, vcpus);
    return new Spares(body, new Vcpus(epoll, body.vcpus), UringIo.create(epoll));
  }

  /** A VM with `vcpus` vCPUs whose memory is `memoryBytes` of RAM, mapped and empty. Pages may be replaced as long as no vCPU has run. */
  takeBody(kvm: Kvm, memoryBytes: number, vcpus: number): Body {
    const spare = this.body;
    this.body = null;
    // KVM can't take a vCPU back, and one that never runs costs the others their common clock.
    if (spare === null || spare.vcpus.length > vcpus) {
      if (spare !== null) drop(spare);
      return newBody(kvm, memoryBytes, vcpus);
    }
    addVcpus(spare, vcpus);
    if (spare.mapping.length === memoryBytes) return spare;
    setMemory(spare.vm, spare.memory, false);
    spare.mapping.close();
    return { vm: spare.vm, vcpus: spare.vcpus, ...newRam(spare.vm, memoryBytes) };
  }

  /** Threads for just these vCPUs, or null. (Those for others wait for ever, at no cost but their stacks.) */
  takeThreads(vcpus: readonly Vcpu[]): Vcpus | null {
    const { threads } = this;
    this.threads = null;
    return threads?.vcpus === vcpus && threads.count === vcpus.length ? threads : null;
  }

  takeDiskIo(): DiskIo | null {
    const { io } = this;
    this.io = null;
    return io;
  }
}

function newBody(kvm: Kvm, memoryBytes: number, vcpus: number): Body {
  const vm = kvm.createVm(), body = { vm, vcpus: [], ...newRam(vm, memoryBytes) };
  vm.createInterruptControllers();
  vm.postWrites(PCI_CONFIG_ADDRESS, PCI_CONFIG_ADDRESS_SIZE);
  addVcpus(body, vcpus);
  return body;
}

function addVcpus({ vm, vcpus }: Body, count: number): void {
  while (vcpus.length < count) {
    const vcpu = vm.createVcpu(vcpus.length);
    vcpu.useHostTscFrequency();
    vcpus.push(vcpu);
  }
}

function drop({ vm, vcpus, mapping }: Body): void {
  for (const vcpu of vcpus) vcpu.close();
  vm.close();
  mapping.close();
}

function newRam(vm: Vm, bytes: number): Ram {
  // KVM maps a huge page into the guest only where guest and host addresses agree in their low 21 bits.
  const mapping = Mapping.aligned(bytes), memory = GuestMemory.of(mapping);
  setMemory(vm, memory, true);
  return { mapping, memory };
}

/** Gives the VM its memory, or takes it away. */
const setMemory = (vm: Vm, { regions }: GuestMemory, present: boolean): void =>
  regions.forEach((region, slot) => { if (region !== undefined) vm.setMemory(slot, region.gpa, present ? region.size : 0, region.hva); });
