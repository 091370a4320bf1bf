// `dormouse vmm`: one process, one virtual machine. The main thread never returns to Bun's event loop: promises, timers,
// Worker messages and signal handlers would not run anyway while it sits in epoll_wait.
import { Epoll } from "../ffi/epoll.ts";
import { syscall } from "../ffi/syscall.ts";
import { SYS } from "../ffi/abi/syscalls.ts";
import { CONTROL_FD } from "./protocol.ts";
import { Session } from "./session.ts";

/** Runs until its guest ends; never returns. Ends with status 0 after a guest, 1 where the monitor itself failed. */
export function vmm(_args: readonly string[]): never {
  const epoll = new Epoll();
  let session: Session | null = null;
  try {
    session = new Session(epoll, CONTROL_FD);
    while (!session.done) epoll.poll();
    exit(0);
  } catch (error) {
    const message = `Cannot go on with this virtual machine: ${Bun.inspect(error)}`;
    console.error(message);
    // Standard error of a monitor out of the pool is not its instance's log.
    session?.log(message);
    exit(1);
  }
}

/** exit_group at once: vCPUs may sit in KVM_RUN, and exit handlers have nothing to do here. */
function exit(status: number): never {
  for (;;) syscall(SYS.exit_group, status);
}
