// The poller's Worker: waits on behalf of the main thread, and does nothing else (see poller.ts).
import { E } from "../ffi/abi/errno.ts";
import { SYS } from "../ffi/abi/syscalls.ts";
import { syscall, SysError } from "../ffi/syscall.ts";
import { STOP_TOKEN } from "./poller.ts";

declare const self: Worker;

const EVENT_SIZE = 12;
const MAX_EVENTS = 64;
const FOREVER = -1 >>> 0;

self.onmessage = ({ data: epoll }: MessageEvent<number>) => {
  const events = new DataView(new ArrayBuffer(EVENT_SIZE * MAX_EVENTS));
  for (;;) {
    const n = syscall(SYS.epoll_wait, epoll, events, MAX_EVENTS, FOREVER);
    if (n === -E.EINTR) continue;
    if (n < 0) throw new SysError("Cannot wait for events", -n);
    const ready = new Uint32Array(n * 2);
    let stop = false;
    for (let i = 0; i < n; i++) {
      ready[2 * i] = events.getUint32(i * EVENT_SIZE + 4, true);
      ready[2 * i + 1] = events.getUint32(i * EVENT_SIZE, true);
      if (ready[2 * i] === STOP_TOKEN) stop = true;
    }
    if (stop) return process.exit(0); // in a Worker this ends the Worker alone
    self.postMessage(ready);
  }
};
