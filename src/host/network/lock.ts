// One daemon a network namespace: two with different records would take each other's links for leftovers.
// The lock is an abstract socket's name: the kernel keeps those apart by network namespace, and frees them with their process.
import { E } from "../../ffi/abi/errno.ts";
import { SYS } from "../../ffi/abi/syscalls.ts";
import { closeFd } from "../../ffi/fd.ts";
import { must, SysError } from "../../ffi/syscall.ts";
import { ok } from "neverthrow";
import { fail, type Res } from "../../errors.ts";

const AF_UNIX = 1, SOCK_DGRAM = 2, SOCK_CLOEXEC = 0o2000000; // bits/socket.h
const NAME = "\0dormouse-network";

/** Owns the name until close(). */
export class NetworkLock {
  private fd = -1;

  /** Idempotent for its owner; refused while another process (or service) has it. */
  take(): Res<void> {
    if (this.fd >= 0) return ok();
    const fd = must("Cannot open a socket", SYS.socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const address = Buffer.concat([new Uint8Array([AF_UNIX, 0]), Buffer.from(NAME)]);
    try {
      must("Cannot bind", SYS.bind, fd, address, address.length);
    } catch (error) {
      closeFd(fd);
      if (error instanceof SysError && error.errno === E.EADDRINUSE)
        return fail("host.network", "Cannot manage this host's network: another `dormouse serve` does so already; stop it first", { cause: error });
      throw error;
    }
    this.fd = fd;
    return ok();
  }

  close(): void {
    if (this.fd >= 0) closeFd(this.fd);
    this.fd = -1;
  }
}
