// The VMM's end of the control socket: accepts the daemon (a newer connection replaces an older one), answers its
// requests and sends events. The peer is our own daemon; a packet that doesn't parse closes the connection, nothing more.
import { closeFd } from "../ffi/fd.ts";
import { EPOLLIN, type Epoll } from "../ffi/epoll.ts";
import { acceptConnection, receivePacket, sendPacket } from "../ffi/socket.ts";
import { MAX_PACKET, type Answer, type Event, type Method, type Methods, type Request } from "./protocol.ts";

/** Descriptors of a request by name. Whoever takes one owns it; the rest is closed after the handler. */
export class RequestFds {
  constructor(private readonly fds: Map<string, number>) {}
  take(name: string): number {
    const fd = this.fds.get(name);
    if (fd === undefined) throw new Error(`descriptor ${name} is missing`);
    this.fds.delete(name);
    return fd;
  }
  has(name: string): boolean { return this.fds.has(name); }
  close(): void { for (const fd of this.fds.values()) closeFd(fd); }
}

/** Answers later, at most once; a connection that has gone is no error. Descriptors of an answer stay the handler's own too. */
export type Reply<M extends Method> = (answer: { result: Methods[M]["result"]; fds?: Readonly<Record<string, number>> } | { error: string }) => void;
export type Handlers = { [M in Method]: (params: Methods[M]["params"], fds: RequestFds, reply: Reply<M>) => void };

/** Told apart by itself: its descriptor's number may be the next one's. */
interface Connection { readonly fd: number }

export class Control {
  private connection: Connection | null = null;
  private readonly buffer = new Uint8Array(MAX_PACKET);

  /** `hungUp`: the daemon has gone and no other took its place. */
  constructor(private readonly epoll: Epoll, private readonly listener: number, private readonly handlers: Handlers, private readonly hungUp: () => void) {
    epoll.add(listener, EPOLLIN, () => this.accept());
  }

  /** A daemon is there. */
  get connected(): boolean { return this.connection !== null; }

  send(event: Event): void {
    if (this.connection !== null) this.post(this.connection, event);
  }

  private accept(): void {
    const fd = acceptConnection(this.listener);
    if (fd < 0) return;
    this.drop();
    const connection = this.connection = { fd };
    this.epoll.add(fd, EPOLLIN, () => this.receive(connection));
  }

  private drop(): void {
    if (this.connection === null) return;
    this.epoll.remove(this.connection.fd);
    closeFd(this.connection.fd);
    this.connection = null;
  }

  private lose(): void {
    this.drop();
    this.hungUp();
  }

  private receive(connection: Connection): void {
    const packet = receivePacket(connection.fd, this.buffer);
    if (packet === "again") return;
    if (packet === null) return this.lose();
    const request = parse(packet.bytes);
    const fds = new RequestFds(new Map(packet.fds.map((n, i) => [request?.fds?.[i] ?? `#${i}`, n])));
    try {
      if (request === null) return this.lose();
      this.dispatch(connection, request, fds);
    } finally {
      fds.close();
    }
  }

  private dispatch<M extends Method>(connection: Connection, request: Request<M>, fds: RequestFds): void {
    const { id, method } = request;
    const reply: Reply<M> = (answer) => {
      if (connection !== this.connection) return;
      if ("error" in answer) return this.post(connection, { id, ok: false, error: answer.error } satisfies Answer<M>);
      const fds = answer.fds ?? {};
      const packet: Answer<M> = { id, ok: true, result: answer.result, ...(answer.fds === undefined ? {} : { fds: Object.keys(fds) }) };
      this.post(connection, packet, Object.values(fds));
    };
    const handler = this.handlers[method];
    if (handler === undefined) return reply({ error: `unknown method ${String(method)}` });
    try {
      handler(request.params, fds, reply);
    } catch (error) {
      reply({ error: error instanceof Error ? error.message : String(error) });
    }
  }

  /** The socket is non-blocking with room for hundreds of answers; a daemon that reads none of them is taken for dead. */
  private post({ fd }: Connection, message: object, fds: readonly number[] = []): void {
    if (sendPacket(fd, Buffer.from(JSON.stringify(message)), fds) < 0) this.lose();
  }
}

function parse(bytes: Uint8Array): Request | null {
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes).toString());
    const request = value as Request;
    return typeof value === "object" && value !== null && typeof request.id === "number" && typeof request.method === "string" ? request : null;
  } catch {
    return null; // not ours: the caller drops the connection
  }
}
