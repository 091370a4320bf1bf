// Carries the app over TCP: Bun.serve with the limits that a framework's own listener leaves open (all interfaces, shared
// ports, large bodies), and the WebSockets that routes open.
import type { Server, ServerWebSocket } from "bun";
import { err, ok } from "neverthrow";
import { describeError, type Logger } from "../log.ts";
import { DormouseError, type Res, wrap } from "../errors.ts";
import type { Address } from "./guard.ts";
import { IDLE_S, type Live, type Socket } from "./live.ts";

/** Of a WebSocket, which has limits of its own. */
const SWITCHING_PROTOCOLS = 101;
/** Largest WebSocket frame taken, and how much of a lagging client's output is buffered at most. */
const MAX_FRAME = 16 * 1024 * 1024;
/** How long a stop waits for answers under way before it cuts them. */
const DRAIN_MS = 15_000;

export interface Listening {
  readonly url: string;
  readonly port: number;
  /** Takes no more connections, resets streams, lets other answers finish, and ends. */
  stop(): Promise<void>;
}

/** Whether `listen` will have its port: asked before anything of the host is changed. */
export function checkPort(address: Address): Res<void> {
  try {
    Bun.listen({ hostname: address.hostname, port: address.port, socket: { data() {} } }).stop(true);
    return ok();
  } catch (cause) {
    return err(listenError(address, cause));
  }
}

function listenError({ hostname, port }: Address, cause: unknown): DormouseError {
  const what = `Cannot listen on ${hostname}:${port}`;
  if ((cause as { code?: string }).code !== "EADDRINUSE") return wrap("host.network", what, cause);
  return new DormouseError("port.taken", `${what}: another program does, or another daemon; end it, or give another address with --listen.`, { cause });
}

export function listen(app: { fetch(request: Request): Response | Promise<Response> }, address: Address, live: Live, log: Logger): Res<Listening> {
  let server: Server<Socket>;
  try {
    server = Bun.serve<Socket>({
      hostname: address.hostname,
      port: address.port,
      reusePort: false,
      idleTimeout: IDLE_S,
      // The server's own limit would hold for archives too. Routes that take JSON refuse what is too large, and end the connection with that.
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
      development: false,
      fetch: (request) => answer(app, request, live, log),
      error: (error) => {
        log.error("server.failed", { error: describeError(error, true) });
        return Response.json({ code: "internal_error", message: "Cannot answer this request: an internal error, which the daemon's log has in full." }, { status: 500, headers: { "x-should-retry": "false" } });
      },
      websocket: { ...SOCKETS, ...socketHandlers(log) },
    });
  } catch (cause) {
    return err(listenError(address, cause));
  }
  live.server = server;
  return ok({ url: server.url.origin, port: server.port ?? address.port, stop: () => stop(server, live) });
}

async function answer(app: { fetch(request: Request): Response | Promise<Response> }, request: Request, live: Live, log: Logger): Promise<Response> {
  const started = performance.now();
  const response = await app.fetch(request);
  if (response.status !== SWITCHING_PROTOCOLS) live.settle(request);
  const note = request.method === "GET" ? log.debug : log.info;
  note("request", { method: request.method, path: pathOf(request.url), status: response.status, ms: Math.round((performance.now() - started) * 10) / 10 });
  return response;
}

/** The path of an absolute URL, without the cost of parsing it. */
function pathOf(url: string): string {
  const start = url.indexOf("/", url.indexOf("//") + 2);
  const end = url.indexOf("?", start);
  return end < 0 ? url.slice(start) : url.slice(start, end);
}

const SOCKETS = {
  // Each socket pings by itself: a paused one would never read the pong that this limit waits for.
  idleTimeout: 0,
  maxPayloadLength: MAX_FRAME,
  backpressureLimit: MAX_FRAME,
  perMessageDeflate: false,
};

/** A bug in a handler ends its connection, not the daemon. */
function socketHandlers(log: Logger) {
  const guarded = (ws: ServerWebSocket<Socket>, handle: (socket: Socket) => void): void => {
    try {
      handle(ws.data);
    } catch (error) {
      log.error("socket.bug", { error: describeError(error, true) });
      ws.terminate();
    }
  };
  return {
    open: (ws: ServerWebSocket<Socket>) => guarded(ws, (socket) => socket.open(ws)),
    message: (ws: ServerWebSocket<Socket>, data: string | Buffer) => guarded(ws, (socket) => socket.message(ws, data)),
    drain: (ws: ServerWebSocket<Socket>) => guarded(ws, (socket) => socket.drain(ws)),
    close: (ws: ServerWebSocket<Socket>) => guarded(ws, (socket) => socket.close(ws)),
  };
}

async function stop(server: Server<Socket>, live: Live): Promise<void> {
  const drained = server.stop(false);
  live.close();
  const cut = setTimeout(() => void server.stop(true), DRAIN_MS);
  await drained;
  clearTimeout(cut);
}
