// What routes need of the server that carries them: no idle limit for slow answers, WebSocket upgrades, and its end.
// Routes are built before the server listens, and tests drive them without one.
import type { Server, ServerWebSocket } from "bun";
import { DormouseError } from "../errors.ts";
import { bad } from "./errors.ts";

/** Seconds that a connection may be silent while a request or an ordinary answer is under way. */
export const IDLE_S = 30;

/** One WebSocket's behaviour; its state lives in the object. */
export interface Socket {
  open(ws: ServerWebSocket<Socket>): void;
  message(ws: ServerWebSocket<Socket>, data: string | Buffer): void;
  drain(ws: ServerWebSocket<Socket>): void;
  close(ws: ServerWebSocket<Socket>): void;
}

/**
 * Ends a body in the middle, so that the client sees a connection reset and not a clean end. Without a reason: the server
 * would print it raw; who calls logs it.
 */
export const reset = (controller: ReadableStreamDefaultController<Uint8Array>): void => controller.error();

export class Live {
  readonly #closing = new AbortController();
  /** Kept, and not answered yet. */
  readonly #slow = new WeakSet<Request>();
  server: Server<Socket> | null = null;

  /** Fires when the daemon stops: streams end by resetting, so that no client takes it for a clean end. */
  get closing(): AbortSignal {
    return this.#closing.signal;
  }

  /** Fires when the client hangs up or the daemon stops. */
  ended(request: Request): AbortSignal {
    return AbortSignal.any([request.signal, this.closing]);
  }

  /** Lifts the idle limit from `request`, which is answered slowly, until it is. */
  keep(request: Request): void {
    this.#slow.add(request);
    this.server?.timeout(request, 0);
  }

  /** Lifts the idle limit from `request`, whose answer is a stream, until `answered`. */
  stream(request: Request): void {
    this.server?.timeout(request, 0);
  }

  /** The limit is the connection's, and would be lifted from all that comes over it later. */
  answered(request: Request): void {
    this.server?.timeout(request, IDLE_S);
  }

  /** answered(), of one that was kept. */
  settle(request: Request): void {
    if (this.#slow.delete(request)) this.answered(request);
  }

  /** Refuses a request that is no WebSocket handshake. */
  requireUpgrade(request: Request): void {
    if (request.headers.get("upgrade")?.toLowerCase() === "websocket") return;
    throw bad(`Cannot answer ${new URL(request.url).pathname} over plain HTTP: open it as a WebSocket.`);
  }

  /** Turns the request into a WebSocket that speaks `protocol` (null: none named) and is served by `socket`. */
  upgrade(request: Request, socket: Socket, protocol: string | null): Response {
    const headers = protocol === null ? undefined : { "sec-websocket-protocol": protocol };
    // Bun has answered then; this response is only for the log.
    if (this.server?.upgrade(request, { data: socket, headers }) === true) return new Response(null, { status: 101 });
    throw new DormouseError("request.bad", "Cannot open the WebSocket: its handshake is not valid.");
  }

  close(): void {
    this.#closing.abort(new DormouseError("internal", "The daemon is stopping."));
  }
}

/** The first of `offered` that the client named in its handshake. */
export function chooseProtocol(request: Request, offered: readonly string[]): string | null {
  const named = (request.headers.get("sec-websocket-protocol") ?? "").split(",").map((one) => one.trim());
  return offered.find((one) => named.includes(one)) ?? null;
}
