// What a machine needs and what takes long to make, made ahead by a monitor that waits in the daemon's pool: KVM's VM with memory of the
// size that is expected (a memory slot alone costs milliseconds: KVM waits for all CPUs), Workers for vCPUs, a ring for disk I/O.
// All of it is as good as new: nothing of a guest has been in it.
import type { Epoll } from "../ffi/epoll.ts";
import { Mapping } from "../ffi/memory.ts";
import type { DiskIo } from "./devices/block/disk-io.ts";
import { UringIo } from "./devices/block/uring.ts";
import { Kvm, type Vm } from "./kvm.ts";
import { regionsOf } from "./memory.ts";
import type { PrepareParams } from "./protocol.ts";
import { workerUrl } from "../workers.ts";

/** Each piece is taken at most once, by the one guest that this monitor will have. */
export class Spares {
  private constructor(private vm: Vm | null, private ram: Mapping | null, private readonly workers: Worker[], private io: DiskIo | null) {}

  static readonly NONE = new Spares(null, null, [], null);

  /** Threads alone, for who can't prepare: they start while the rest is made. */
  static threads(vcpus: number): Spares { return new Spares(null, null, newWorkers(vcpus), null); }

  static make(epoll: Epoll, kvmFd: number, { memoryBytes, vcpus }: PrepareParams): Spares {
    const workers = newWorkers(vcpus);
    const vm = new Kvm(kvmFd).createVm();
    const ram = Mapping.aligned(memoryBytes);
    setMemory(vm, ram, true);
    return new Spares(vm, ram, workers, UringIo.create(epoll));
  }

  /** A VM whose memory is `memoryBytes` of RAM, mapped and empty. Pages may be replaced as long as no vCPU has run. */
  takeVm(kvm: Kvm, memoryBytes: number): { readonly vm: Vm; readonly ram: Mapping } {
    const vm = this.vm ?? kvm.createVm();
    let { ram } = this;
    [this.vm, this.ram] = [null, null];
    if (ram !== null && ram.length !== memoryBytes) {
      setMemory(vm, ram, false);
      ram.close();
      ram = null;
    }
    if (ram !== null) return { vm, ram };
    // KVM maps a huge page into the guest only where guest and host addresses agree in their low 21 bits.
    ram = Mapping.aligned(memoryBytes);
    setMemory(vm, ram, true);
    return { vm, ram };
  }

  /** A Worker that waits for its vCPU. */
  takeWorker(): Worker { return this.workers.pop() ?? new Worker(workerUrl("vcpu")); }

  takeDiskIo(): DiskIo | null {
    const { io } = this;
    this.io = null;
    return io;
  }
}

const newWorkers = (count: number): Worker[] => Array.from({ length: count }, () => new Worker(workerUrl("vcpu")));

/** Gives the VM `ram` as its memory, or takes it away. */
function setMemory(vm: Vm, ram: Mapping, present: boolean): void {
  regionsOf(ram.length, ram.address).forEach((region, slot) => { if (region !== undefined) vm.setMemory(slot, region.gpa, present ? region.size : 0, region.hva); });
}
