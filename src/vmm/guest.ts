// One guest in this monitor: its machine, its devices, the way to its agent, and what it was made from.
import type { MachineParams } from "../machine-state/saved-machine.ts";
import type { Agent } from "./agent.ts";
import type { Devices } from "./devices/devices.ts";
import type { Machine } from "./machine.ts";
import type { BootParams } from "./protocol.ts";
import { type Chain } from "./snapshot/plan.ts";

export interface Guest {
  readonly machine: Machine;
  readonly devices: Devices;
  readonly agent: Agent;
  readonly params: Pick<BootParams, "memoryBytes" | "vcpus" | "xsave">;
  /** What its memory is mapped from. */
  readonly chain: Chain;
}

export const machineParams = ({ params: { memoryBytes, vcpus, xsave }, devices }: Pick<Guest, "params" | "devices">): MachineParams => ({ memoryBytes, vcpus, xsave, ...devices.disksAndNetwork });
