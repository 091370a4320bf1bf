// Readiness of descriptors that Bun's own loop can't poll (packet sockets, pidfds, TAPs): a Worker sits in epoll_wait
// and posts what is ready to the daemon's main thread. epoll_ctl(2) works from any thread, so registering needs no message.
import { must, syscall } from "../ffi/syscall.ts";
import { SYS } from "../ffi/abi/syscalls.ts";
import { E } from "../ffi/abi/errno.ts";
import { EPOLLIN, EventFd } from "../ffi/epoll.ts";
import { closeFd, O_CLOEXEC } from "../ffi/fd.ts";
import { workerUrl } from "../workers.ts";
import { rethrow, type Unheard } from "./background.ts";

const EPOLL_CTL_ADD = 1, EPOLL_CTL_DEL = 2, EPOLL_CTL_MOD = 3, EPOLLONESHOT = 1 << 30;
/** Before a descriptor is heard again whose handler threw: what is wrong mostly is so for longer than a turn. */
const AGAIN_MS = 1_000;
const EVENT_SIZE = 12; // struct epoll_event is packed on x86-64: u32 events, u64 data

/** What the Worker posts: pairs of token and events. */
export type ReadyMessage = Uint32Array;
/** Token of the eventfd that ends the Worker. */
export const STOP_TOKEN = 0;

/** `events` as in epoll_ctl(2). Runs on the main thread; the next one comes only after it has returned. */
export type ReadyHandler = (events: number) => void;

/** One watched descriptor. */
export interface Watch {
  /** Changes what is waited for (EPOLLIN, EPOLLOUT; errors and hang-ups always count). */
  modify(events: number): void;
  /** Ends it: the handler does not run again. Call before the descriptor is closed. Idempotent. */
  close(): void;
}

export interface Poller {
  watch(fd: number, events: number, handler: ReadyHandler): Watch;
  /** Resolves once its Worker has ended. Idempotent. */
  close(): Promise<void>;
}

interface Entry { readonly fd: number; readonly handler: ReadyHandler; events: number }

/**
 * Level-triggered without storms: each registration is one-shot and armed again after its handler, so a descriptor
 * that stays ready costs one message at a time. Tokens are never used twice, so a message about a descriptor that was
 * closed meanwhile, and whose number somebody else has now, finds nobody. `failed` hears what handlers throw; they are called again.
 */
export function openPoller(failed: Unheard = rethrow): Poller {
  const epoll = must("Cannot create an epoll instance", SYS.epoll_create1, O_CLOEXEC);
  const stop = new EventFd();
  const event = new DataView(new ArrayBuffer(EVENT_SIZE));
  const entries = new Map<number, Entry>();
  let tokens = STOP_TOKEN;

  const control = (op: number, fd: number, events: number, token: number): number => {
    event.setUint32(0, events, true);
    event.setUint32(4, token, true);
    return syscall(SYS.epoll_ctl, epoll, op, fd, event);
  };
  const arm = (token: number, entry: Entry): void => {
    const result = control(EPOLL_CTL_MOD, entry.fd, (entry.events | EPOLLONESHOT) >>> 0, token);
    if (result < 0) must(`Cannot watch descriptor ${entry.fd}`, SYS.epoll_ctl, epoll, EPOLL_CTL_MOD, entry.fd, event);
  };

  const hear = (token: number, entry: Entry, ready: number): void => {
    try {
      entry.handler(ready);
      if (entries.get(token) === entry) arm(token, entry);
    } catch (error) {
      setTimeout(() => rearm(token, entry), AGAIN_MS).unref();
      failed(`heed descriptor ${entry.fd}`, error);
    }
  };
  const rearm = (token: number, entry: Entry): void => {
    try {
      if (entries.get(token) === entry) arm(token, entry);
    } catch (error) {
      failed("go on with a descriptor", error);
    }
  };

  control(EPOLL_CTL_ADD, stop.fd, EPOLLIN, STOP_TOKEN);
  const worker = new Worker(workerUrl("poller"));
  const ended = new Promise<void>((resolve) => worker.addEventListener("close", () => resolve()));
  worker.addEventListener("message", ({ data }: MessageEvent<ReadyMessage>) => {
    for (let i = 0; i < data.length; i += 2) {
      const token = data[i]!;
      const entry = entries.get(token);
      if (entry !== undefined) hear(token, entry, data[i + 1]!);
    }
  });
  worker.addEventListener("error", (error) => {
    // Without it no machine can be watched: the daemon must not go on as if nothing had happened.
    throw new Error(`The poller's Worker failed: ${error.message}`);
  });
  worker.postMessage(epoll);
  worker.unref();

  /** Once: the numbers of its descriptors may be somebody else's afterwards. */
  let closed: Promise<void> | null = null;
  const close = async (): Promise<void> => {
    entries.clear();
    stop.signal();
    await ended;
    closeFd(epoll);
    stop.close();
  };

  return {
    watch(fd, events, handler) {
      const token = ++tokens;
      const entry: Entry = { fd, handler, events };
      if (control(EPOLL_CTL_ADD, fd, (events | EPOLLONESHOT) >>> 0, token) < 0) must(`Cannot watch descriptor ${fd}`, SYS.epoll_ctl, epoll, EPOLL_CTL_ADD, fd, event);
      entries.set(token, entry);
      return {
        modify(next) {
          if (entries.get(token) !== entry || entry.events === next) return;
          entry.events = next;
          arm(token, entry);
        },
        close() {
          if (!entries.delete(token)) return;
          const result = control(EPOLL_CTL_DEL, fd, 0, 0);
          if (result < 0 && result !== -E.ENOENT && result !== -E.EBADF) must(`Cannot stop watching descriptor ${fd}`, SYS.epoll_ctl, epoll, EPOLL_CTL_DEL, fd, event);
        },
      };
    },
    close: () => (closed ??= close()),
  };
}
