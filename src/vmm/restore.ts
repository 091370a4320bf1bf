// A saved machine put into this monitor, in two steps: files checked, memory mapped, KVM's state set; then devices, with their gates shut.
// It does not run yet.
import { closeFd } from "../ffi/fd.ts";
import type { Epoll } from "../ffi/epoll.ts";
import { MachineStateError } from "../machine-state/fault.ts";
import { checkParams, type SavedMachine } from "../machine-state/saved-machine.ts";
import type { RequestFds } from "./control.ts";
import { Devices, type DeviceEvents } from "./devices/devices.ts";
import { machineParams } from "./guest.ts";
import { hostFeatures, Machine, type MachineOptions } from "./machine.ts";
import type { LoadParams, RestoreParams } from "./protocol.ts";
import { checkCpu, load } from "./snapshot/load.ts";
import type { Chain } from "./snapshot/plan.ts";
import type { Spares } from "./spares.ts";

/** A machine without its devices. */
export interface Loaded { readonly params: LoadParams; readonly machine: Machine; readonly chain: Chain; readonly saved: SavedMachine; readonly loadMs: number; readonly machineMs: number }

/** Throws, a MachineStateError where it lies with the saved machine; the monitor is then of no more use. */
export function loadMachine(epoll: Epoll, params: LoadParams, fds: RequestFds, on: Pick<MachineOptions, "onSerial" | "onEnd" | "spares">): Loaded {
  const startedAt = performance.now();
  const machines = params.generations.map((_, i) => fds.take(`machine${i}`)), memories = params.generations.map((_, i) => fds.take(`memory${i}`));
  try {
    const loaded = load(params.generations, machines, memories);
    const { memoryBytes, vcpus, xsave } = params, { machine: saved, chain } = loaded;
    const kvmFd = fds.take("kvm");
    checkParams(saved.params, { ...saved.params, memoryBytes, vcpus, xsave }); // the devices, they tell later
    checkCpu(saved, hostFeatures(kvmFd, xsave));
    const loadMs = performance.now() - startedAt;
    const machine = new Machine(epoll, { kvmFd, memoryBytes, vcpus, xsave, ...on, cpuid: saved.vcpus.map((vcpu) => vcpu.cpuid), fill: (ram) => loaded.fill(ram) });
    fitting(() => machine.restore(saved));
    return { params, machine, chain, saved, loadMs, machineMs: performance.now() - startedAt - loadMs };
  } finally {
    for (const fd of [...machines, ...memories]) closeFd(fd); // mappings keep their files
  }
}

/** Throws as loadMachine(). */
export function restoreDevices(epoll: Epoll, { machine, saved, params: { memoryBytes, vcpus, xsave } }: Loaded, params: RestoreParams, fds: RequestFds, events: DeviceEvents, spares: Spares): Devices {
  const devices = new Devices(epoll, machine, params, fds, events, spares);
  checkParams(saved.params, machineParams({ params: { memoryBytes, vcpus, xsave }, devices }));
  devices.shutGates();
  fitting(() => {
    const refused = devices.restore(saved.devices);
    if (refused !== null) throw new Error(refused);
    machine.restoreBoard(saved.board);
  });
  return devices;
}

/** State that is refused lies with the saved machine. */
function fitting(set: () => void): void {
  try {
    set();
  } catch (error) {
    throw new MachineStateError("incompatible", `Cannot use the saved machine: ${error instanceof Error ? error.message : String(error)}`);
  }
}
