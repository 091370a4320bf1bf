// How an instance's state reads, and what the command line concludes from it.
import type { Instance, PortMapping } from "./api.ts";
import { span } from "./output.ts";
import { STATUS_DORMOUSE } from "./fail.ts";

/** States in which there is nothing more to wait for. */
export const hasEnded = ({ state }: Instance): boolean => state === "Stopped" || state === "Unknown";

/** It ended before its program could run: no exit code. */
export const notStarted = (instance: Instance): boolean => hasEnded(instance) && instance.exit_code == null;

/** What an attached `run` ends with. */
export const exitStatus = (instance: Instance): number => instance.exit_code ?? STATUS_DORMOUSE;

/** `Up 3 minutes`, `Standby 2 hours`, `Exited (0) 2 hours ago`, or the state itself. */
export function describeState(instance: Instance, now = Date.now()): string {
  const since = (time: string | null | undefined) => (time == null ? "" : span(now - Date.parse(time)));
  switch (instance.state) {
    case "Running": return `Up ${since(instance.started_at)}`.trimEnd();
    case "Standby": return `Standby ${since(instance.current_phase_since)}`.trimEnd();
    case "Stopped": return stopped(instance, since(instance.stopped_at));
    case "Unknown": return `Unknown: ${instance.state_error ?? "the daemon gives no reason"}`;
    default: return instance.state;
  }
}

function stopped({ exit_code, exit_message }: Instance, age: string): string {
  const when = age === "" ? "" : ` ${age} ago`;
  if (exit_code != null) return `Exited (${exit_code})${when}`;
  return exit_message ? `Stopped${when}: ${exit_message}` : `Stopped${when}`;
}

export const describePorts = (ports: readonly PortMapping[] = []): string =>
  ports.map(({ host_port, guest_port, protocol }) => `${host_port}->${guest_port}/${protocol ?? "tcp"}`).join(", ");
