// epoll(7), eventfd(2), timerfd(2): the pieces of a main loop that never enters Bun's own.
import { must, syscall } from "./syscall.ts";
import { SYS } from "./abi/syscalls.ts";
import { E } from "./abi/errno.ts";
import { closeFd, O_CLOEXEC, O_NONBLOCK } from "./fd.ts";

export const EPOLLIN = 1, EPOLLOUT = 4, EPOLLERR = 8, EPOLLHUP = 16, EPOLLRDHUP = 0x2000, EPOLLET = 0x80000000;
const EPOLL_CTL_ADD = 1, EPOLL_CTL_DEL = 2, EPOLL_CTL_MOD = 3;
const EVENT_SIZE = 12; // struct epoll_event is packed on x86-64: u32 events, u64 data
const MAX_EVENTS = 64;

export type Handler = (events: number) => void;

/** `nth`: of all that were ever added, modulo 2^32. */
interface Entry { readonly handler: Handler; readonly nth: number }

/** One epoll instance and the handlers of its descriptors. Level-triggered unless EPOLLET is given. */
export class Epoll {
  readonly fd = must("Cannot create an epoll instance", SYS.epoll_create1, O_CLOEXEC);
  private readonly entries = new Map<number, Entry>();
  private added = 0;
  private readonly event = new DataView(new ArrayBuffer(EVENT_SIZE));
  private readonly events = new DataView(new ArrayBuffer(EVENT_SIZE * MAX_EVENTS));

  add(fd: number, events: number, handler: Handler): void {
    const nth = this.added;
    this.control(EPOLL_CTL_ADD, fd, events, nth);
    this.added = (nth + 1) >>> 0;
    this.entries.set(fd, { handler, nth });
  }

  modify(fd: number, events: number): void {
    this.control(EPOLL_CTL_MOD, fd, events, this.entries.get(fd)?.nth ?? 0);
  }

  /** Call before the descriptor is closed; unknown descriptors are fine. */
  remove(fd: number): void {
    if (this.entries.delete(fd)) syscall(SYS.epoll_ctl, this.fd, EPOLL_CTL_DEL, fd, this.event);
  }

  /** Waits at most `timeoutMs` (-1: for ever) and runs the handlers that are ready; returns how many. */
  poll(timeoutMs = -1): number {
    const n = syscall(SYS.epoll_wait, this.fd, this.events, MAX_EVENTS, timeoutMs >>> 0);
    if (n < 0 && n !== -E.EINTR) must("Cannot wait for events", SYS.epoll_wait, this.fd, this.events, MAX_EVENTS, 0);
    for (let i = 0; i < n; i++) {
      const at = i * EVENT_SIZE;
      const entry = this.entries.get(this.events.getUint32(at + 4, true));
      // A handler that ran before may have removed this one, and its number may be another's since.
      if (entry !== undefined && entry.nth === this.events.getUint32(at + 8, true)) entry.handler(this.events.getUint32(at, true));
    }
    return Math.max(n, 0);
  }

  close(): void {
    closeFd(this.fd);
    this.entries.clear();
  }

  private control(op: number, fd: number, events: number, nth: number): void {
    this.event.setUint32(0, events >>> 0, true);
    this.event.setUint32(4, fd, true);
    this.event.setUint32(8, nth, true);
    must("Cannot change an epoll instance", SYS.epoll_ctl, this.fd, op, fd, this.event);
  }
}

const one = new BigUint64Array([1n]);
const sink = new BigUint64Array(1);

/** An eventfd counter: owns its descriptor. */
export class EventFd {
  readonly fd: number;
  constructor(flags = O_NONBLOCK) {
    this.fd = must("Cannot create an eventfd", SYS.eventfd2, 0, flags | O_CLOEXEC);
  }
  signal(): void { signalEventFd(this.fd); }
  /** Clears the counter; true if it was set. */
  drain(): boolean { return drainEventFd(this.fd); }
  close(): void { closeFd(this.fd); }
}

export const signalEventFd = (fd: number): void => void syscall(SYS.write, fd, one, 8);
export const drainEventFd = (fd: number): boolean => syscall(SYS.read, fd, sink, 8) === 8;

const CLOCK_MONOTONIC = 1;

/** A one-shot timer on the monotonic clock. */
export class TimerFd {
  readonly fd = must("Cannot create a timer", SYS.timerfd_create, CLOCK_MONOTONIC, O_NONBLOCK | O_CLOEXEC);
  private readonly spec = new DataView(new ArrayBuffer(32)); // struct itimerspec

  /** Fires once after `ms` milliseconds; 0 disarms. */
  arm(ms: number): void {
    const ns = Math.round(ms * 1e6);
    this.spec.setBigInt64(16, BigInt(Math.floor(ns / 1e9)), true);
    this.spec.setBigInt64(24, BigInt(ns % 1e9), true);
    must("Cannot arm a timer", SYS.timerfd_settime, this.fd, 0, this.spec, 0);
  }
  drain(): void { syscall(SYS.read, this.fd, sink, 8); }
  close(): void { closeFd(this.fd); }
}
