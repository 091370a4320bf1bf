// A published port is rewritten by rules and needs no socket; but without one, another program could bind it and
// wonder why nobody comes, or be cut off by us. So the daemon holds a socket on each, as a sign to all others.
import { E } from "../../ffi/abi/errno.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { closeFd } from "../../ffi/fd.ts";
import { must, SysError } from "../../ffi/syscall.ts";
import { ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";
import type { PortMapping } from "./service.ts";

// bits/socket.h, asm-generic/socket.h
const AF_INET = 2, SOCK_STREAM = 1, SOCK_DGRAM = 2, SOCK_CLOEXEC = 0o2000000, SOL_SOCKET = 1, SO_REUSEADDR = 2;

type Port = Pick<PortMapping, "protocol" | "hostPort">;
export const portName = (port: Port): string => `${port.hostPort}/${port.protocol}`;

/** Owns one socket for each published port. */
export class Reservations {
  private readonly held = new Map<string, number>();

  /** Idempotent; `port.taken` where another program has the port on any of the host's addresses. */
  hold(port: Port): Res<void> {
    if (this.held.has(portName(port))) return ok();
    try {
      this.held.set(portName(port), bindPort(port));
      return ok();
    } catch (error) {
      if (error instanceof SysError && error.errno === E.EADDRINUSE)
        return fail("port.taken", `Cannot publish port ${portName(port)}: another program on this host uses it, or an ingress does; end that, or choose another port`, { cause: error, details: { port: port.hostPort, protocol: port.protocol } });
      return fail("host.network", `Cannot reserve port ${portName(port)}: ${String(error)}`, { cause: error });
    }
  }

  /** hold() for those whose rules are in place already: where another program has come first it is only said. */
  keep(ports: readonly (Port & { readonly instanceId: string })[], log: (line: string) => void): void {
    for (const port of ports) {
      const held = this.hold(port);
      if (held.isErr()) log(`${held.error.message}; it still leads to instance ${port.instanceId}`);
    }
  }

  holds(port: Port): boolean {
    return this.held.has(portName(port));
  }

  drop(port: Port): void {
    const fd = this.held.get(portName(port));
    if (fd !== undefined) closeFd(fd);
    this.held.delete(portName(port));
  }

  close(): void {
    for (const fd of this.held.values()) closeFd(fd);
    this.held.clear();
  }
}

function bindPort({ protocol, hostPort }: Port): number {
  const tcp = protocol === "tcp";
  const fd = must("Cannot open a socket", SYS.socket, AF_INET, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0);
  try {
    // Old connections of a server that ended (TIME_WAIT) must not count as a use of the port.
    if (tcp) must("Cannot set up a socket", SYS.setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, new Int32Array([1]), 4);
    const any = new DataView(new ArrayBuffer(16)); // struct sockaddr_in: u16 family, be16 port, be32 address 0.0.0.0
    any.setUint16(0, AF_INET, true);
    any.setUint16(2, hostPort);
    must("Cannot bind", SYS.bind, fd, any, any.byteLength);
    // Only a listening socket keeps others with SO_REUSEADDR away. No connection comes: all of them are rewritten before.
    if (tcp) must("Cannot listen", SYS.listen, fd, 0);
    return fd;
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}
