// A saved machine put into this monitor: files checked, memory mapped, KVM's and the devices' state set, gates shut. It does not run yet.
import { closeFd } from "../ffi/fd.ts";
import type { Epoll } from "../ffi/epoll.ts";
import { MachineStateError } from "../machine-state/fault.ts";
import { checkParams, type SavedMachine } from "../machine-state/saved-machine.ts";
import type { RequestFds } from "./control.ts";
import { Devices, type DeviceEvents } from "./devices/devices.ts";
import { machineParams } from "./guest.ts";
import { hostFeatures, Machine, type MachineOptions } from "./machine.ts";
import type { RestoreParams } from "./protocol.ts";
import { checkCpu, load } from "./snapshot/load.ts";
import type { Chain } from "./snapshot/plan.ts";

export interface Restored { readonly machine: Machine; readonly devices: Devices; readonly chain: Chain; readonly saved: SavedMachine; readonly loadMs: number; readonly machineMs: number }

/** Throws, a MachineStateError where it lies with the saved machine; the monitor is then of no more use. */
export function restore(epoll: Epoll, params: RestoreParams, fds: RequestFds, on: Pick<MachineOptions, "onSerial" | "onEnd" | "spares">, events: DeviceEvents): Restored {
  const startedAt = performance.now();
  const machines = params.generations.map((_, i) => fds.take(`machine${i}`)), memories = params.generations.map((_, i) => fds.take(`memory${i}`));
  try {
    const loaded = load(params.generations, machines, memories);
    const { memoryBytes, vcpus, xsave } = params, { machine: saved, chain } = loaded;
    const kvmFd = fds.take("kvm");
    checkParams(saved.params, { memoryBytes, vcpus, xsave, network: params.mac !== undefined, disks: saved.params.disks }); // how large disks are, they tell later
    checkCpu(saved, hostFeatures(kvmFd, xsave));
    const loadMs = performance.now() - startedAt;
    const machine = new Machine(epoll, { kvmFd, memoryBytes, vcpus, xsave, ...on, cpuid: saved.vcpus.map((vcpu) => vcpu.cpuid), fill: (ram) => loaded.fill(ram) });
    const devices = new Devices(epoll, machine, params, fds, events, on.spares);
    checkParams(saved.params, machineParams({ params, devices }));
    setState(machine, devices, saved);
    return { machine, devices, chain, saved, loadMs, machineMs: performance.now() - startedAt - loadMs };
  } finally {
    for (const fd of [...machines, ...memories]) closeFd(fd); // mappings keep their files
  }
}

function setState(machine: Machine, devices: Devices, saved: SavedMachine): void {
  try {
    machine.restore(saved);
    devices.shutGates();
    const refused = devices.restore(saved.devices);
    if (refused !== null) throw new Error(refused);
    machine.restoreBoard(saved.board);
  } catch (error) {
    throw new MachineStateError("incompatible", `Cannot use the saved machine: ${error instanceof Error ? error.message : String(error)}`);
  }
}
