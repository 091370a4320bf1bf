// Listens at the TAP of a guest that sleeps. The daemon holds the TAP for the instance's whole life and lends it to the
// monitor; while there is none, nobody reads: what waits in the queue is the knock, and stays for the monitor to read.
import { EPOLLIN } from "../../ffi/epoll.ts";
import { isReadable, tryRead } from "../../ffi/fd.ts";
import { attachFilter, detachFilter } from "../../ffi/tun.ts";
import type { Poller, Watch } from "../poller.ts";
import { knockFilter } from "./knock.ts";

export interface Visit {
  /** Once: a frame that passed the filter waits (or one that was there before the filter). */
  onKnock(): void;
  /** Once, instead: the link was removed from the host. */
  onGone(): void;
}

/** One for each TAP; the descriptor stays its caller's, who calls stop() before closing it or lending it out. */
export class Doorbell {
  /** What listen() has the kernel let through; for the monitor too, which stops reading first. */
  readonly filter: Uint8Array;
  private watch: Watch | null = null;

  constructor(private readonly poller: Pick<Poller, "watch">, private readonly fd: number, ip: string) { this.filter = knockFilter(ip); }

  /**
   * Has the kernel drop what is no knock, and calls back for the first that is, or at once for a frame that waits already.
   * After that it is silent until it is called anew, which it may be while the frame still waits.
   */
  listen(visit: Visit): void {
    this.unwatch();
    attachFilter(this.fd, this.filter);
    this.watch = this.poller.watch(this.fd, EPOLLIN, (events) => {
      this.unwatch(); // the queue stays full until the monitor reads it: watching on would only spin
      if ((events & EPOLLIN) !== 0) visit.onKnock();
      else visit.onGone();
    });
  }

  /** Whether a frame waits now: no need to wait for the poller, nor for its thread. */
  queued(): boolean {
    return isReadable(this.fd);
  }

  /**
   * Throws away what waits. For a wake that failed: listening on would report the same frame for ever, while whoever
   * sent it sends again (TCP after a second, then two, then four), and that is the next attempt.
   */
  discard(): void {
    const frame = new Uint8Array(MAX_FRAME);
    while (tryRead(this.fd, frame, frame.length) > 0);
  }

  /** Hears nothing more, and all frames come through again. Idempotent. */
  stop(): void {
    this.unwatch();
    detachFilter(this.fd);
  }

  private unwatch(): void {
    this.watch?.close();
    this.watch = null;
  }
}

/** A segment that is not cut yet, and its headers. A shorter buffer would do too: the rest of a frame is lost with it. */
const MAX_FRAME = 64 * 1024 + 64;
