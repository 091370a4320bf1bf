// Most of what a restore takes in a new process is code that runs for the first time. A monitor that waits in the daemon's pool plays
// one through, with a machine that nobody had: state to bytes and back, devices made and restored, rings looked at. KVM is asked only
// what its CPU has; nothing is left over.
import { kvm_clock_data, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave } from "../ffi/abi/kvm.ts";
import { PCI } from "../ffi/abi/pci_regs.ts";
import { STATUS } from "../ffi/abi/virtio_ring.ts";
import { realtimeNs } from "../ffi/clock.ts";
import { Epoll, EventFd } from "../ffi/epoll.ts";
import { closeFd, memoryFile, pwriteAll } from "../ffi/fd.ts";
import { Mapping } from "../ffi/memory.ts";
import { SYS } from "../ffi/abi/syscalls.ts";
import { must } from "../ffi/syscall.ts";
import { encodeMachine, type MachineParams } from "../machine-state/saved-machine.ts";
import type { VcpuState, VmState } from "../machine-state/x86.ts";
import { encodePairs } from "../pairs.ts";
import { PciBus } from "./bus.ts";
import { RequestFds } from "./control.ts";
import { Devices, type Board } from "./devices/devices.ts";
import { hostCpuid, hostFeatures } from "./machine.ts";
import { GuestMemory } from "./memory.ts";
import type { PciFunction } from "./pci.ts";
import { Discarded } from "./snapshot/discarded.ts";
import { checkCpu, load } from "./snapshot/load.ts";
import { wakePairs } from "./snapshot/wake.ts";
import type { TransportState } from "./virtio/transport.ts";

const MEMORY_BYTES = 2 ** 20, DISK_BYTES = 2 ** 16, TSC_KHZ = 1_000_000;
/** Where the rings of all queues lie, one over the other: they are empty, and nobody moves them. */
const RING = 0x1000;
const STATUS_RUNNING = STATUS.VIRTIO_CONFIG_S_ACKNOWLEDGE | STATUS.VIRTIO_CONFIG_S_DRIVER | STATUS.VIRTIO_CONFIG_S_FEATURES_OK | STATUS.VIRTIO_CONFIG_S_DRIVER_OK;
const VERSION_1 = String(1n << 32n);
const DISKS = [{ readonly: true, serial: "rootfs" }, { readonly: false, serial: "upper" }] as const;
const ID = "rehearsal", MAC = "02:00:00:00:00:00";

export function rehearse(kvmFd: number): void {
  const cpuid = hostCpuid(kvmFd, true), stage = new Stage();
  try {
    const first = stage.devices();
    const states = first.save().map(running), bars = stage.bus.save();
    first.close();
    const machine = stage.file(0), memory = stage.file(MEMORY_BYTES);
    const params: MachineParams = { memoryBytes: MEMORY_BYTES, vcpus: 1, xsave: true, network: true, disks: DISKS.map((disk) => ({ ...disk, bytes: DISK_BYTES })) };
    pwriteAll(machine, encodeMachine({
      id: ID, base: null, savedAt: 0, params, cpu: hostFeatures(kvmFd, true), guest: { bootedAt: null, runningAt: null, agent: false },
      vcpus: [emptyVcpu(cpuid)], vm: EMPTY_VM, board: { pciAddress: 0, serial: [], bars }, devices: states, pages: [{ page: 8, pages: 8, content: "data" }],
    }), 0);
    const loaded = load([ID], [machine], [memory]);
    checkCpu(loaded.machine, hostFeatures(kvmFd, true));
    loaded.fill(stage.ram);
    const second = stage.devices();
    second.shutGates();
    const refused = second.restore(loaded.machine.devices);
    stage.bus.restore(loaded.machine.board.bars);
    encodePairs(wakePairs({ hostname: ID, ip: "192.0.2.1", gateway: "192.0.2.2", mac: MAC }, realtimeNs()));
    second.close();
    if (refused !== null) throw new Error(`Cannot rehearse a restore: ${refused}`);
  } finally {
    stage.close();
  }
}

/** As a driver leaves a device that it uses. */
function running(state: TransportState): TransportState {
  const queues = state.queues.map((queue) => ({ ...queue, enabled: true, ring: { ...queue.ring, desc: RING, avail: RING, used: RING } }));
  const config = state.config.map((byte, at) => (at === PCI.PCI_COMMAND ? byte | PCI.PCI_COMMAND_MEMORY : byte));
  return { ...state, config, status: STATUS_RUNNING, driverFeatures: VERSION_1, queues };
}

/** Memory, descriptors and a machine's other sides, for devices that nobody uses. */
class Stage implements Board {
  readonly ram = Mapping.anonymous(MEMORY_BYTES);
  readonly memory = GuestMemory.of(this.ram);
  readonly discarded = new Discarded(this.ram, false);
  /** One a set of devices: each puts the TAP into its own. */
  private readonly epolls: Epoll[] = [];
  private readonly tap = new EventFd();
  private readonly log = memoryFile("dormouse-rehearsal");
  private readonly files = [this.log];
  readonly platform = { addIoEvent() {}, removeIoEvent() {}, allocateIrq: () => ({ gsi: 0, fd: this.tap.fd }), setMsiRoute() {}, commitRoutes() {} };

  bus = new PciBus();

  add(device: PciFunction): void { this.bus.add(device); }

  file(bytes: number): number {
    const fd = memoryFile("dormouse-rehearsal");
    must("Cannot size a file in memory", SYS.ftruncate, fd, bytes);
    this.files.push(fd);
    return fd;
  }

  devices(): Devices {
    const logs = ["vmm0", "vmm1", "app0", "app1"].map((name): [string, number] => [name, this.log]);
    const fds = new RequestFds(new Map([...logs, ["tap", this.tap.fd], ...DISKS.map((_, i): [string, number] => [`disk${i}`, this.file(DISK_BYTES)])]));
    const epoll = new Epoll();
    this.epolls.push(epoll);
    this.bus = new PciBus();
    return new Devices(epoll, this, { disks: DISKS, mac: MAC }, fds, { onFrame() {}, log() {}, onDiskFailed() {} });
  }

  close(): void {
    for (const epoll of this.epolls) epoll.close();
    this.tap.close();
    for (const fd of this.files) closeFd(fd);
    this.ram.close();
  }
}

const bytes = (size: number) => new Uint8Array(size);
const EMPTY_VM: VmState = { irqchips: [bytes(kvm_irqchip.size), bytes(kvm_irqchip.size), bytes(kvm_irqchip.size)], pit: bytes(kvm_pit_state2.size), clock: bytes(kvm_clock_data.size) };
const emptyVcpu = (cpuid: DataView): VcpuState => ({
  mpState: bytes(kvm_mp_state.size), regs: bytes(kvm_regs.size), sregs: bytes(kvm_sregs.size), xsave: bytes(kvm_xsave.size), xcrs: bytes(kvm_xcrs.size), debugRegs: bytes(kvm_debugregs.size),
  lapic: bytes(kvm_lapic_state.size), msrs: bytes(0), events: bytes(kvm_vcpu_events.size), cpuid: new Uint8Array(new Uint8Array(cpuid.buffer, cpuid.byteOffset, cpuid.byteLength)), tscKhz: TSC_KHZ,
});
