// KVM's three kinds of descriptor as owners: Kvm (system), Vm, Vcpu. Only what the monitor uses; each method is one ioctl.
// A Vcpu's methods may be called from the main thread while it is parked (KVM serializes on the vCPU's mutex).
import { must, syscall } from "../ffi/syscall.ts";
import { SYS } from "../ffi/abi/syscalls.ts";
import { closeFd } from "../ffi/fd.ts";
import { MAP_SHARED, Mapping, PAGE_SIZE, PROT_READ, PROT_WRITE } from "../ffi/memory.ts";
import {
  ioctls, KVM, kvm_coalesced_mmio_zone, kvm_cpuid2, kvm_cpuid_entry2, kvm_ioeventfd, kvm_irq_routing, kvm_irq_routing_entry, kvm_irqfd, kvm_pit_config,
  kvm_sregs, kvm_userspace_memory_region,
} from "../ffi/abi/kvm.ts";
import { IDENTITY_MAP_ADDRESS, TSS_ADDRESS } from "./layout.ts";

type IoctlName = keyof typeof ioctls;
const ioctl = (fd: number, name: IoctlName, arg: number | NodeJS.TypedArray | DataView = 0): number =>
  must(`KVM refused ${name}`, SYS.ioctl, fd, ioctls[name], arg);

const MAX_CPUID_ENTRIES = 256;

/** The same for every machine while this process lives, and a third of a millisecond to ask for. */
let supported: DataView | null = null;

/** `/dev/kvm`. The descriptor belongs to the caller. */
export class Kvm {
  constructor(readonly fd: number) {
    const version = ioctl(fd, "KVM_GET_API_VERSION");
    if (version !== KVM.KVM_API_VERSION) throw new Error(`Cannot use /dev/kvm: API version ${version}, expected ${KVM.KVM_API_VERSION}`);
  }

  extension(capability: number): number { return ioctl(this.fd, "KVM_CHECK_EXTENSION", capability); }

  /** The entries of KVM_GET_SUPPORTED_CPUID, as bytes that setCpuid() takes; not to be changed. */
  supportedCpuid(): DataView { return (supported ??= this.readSupportedCpuid()); }

  private readSupportedCpuid(): DataView {
    const table = new DataView(new ArrayBuffer(kvm_cpuid2.size + MAX_CPUID_ENTRIES * kvm_cpuid_entry2.size));
    table.setUint32(kvm_cpuid2.at.nent, MAX_CPUID_ENTRIES, true);
    ioctl(this.fd, "KVM_GET_SUPPORTED_CPUID", table);
    return new DataView(table.buffer, 0, kvm_cpuid2.size + table.getUint32(kvm_cpuid2.at.nent, true) * kvm_cpuid_entry2.size);
  }

  /** Indices of the MSRs that make up a vCPU's state. */
  msrIndices(): number[] {
    const room = 1024;
    const list = new Uint32Array(1 + room);
    list[0] = room;
    ioctl(this.fd, "KVM_GET_MSR_INDEX_LIST", list);
    return Array.from(list.subarray(1, 1 + list[0]!));
  }

  createVm(): Vm {
    const postedPage = this.extension(KVM.KVM_CAP_COALESCED_PIO) > 0 ? this.extension(KVM.KVM_CAP_COALESCED_MMIO) : 0;
    return new Vm(ioctl(this.fd, "KVM_CREATE_VM"), ioctl(this.fd, "KVM_GET_VCPU_MMAP_SIZE"), postedPage);
  }
}

/** One entry of the interrupt routing table. */
export type Route =
  | { readonly gsi: number; readonly chip: number; readonly pin: number }
  | { readonly gsi: number; readonly addressLow: number; readonly addressHigh: number; readonly data: number };

/** A virtual machine with in-kernel PIC, IOAPIC, local APICs and PIT. */
export class Vm {
  /** `postedPage`: which page of a vCPU's mapping is the ring of posted writes; 0 where this KVM has none. */
  constructor(readonly fd: number, private readonly runSize: number, private readonly postedPage: number) {
    ioctl(fd, "KVM_SET_IDENTITY_MAP_ADDR", new BigUint64Array([BigInt(IDENTITY_MAP_ADDRESS)]));
    ioctl(fd, "KVM_SET_TSS_ADDR", TSS_ADDRESS);
  }

  /**
   * Once, before the first vCPU and behind memory: controllers, timer and postWrites() leave KVM something to clean up that a change of memory waits for
   * (SRCU, virt/kvm/kvm_main.c), 5 ms on a busy host where it is 0.1 without.
   */
  createInterruptControllers(): void {
    ioctl(this.fd, "KVM_CREATE_IRQCHIP");
    const pit = new DataView(new ArrayBuffer(kvm_pit_config.size));
    // The speaker port (0x61) is KVM's too: the kernel calibrates against it.
    pit.setUint32(kvm_pit_config.at.flags, KVM.KVM_PIT_SPEAKER_DUMMY, true);
    ioctl(this.fd, "KVM_CREATE_PIT2", pit);
  }

  createVcpu(index: number): Vcpu {
    const fd = ioctl(this.fd, "KVM_CREATE_VCPU", index);
    return new Vcpu(index, fd, Mapping.file(fd, this.runSize, PROT_READ | PROT_WRITE, MAP_SHARED));
  }

