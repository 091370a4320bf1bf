// A client's connection: one request at a time, those that were sent ahead in their turn.
import { timingSafeEqual } from "node:crypto";
import { hostOf } from "../hostname.ts";
import type { RequestHeaderAuth, Route } from "../service.ts";
import { type Answer, answerBytes } from "./answer.ts";
import type { ClientSide } from "./ask.ts";
import { Exchange } from "./exchange.ts";
import { requestFraming } from "./framing.ts";
import { cutHead, type Field, Malformed, parseRequest, type RequestHead, skipEmptyLines, tokensOf, valuesOf } from "./head.ts";
import { EMPTY, join, type Ledger, type RawSocket, Wire, type WireHandler } from "./wire.ts";
import type { Pool } from "./upstream.ts";
import type { Reach } from "./reach.ts";

/** What all connections share. */
export interface Proxy {
  readonly reach: Reach;
  readonly pool: Pool;
  readonly ledger: Ledger;
  /** Seconds that a head may take to come. */
  readonly headS: number;
  find(port: number, host: string): Route | null;
  /** The id of a route's instance, now; null where there is none. */
  instanceOf(route: Route): string | null;
  /** A request is in flight until the function returned is called. */
  begin(instanceId: string): () => void;
}

/** Seconds that a connection may wait for its next request, and that one may take to close. */
const IDLE_S = 75, LINGER_S = 4;
/** Bytes that a client may send ahead of its turn. */
const AHEAD_MAX = 64 * 1024;
const KEEP_ALIVE_MS = 60_000;

export class Client implements WireHandler, ClientSide {
  private readonly wire: Wire;
  private bytes: Uint8Array = EMPTY;
  private exchange: Exchange | null = null;
  private closing = false;
  private ended = false;
  private working = false;
  private retired = false;

  constructor(socket: RawSocket, private readonly port: number, private readonly proxy: Proxy, private readonly onClose: (client: Client) => void) {
    this.wire = new Wire(socket, this, proxy.ledger);
    this.wire.keepAlive(KEEP_ALIVE_MS);
    this.wire.limit(proxy.headS);
  }

  // What comes from the socket.

  data(bytes: Uint8Array): void {
    if (this.closing) return;
    if (this.exchange !== null) return this.exchange.fromClient(bytes);
    const first = this.bytes.length === 0;
    this.bytes = join(this.bytes, bytes);
    if (first) this.rest();
    this.work();
  }

  drain(): void {
    if (this.exchange !== null) return this.exchange.clientDrained();
    this.rest();
    this.work();
  }

  end(): void {
    this.ended = true;
    if (this.exchange !== null) this.exchange.clientEnd();
    else this.wire.end();
  }

  close(reset: boolean): void {
    this.closing = true;
    const { exchange } = this;
    this.exchange = null;
    exchange?.clientGone(reset);
    this.onClose(this);
  }

  timeout(): void {
    if (this.exchange !== null) return;
    // Not reset: the kernel may still have what a slow client has yet to read.
    if (this.closing || this.bytes.length === 0) return this.wire.end();
    this.method = "";
    this.answer({ status: 408, message: "Cannot accept this request: its head took too long to come." }, false);
  }

  // What a listener that ends asks for.

  destroy(): void {
    this.wire.destroy();
  }
  /** Nothing but the answers that are under way. */
  retire(): void {
    this.retired = true;
    if (this.exchange?.isTunnel === true) this.wire.destroy();
    else if (this.exchange === null && this.wire.clear) this.wire.end();
    else if (this.exchange === null) this.closeGently();
  }

  // What an exchange asks for.

  write(bytes: Uint8Array): boolean { return this.wire.write(bytes); }
  pause(): void { this.wire.pause(); }
  resume(): void { this.wire.resume(); }
  hold(bytes: number): void { this.wire.hold(bytes); }
  shutdown(): void { this.wire.shutdown(); }

  keep(bytes: Uint8Array): void {
    this.bytes = join(this.bytes, bytes);
    this.wire.hold(this.bytes.length);
    if (this.bytes.length > AHEAD_MAX) this.wire.pause();
    else this.wire.resume();
  }

  takeKept(): Uint8Array {
    const { bytes } = this;
    this.bytes = EMPTY;
    this.wire.hold(0);
    return bytes;
  }

  done(keepAlive: boolean): void {
    this.exchange = null;
    if (!keepAlive || this.retired) return this.closeGently();
    this.rest();
    this.work();
  }

  answer(answer: Answer, keepAlive: boolean): void {
    this.wire.write(answerBytes(answer, !keepAlive, this.method === "HEAD"));
    this.done(keepAlive);
  }

  breakOff(): void {
    this.exchange = null;
    this.wire.destroy();
  }

  /** FIN, and what still comes is read and dropped: a socket closed with bytes unread is reset, and the answer with it. */
  private closeGently(): void {
    this.closing = true;
    this.bytes = EMPTY;
    this.wire.shutdown();
    this.wire.resume();
    if (this.ended) this.wire.end();
    else this.rest();
  }

  /** Between requests, and after the last. Who has yet to take what was written is slow, and not silent: time counts from then on. */
  private rest(): void {
    const seconds = this.closing ? LINGER_S : this.bytes.length === 0 ? IDLE_S : this.proxy.headS;
    this.wire.limit(this.wire.clear ? seconds : 0);
  }

