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

/** `failed` hears what handlers throw; they are called again. */
export const openPoller = (failed: Unheard = rethrow): Poller => new WorkerPoller(failed);

/**
 * Level-triggered without storms: each registration is one-shot and armed again after its handler, so a descriptor
 * that stays ready costs one message at a time. Tokens are never used twice, so a message about a descriptor that was
 * closed meanwhile, and whose number somebody else has now, finds nobody.
 */
class WorkerPoller implements Poller {
  private readonly epoll = must("Cannot create an epoll instance", SYS.epoll_create1, O_CLOEXEC);
  private readonly stop = new EventFd();
  private readonly event = new DataView(new ArrayBuffer(EVENT_SIZE));
  private readonly entries = new Map<number, Entry>();
  private tokens = STOP_TOKEN;
  /** Resolves once the Worker has. */
  private readonly ended: Promise<void>;
  /** Once: the numbers of its descriptors may be somebody else's afterwards. */
  private closed: Promise<void> | null = null;

  constructor(private readonly failed: Unheard) {
    this.control(EPOLL_CTL_ADD, this.stop.fd, EPOLLIN, STOP_TOKEN);
    const worker = new Worker(workerUrl("poller"));
    this.ended = new Promise((resolve) => worker.addEventListener("close", () => resolve()));
    worker.addEventListener("message", ({ data }: MessageEvent<ReadyMessage>) => this.heed(data));
    worker.addEventListener("error", (error) => {
      // Without it no machine can be watched: the daemon must not go on as if nothing had happened.
      throw new Error(`The poller's Worker failed: ${error.message}`);
    });
    worker.postMessage(this.epoll);
    worker.unref();
  }

  watch(fd: number, events: number, handler: ReadyHandler): Watch {
    const token = ++this.tokens, entry: Entry = { fd, handler, events };
    if (this.control(EPOLL_CTL_ADD, fd, (events | EPOLLONESHOT) >>> 0, token) < 0) must(`Cannot watch descriptor ${fd}`, SYS.epoll_ctl, this.epoll, EPOLL_CTL_ADD, fd, this.event);
    this.entries.set(token, entry);
    return {
      modify: (next) => {
        if (this.entries.get(token) !== entry || entry.events === next) return;
        entry.events = next;
        this.arm(token, entry);
      },
      close: () => { if (this.entries.delete(token)) this.forget(fd); },
    };
  }

  close(): Promise<void> { return this.closed ??= this.end(); }

  private async end(): Promise<void> {
    this.entries.clear();
    this.stop.signal();
    await this.ended;
    closeFd(this.epoll);
    this.stop.close();
  }

  private control(op: number, fd: number, events: number, token: number): number {
    this.event.setUint32(0, events, true);
    this.event.setUint32(4, token, true);
    return syscall(SYS.epoll_ctl, this.epoll, op, fd, this.event);
  }

  private arm(token: number, { fd, events }: Entry): void {
    if (this.control(EPOLL_CTL_MOD, fd, (events | EPOLLONESHOT) >>> 0, token) < 0) must(`Cannot watch descriptor ${fd}`, SYS.epoll_ctl, this.epoll, EPOLL_CTL_MOD, fd, this.event);
  }

  private forget(fd: number): void {
    const result = this.control(EPOLL_CTL_DEL, fd, 0, 0);
    if (result < 0 && result !== -E.ENOENT && result !== -E.EBADF) must(`Cannot stop watching descriptor ${fd}`, SYS.epoll_ctl, this.epoll, EPOLL_CTL_DEL, fd, this.event);
  }

  private heed(ready: ReadyMessage): void {
    for (let i = 0; i < ready.length; i += 2) {
      const token = ready[i]!, entry = this.entries.get(token);
      if (entry !== undefined) this.hear(token, entry, ready[i + 1]!);
    }
  }

  private hear(token: number, entry: Entry, ready: number): void {
    try {
      entry.handler(ready);
      if (this.entries.get(token) === entry) this.arm(token, entry);
    } catch (error) {
      setTimeout(() => this.rearm(token, entry), AGAIN_MS).unref();
      this.failed(`heed descriptor ${entry.fd}`, error);
    }
  }

  private rearm(token: number, entry: Entry): void {
    try {
      if (this.entries.get(token) === entry) this.arm(token, entry);
    } catch (error) {
      this.failed("go on with a descriptor", error);
    }
  }
}