  /** Writes to these ports go into the ring of posted writes, where this KVM has one (posted.ts). */
  postWrites(port: number, size: number): void {
    if (this.postedPage === 0) return;
    const at = kvm_coalesced_mmio_zone.at, zone = new DataView(new ArrayBuffer(kvm_coalesced_mmio_zone.size));
    zone.setBigUint64(at.addr, BigInt(port), true);
    zone.setUint32(at.size, size, true);
    zone.setUint32(at.pad, 1, true);
    ioctl(this.fd, "KVM_REGISTER_COALESCED_MMIO", zone);
  }

  /** The ring's page, seen through any of its vCPUs, as long as that lives; null where there is none. */
  postedPageOf(vcpu: Vcpu): ArrayBuffer | null {
    return this.postedPage === 0 ? null : vcpu.run.buffer(this.postedPage * PAGE_SIZE, PAGE_SIZE);
  }

  /** `size` 0 deletes the slot. */
  setMemory(slot: number, gpa: number, size: number, hva: number): void {
    const at = kvm_userspace_memory_region.at;
    const region = new DataView(new ArrayBuffer(kvm_userspace_memory_region.size));
    region.setUint32(at.slot, slot, true);
    region.setBigUint64(at.guest_phys_addr, BigInt(gpa), true);
    region.setBigUint64(at.memory_size, BigInt(size), true);
    region.setBigUint64(at.userspace_addr, BigInt(hva), true);
    ioctl(this.fd, "KVM_SET_USER_MEMORY_REGION", region);
  }

  /** Writing the eventfd raises `gsi` (edge). */
  irqfd(fd: number, gsi: number): void {
    const request = new DataView(new ArrayBuffer(kvm_irqfd.size));
    request.setUint32(kvm_irqfd.at.fd, fd, true);
    request.setUint32(kvm_irqfd.at.gsi, gsi, true);
    ioctl(this.fd, "KVM_IRQFD", request);
  }

  /** A guest's write of any length at `gpa` signals the eventfd (length 0 matches all); `assign` false takes it back. */
  ioeventfd(fd: number, gpa: number, assign: boolean): void {
    const at = kvm_ioeventfd.at;
    const request = new DataView(new ArrayBuffer(kvm_ioeventfd.size));
    request.setBigUint64(at.addr, BigInt(gpa), true);
    request.setUint32(at.fd, fd, true);
    request.setUint32(at.flags, assign ? 0 : KVM.KVM_IOEVENTFD_FLAG_DEASSIGN, true);
    ioctl(this.fd, "KVM_IOEVENTFD", request);
  }

  /** Replaces the whole routing table. */
  setRoutes(routes: readonly Route[]): void {
    const entry = kvm_irq_routing_entry;
    const table = new DataView(new ArrayBuffer(kvm_irq_routing.size + routes.length * entry.size));
    table.setUint32(kvm_irq_routing.at.nr, routes.length, true);
    routes.forEach((route, i) => {
      const base = kvm_irq_routing.size + i * entry.size;
      table.setUint32(base + entry.at.gsi, route.gsi, true);
      if ("chip" in route) {
        table.setUint32(base + entry.at.type, KVM.KVM_IRQ_ROUTING_IRQCHIP, true);
        table.setUint32(base + entry.at.u, route.chip, true);
        table.setUint32(base + entry.at.u + 4, route.pin, true);
      } else {
        table.setUint32(base + entry.at.type, KVM.KVM_IRQ_ROUTING_MSI, true);
        table.setUint32(base + entry.at.u, route.addressLow, true);
        table.setUint32(base + entry.at.u + 4, route.addressHigh, true);
        table.setUint32(base + entry.at.u + 8, route.data, true);
      }
    });
    ioctl(this.fd, "KVM_SET_GSI_ROUTING", table);
  }

  /** For state that is moved whole (arch/x86/state.ts). Returns the kernel's value or -errno. */
  tryIoctl(name: IoctlName, arg: number | NodeJS.TypedArray | DataView = 0): number {
    return syscall(SYS.ioctl, this.fd, ioctls[name], arg);
  }

  close(): void { closeFd(this.fd); }
}

/** A virtual CPU and its shared `struct kvm_run` page(s). */
export class Vcpu {
  constructor(readonly index: number, readonly fd: number, readonly run: Mapping) {}

  setCpuid(table: DataView): void { ioctl(this.fd, "KVM_SET_CPUID2", table); }

  /**
   * KVM gives a new vCPU the TSC frequency that was measured when KVM was loaded. A host that has measured again since, more than
   * 250 ppm off, and can't scale the TSC leaves such a vCPU without a working one: its TSC deadline timer never fires
   * (arch/x86/kvm/x86.c, set_tsc_khz). 0 asks for the frequency as it is known now. Not every KVM has this call.
   */
  useHostTscFrequency(): void { this.tryIoctl("KVM_SET_TSC_KHZ", 0); }

  getSregs(): DataView {
    const sregs = new DataView(new ArrayBuffer(kvm_sregs.size));
    ioctl(this.fd, "KVM_GET_SREGS", sregs);
    return sregs;
  }
  setSregs(sregs: DataView): void { ioctl(this.fd, "KVM_SET_SREGS", sregs); }

  setRegs(regs: DataView): void { ioctl(this.fd, "KVM_SET_REGS", regs); }

  /** As Vm's. */
  tryIoctl(name: IoctlName, arg: number | NodeJS.TypedArray | DataView = 0): number {
    return syscall(SYS.ioctl, this.fd, ioctls[name], arg);
  }

  close(): void {
    this.run.close();
    closeFd(this.fd);
  }
}