  // Requests.

  private method = "";

  /** Begins requests while there are whole heads, and answers of ours don't pile up. Not recursive, however many are sent ahead. */
  private work(): void {
    if (this.working) return;
    this.working = true;
    while (this.exchange === null && !this.closing && this.wire.clear && this.begin());
    this.working = false;
    // With a request under way it is the exchange that keeps something.
    if (this.exchange === null) this.wire.hold(this.bytes.length);
    if (this.exchange !== null || this.closing) return;
    if (this.wire.clear) this.wire.resume();
    else this.wire.pause();
  }

  /** False: there is no whole head. */
  private begin(): boolean {
    this.bytes = skipEmptyLines(this.bytes);
    if (this.bytes.length === 0) return false;
    const cut = cutHead(this.bytes, false);
    if (cut === null) return false;
    this.method = "";
    if (cut instanceof Malformed) return this.refuse(cut);
    this.bytes = cut.rest;
    const head = parseRequest(cut.text);
    if (head instanceof Malformed) return this.refuse(head);
    this.method = head.method;
    const wrong = this.start(head);
    return wrong === null ? true : this.refuse(wrong);
  }

  private refuse({ status, why }: Malformed): true {
    this.answer({ status, message: `Cannot accept this request: ${why}.` }, false);
    return true;
  }

  private start(head: RequestHead): Malformed | null {
    const framing = requestFraming(head);
    if (framing instanceof Malformed) return framing;
    const aim = readTarget(head);
    if (aim instanceof Malformed) return aim;
    const expect = valuesOf(head.fields, "expect");
    if (expect.length > 0 && (expect.length > 1 || expect[0]!.toLowerCase() !== "100-continue")) return new Malformed(417, "nothing but 100-continue can be expected");
    const keepAlive = wantsKeepAlive(head);
    // A body that nobody reads would be taken for the next request.
    const answer = (status: number, message: string) => (this.answer({ status, message }, keepAlive && (framing.kind === "none" || (framing.kind === "length" && framing.length === 0))), null);
    const name = hostOf(aim.host);
    const route = name === null ? null : this.proxy.find(this.port, name);
    if (route === null) return answer(404, "Cannot find a site of this name here: no ingress has it on this port.");
    if (route.auth !== null && !authorized(head.fields, route.auth)) return answer(403, "Cannot let this request through: it lacks the header field that its ingress asks for, or has another value.");
    const instanceId = this.instanceOf(route);
    if (instanceId === undefined) return answer(503, `Cannot serve ${aim.host}: its instance can't be looked up; the daemon's log says why.`);
    if (instanceId === null) return answer(route.captured ? 404 : 502, `Cannot serve ${aim.host}: there is no such instance.`);
    const over = this.proxy.begin(instanceId);
    this.wire.limit(0);
    const caller = { address: this.wire.remoteAddress, host: aim.host };
    const ask = { head, target: aim.target, framing, caller, instanceId, port: route.port, keepAlive, secret: route.auth?.header.toLowerCase() ?? null };
    this.exchange = new Exchange(ask, this, this.proxy.reach, this.proxy.pool, over);
    const rest = this.bytes;
    this.bytes = EMPTY;
    if (rest.length > 0) this.exchange.fromClient(rest);
    return null;
  }

  /** Undefined where the record can't be read. */
  private instanceOf(route: Route): string | null | undefined {
    try {
      return this.proxy.instanceOf(route);
    } catch (error) {
      this.proxy.pool.bug(error);
      return undefined;
    }
  }
}

interface Aim { /** With its port, as it goes on in Host. */ readonly host: string; /** Origin-form. */ readonly target: string }

/** RFC 9112 3.2 and 3.3. */
function readTarget({ method, target, minor, fields }: RequestHead): Aim | Malformed {
  const hosts = valuesOf(fields, "host");
  if (hosts.length > 1 || (hosts.length === 0 && minor === 1)) return new Malformed(400, "it needs one Host field");
  const host = hosts[0] ?? "";
  if (method === "CONNECT") return new Malformed(501, "this is no forward proxy");
  if (target.startsWith("/") || (target === "*" && method === "OPTIONS")) return host === "" || hostOf(host) !== null ? { host, target } : new Malformed(400, "its Host field is no host name");
  const match = /^http:\/\/([^/?#@]+)([/?].*)?$/i.exec(target);
  if (match === null || hostOf(match[1]!) === null) return new Malformed(400, "its target is neither a path nor an http address");
  const path = match[2] ?? "/";
  return { host: match[1]!, target: path.startsWith("/") ? path : `/${path}` };
}

function wantsKeepAlive({ minor, fields }: RequestHead): boolean {
  const tokens = tokensOf(fields, "connection");
  return minor === 1 ? !tokens.includes("close") : tokens.includes("keep-alive");
}

/** In the same time, wherever the values differ. */
function authorized(fields: readonly Field[], { header, value }: RequestHeaderAuth): boolean {
  const given = valuesOf(fields, header.toLowerCase());
  const digest = (text: string) => new Bun.CryptoHasher("sha256").update(text).digest();
  return given.length === 1 && timingSafeEqual(digest(given[0]!), digest(value));
}
