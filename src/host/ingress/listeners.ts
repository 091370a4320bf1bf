// The ports that rules need: a listening socket each, opened with the first rule and closed after the last.
import type { TCPSocketListener } from "bun";
import { ok } from "neverthrow";
import { fail, messageOf, type Res } from "../../errors.ts";
import { describeError, type Logger } from "../../log.ts";
import { Client, type Proxy } from "./proxy/client.ts";
import { Wire } from "./proxy/wire.ts";

/** Between attempts at a port that another program has while the daemon starts. */
const RETRY_MS = 5_000;
/** Connections of clients at once, of all ports: the daemon needs descriptors for other things too. */
const CLIENTS_MAX = 8192;

export class Listeners {
  private readonly open = new Map<number, TCPSocketListener<Wire | undefined>>();
  private readonly clients = new Map<Client, number>();
  private readonly missing = new Set<number>();
  private retry: Timer | null = null;
  private closing = false;
  private onEmpty: () => void = () => {};

  constructor(private readonly address: string, private readonly proxy: Proxy, private readonly log: Logger) {}

  /** Idempotent; `port.taken` where another program has it. */
  listen(port: number): Res<void> {
    if (this.open.has(port)) return ok();
    try {
      const accept = (socket: Parameters<typeof this.accept>[0]) => this.accept(socket, port);
      const bug = (error: unknown) => this.log.error("ingress.bug", { error: describeError(error, true) });
      this.open.set(port, Bun.listen<Wire | undefined>({ hostname: this.address, port, allowHalfOpen: true, data: undefined, socket: Wire.handlers(accept, bug) }));
    } catch (error) {
      const what = `Cannot listen on port ${port} of ${this.address}`;
      if ((error as { code?: string }).code !== "EADDRINUSE") return fail("host.network", `${what}: ${messageOf(error)}`, { cause: error });
      return fail("port.taken", `${what}: another program on this host does, or an instance publishes it; end that, or choose another port`, { cause: error, details: { port } });
    }
    this.missing.delete(port);
    this.log.info("ingress.listening", { address: this.address, port });
    return ok();
  }

  /** Opens what is not open of `ports`; what can't be is tried again until it can. */
  listenAll(ports: Iterable<number>): void {
    for (const port of ports) {
      const listening = this.listen(port);
      if (listening.isOk()) continue;
      if (!this.missing.has(port)) this.log.error("ingress.port_failed", { port, error: listening.error.message });
      this.missing.add(port);
    }
    if (this.missing.size > 0) this.retry ??= setTimeout(() => { this.retry = null; this.listenAll([...this.missing]); }, RETRY_MS);
  }

  /** Closes all but `ports`; requests under way are let go on. */
  keepOnly(ports: ReadonlySet<number>): void {
    for (const [port, listener] of [...this.open]) {
      if (ports.has(port)) continue;
      listener.stop(false);
      this.open.delete(port);
      for (const [client, its] of [...this.clients]) if (its === port) client.retire();
      this.log.info("ingress.closed", { port });
    }
    for (const port of [...this.missing]) if (!ports.has(port)) this.missing.delete(port);
  }

  /** Ends ports, idle connections and tunnels at once, and what is left of answers under way after `drainMs`. */
  async close(drainMs: number): Promise<void> {
    if (this.retry !== null) clearTimeout(this.retry);
    this.closing = true;
    this.keepOnly(new Set());
    if (this.clients.size > 0) {
      const cut = setTimeout(() => { for (const client of [...this.clients.keys()]) client.destroy(); }, drainMs);
      await new Promise<void>((resolve) => (this.onEmpty = resolve));
      clearTimeout(cut);
    }
  }

  private left(client: Client): void {
    this.clients.delete(client);
    if (this.clients.size === 0) this.onEmpty();
  }

  private accept(socket: ConstructorParameters<typeof Client>[0], port: number): void {
    if (this.closing || this.clients.size >= CLIENTS_MAX) return void socket.terminate();
    this.clients.set(new Client(socket, port, this.proxy, (one) => this.left(one)), port);
  }
}
