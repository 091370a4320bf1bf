// Published ports: what may be asked for, and the change of the map that it means.
import type { Message } from "../../ffi/netlink/message.ts";
import { TableMessages } from "../../ffi/netlink/nftables.ts";
import { ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";
import type { Published } from "./leases.ts";
import { portName } from "./reservations.ts";
import { PUBLISHED, publishedElement, TABLE } from "./ruleset.ts";
import type { PortMapping } from "./service.ts";

/** Replaces the elements of `old` by those of `now`, for one transaction. */
export function portChanges(old: readonly Published[], now: readonly Published[]): Message[] {
  const table = new TableMessages(TABLE);
  return [...table.deleteElements(PUBLISHED, old.map((p) => ({ key: publishedElement(p).key }))), ...table.addElements(PUBLISHED, now.map(publishedElement))];
}

/** Whether `ports` are what is published already, in whatever order. */
export function samePorts(published: readonly PortMapping[], ports: readonly PortMapping[]): boolean {
  const keys = (of: readonly PortMapping[]) => of.map((port) => `${portName(port)} ${port.guestPort}`).sort();
  return Bun.deepEquals(keys(published), keys(ports));
}

/** Numbers in range, and no host port twice. */
export function checkPorts(ports: readonly PortMapping[]): Res<void> {
  const seen = new Set<string>();
  for (const port of ports) {
    for (const number of [port.hostPort, port.guestPort]) {
      if (!Number.isInteger(number) || number < 1 || number > 0xffff) return fail("request.bad", `Cannot publish port ${number}: ports are 1 to 65535`);
    }
    if (seen.has(portName(port))) return fail("request.bad", `Cannot publish port ${portName(port)} twice`);
    seen.add(portName(port));
  }
  return ok();
}
