// A rate limit in bytes a second that lets a request through as long as there is any credit, and goes into debt for it:
// so that one request larger than the bucket still passes.
import { EPOLLIN, TimerFd, type Epoll } from "../../ffi/epoll.ts";

export class TokenBucket {
  private readonly timer = new TimerFd();
  private credit: number;
  private last: number;

  /** `bytesPerSecond` over time, `burst` bytes at once; `wake` runs when a refused caller may ask again. `now` in nanoseconds. */
  constructor(private readonly bytesPerSecond: number, private readonly burst: number, private readonly epoll: Epoll, wake: () => void, private readonly now: () => number = Bun.nanoseconds) {
    this.credit = burst;
    this.last = now();
    epoll.add(this.timer.fd, EPOLLIN, () => {
      this.timer.drain();
      wake();
    });
  }

  /** True if a request may go now; else `wake` comes. */
  ready(): boolean {
    const now = this.now();
    this.credit = Math.min(this.burst, this.credit + ((now - this.last) / 1e9) * this.bytesPerSecond);
    this.last = now;
    if (this.credit > 0) return true;
    this.timer.arm(Math.max(1, ((1 - this.credit) / this.bytesPerSecond) * 1000));
    return false;
  }

  take(bytes: number): void {
    this.credit -= bytes;
  }

  close(): void {
    this.epoll.remove(this.timer.fd);
    this.timer.close();
  }
}
