// `GET /instances/{id}/stats`: what a running instance uses, as its monitor and the kernel count it.
import { type Static, Type } from "@sinclair/typebox";
import type { Instance, InstanceStats } from "../../host/instances/service.ts";
import { Bytes } from "../schema.ts";

export const Stats = Type.Object(
  {
    instance_id: Type.String(),
    instance_name: Type.String(),
    allocated_vcpus: Type.Integer(),
    allocated_memory_bytes: Bytes("Memory that the guest may use."),
    cpu_seconds: Type.Number({ description: "CPU time of the monitor's process, all of the guest's included." }),
    memory_rss_bytes: Bytes("Resident memory of the monitor's process: what the guest has touched, and the monitor's own."),
    memory_vms_bytes: Bytes("Virtual memory of that process."),
    memory_utilization_ratio: Type.Number({ description: "Resident to allocated." }),
    network_rx_bytes: Bytes("Received by the guest."),
    network_tx_bytes: Bytes("Sent by the guest."),
  },
  { title: "Stats" },
);

export const statsExample: Static<typeof Stats> = {
  instance_id: "tz4a98xxat96iws9zmbrgj3a",
  instance_name: "web",
  allocated_vcpus: 2,
  allocated_memory_bytes: 536_870_912,
  cpu_seconds: 1.27,
  memory_rss_bytes: 94_371_840,
  memory_vms_bytes: 1_610_612_736,
  memory_utilization_ratio: 0.176,
  network_rx_bytes: 40_960,
  network_tx_bytes: 163_840,
};

export function statsView({ id, name, vcpus, memoryBytes }: Instance, stats: InstanceStats): Static<typeof Stats> {
  return {
    instance_id: id,
    instance_name: name,
    allocated_vcpus: vcpus,
    allocated_memory_bytes: memoryBytes,
    cpu_seconds: stats.cpuSeconds,
    memory_rss_bytes: stats.residentBytes,
    memory_vms_bytes: stats.virtualBytes,
    memory_utilization_ratio: stats.residentBytes / memoryBytes,
    network_rx_bytes: stats.net?.rxBytes ?? 0,
    network_tx_bytes: stats.net?.txBytes ?? 0,
  };
}
