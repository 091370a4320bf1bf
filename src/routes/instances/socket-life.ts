// What every WebSocket here has while it is open: pings, one limit of time, the daemon's end, and an end that loses nothing.
import type { ServerWebSocket } from "bun";
import type { Socket } from "../live.ts";

/** Until its first frame a socket holds a connection and nothing else; not for longer than this. */
export const FIRST_FRAME_MS = 10_000;
/** A ping finds out that the other side is gone even while reading is paused. */
const PING_MS = 15_000;
/** How long one that is to be closed may take nothing of what it was sent. */
const STUCK_MS = 30_000;
export const WS_NORMAL = 1000;
export const WS_GOING_AWAY = 1001;
export const WS_POLICY = 1008;
export const WS_INTERNAL = 1011;

export class SocketLife {
  private readonly pings: ReturnType<typeof setInterval>;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private last: { readonly code: number; readonly reason: string } | null = null;

  /** `onClosing`: the daemon ends. */
  constructor(private readonly ws: ServerWebSocket<Socket>, private readonly closing: AbortSignal, private readonly onClosing: () => void) {
    closing.addEventListener("abort", onClosing, { once: true });
    this.pings = setInterval(() => ws.ping(), PING_MS);
  }

  /** Replaces the limit before it. */
  limit(ms: number, over: () => void): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(over, ms);
  }

  lift(): void {
    clearTimeout(this.timer);
  }

  /** Closes it after all that was sent: the runtime drops what the kernel has not taken by then. `reason` has at most 123 bytes. */
  finish(code: number, reason: string): void {
    this.end();
    this.last = { code, reason };
    this.drained();
  }

  /** For the socket's drain(). */
  drained(): void {
    if (this.last === null) return;
    if (this.ws.getBufferedAmount() > 0) return this.limit(STUCK_MS, () => this.ws.terminate());
    const { code, reason } = this.last;
    this.end();
    this.ws.close(code, reason);
  }

  /** Of the socket, or of what it was open for. */
  end(): void {
    this.last = null;
    this.lift();
    clearInterval(this.pings);
    this.closing.removeEventListener("abort", this.onClosing);
  }
}
