// What every WebSocket here has while it is open: pings, one limit of time, and the daemon's end.
import type { ServerWebSocket } from "bun";
import type { Socket } from "../live.ts";

/** Until its first frame a socket holds a connection and nothing else; not for longer than this. */
export const FIRST_FRAME_MS = 10_000;
/** A ping finds out that the other side is gone even while reading is paused. */
const PING_MS = 15_000;
export const WS_NORMAL = 1000;
export const WS_GOING_AWAY = 1001;
export const WS_POLICY = 1008;
export const WS_INTERNAL = 1011;

export class SocketLife {
  private readonly pings: ReturnType<typeof setInterval>;
  private timer: ReturnType<typeof setTimeout> | undefined;

  /** `onClosing`: the daemon ends. */
  constructor(ws: ServerWebSocket<Socket>, private readonly closing: AbortSignal, private readonly onClosing: () => void) {
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

  end(): void {
    this.lift();
    clearInterval(this.pings);
    this.closing.removeEventListener("abort", this.onClosing);
  }
}
