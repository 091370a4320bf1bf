// What the monitor asks of the guest's agent over the control port, and its answers (docs/architecture.md, frames 3 to 7).
import { EPOLLIN, TimerFd, type Epoll } from "../ffi/epoll.ts";
import { randomHex } from "../ffi/random.ts";
import { encodePairs, pairValue, type Pair } from "../pairs.ts";

/** Hears null and the pairs of the acknowledgement, or why there was none; once. */
type Answered = (error: string | null, answer: readonly Pair[]) => void;
interface Pending { readonly what: string; readonly timer: TimerFd; readonly done: Answered }

/** One request after another; an answer to an older one, or of a guest that was saved before, is nobody's. */
export class Agent {
  /** Ids of another monitor's requests must not match: a guest may answer those after it was restored. */
  private readonly prefix = randomHex(6);
  private count = 0;
  private readonly pending = new Map<string, Pending>();

  /** `send` puts a frame on the control port; false where the guest has left too many unread. */
  constructor(private readonly epoll: Epoll, private readonly send: (type: number, payload: Uint8Array) => boolean) {}

  /** Returns a function that gives up waiting. */
  request(type: number, what: string, pairs: readonly Pair[], timeoutMs: number, done: Answered): () => void {
    const id = `${this.prefix}-${++this.count}`;
    if (!this.send(type, encodePairs([["id", id], ...pairs]))) {
      done(`the guest does not read what it is told (${what})`, []);
      return () => {};
    }
    const timer = new TimerFd();
    this.epoll.add(timer.fd, EPOLLIN, () => this.settle(id, `the guest did not acknowledge within ${timeoutMs} ms that it should ${what}`));
    timer.arm(Math.max(1, timeoutMs));
    this.pending.set(id, { what, timer, done });
    return () => this.settle(id, `the request to ${what} was called off`);
  }

  /** The pairs of an ACK. */
  answered(pairs: readonly Pair[]): void {
    const id = pairValue(pairs, "id") ?? "", pending = this.pending.get(id);
    if (pending === undefined) return;
    const refusal = pairValue(pairs, "error") ?? "without a reason";
    this.settle(id, pairValue(pairs, "ok") === "1" ? null : `the guest refused to ${pending.what}: ${refusal.slice(0, MAX_REASON)}`, pairs);
  }

  private settle(id: string, error: string | null, answer: readonly Pair[] = []): void {
    const pending = this.pending.get(id);
    if (pending === undefined) return;
    this.pending.delete(id);
    this.epoll.remove(pending.timer.fd);
    pending.timer.close();
    pending.done(error, answer);
  }
}

/** A guest's words in an answer of ours. */
const MAX_REASON = 500;
