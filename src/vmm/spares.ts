// What a machine needs and what takes long to make, made ahead by a monitor that waits in the daemon's pool: KVM's VM with memory of the
// size that is expected (a memory slot alone costs milliseconds: KVM waits for all CPUs), a ring for disk I/O.
// All of it is as good as new: nothing of a guest has been in it.
import type { Epoll } from "../ffi/epoll.ts";
import { Mapping } from "../ffi/memory.ts";
import type { DiskIo } from "./devices/block/disk-io.ts";
import { UringIo } from "./devices/block/uring.ts";
import { Kvm, type Vm } from "./kvm.ts";
import { GuestMemory } from "./memory.ts";
import type { PrepareParams } from "./protocol.ts";

/** Guest RAM: its mapping, and the views of it. */
export interface Ram { readonly mapping: Mapping; readonly memory: GuestMemory }

/** Each piece is taken at most once, by the one guest that this monitor will have. */
export class Spares {
  private constructor(private vm: Vm | null, private ram: Ram | null, private io: DiskIo | null) {}

  static readonly NONE = new Spares(null, null, null);

  static make(epoll: Epoll, kvmFd: number, { memoryBytes }: PrepareParams): Spares {
    const vm = new Kvm(kvmFd).createVm();
    return new Spares(vm, newRam(vm, memoryBytes), UringIo.create(epoll));
  }

  /** A VM whose memory is `memoryBytes` of RAM, mapped and empty. Pages may be replaced as long as no vCPU has run. */
  takeVm(kvm: Kvm, memoryBytes: number): Ram & { readonly vm: Vm } {
    const vm = this.vm ?? kvm.createVm(), { ram } = this;
    [this.vm, this.ram] = [null, null];
    if (ram !== null && ram.mapping.length === memoryBytes) return { vm, ...ram };
    if (ram !== null) {
      setMemory(vm, ram.memory, false);
      ram.mapping.close();
    }
    return { vm, ...newRam(vm, memoryBytes) };
  }

  takeDiskIo(): DiskIo | null {
    const { io } = this;
    this.io = null;
    return io;
  }
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
