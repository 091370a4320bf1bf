// One request and its answer: held until its instance can be reached, then both bodies flow at the pace of the slower side.
import { gather, EMPTY, join, latin1, type WireHandler } from "./wire.ts";
import { type BodyReader, bodyReader, chunk, lastChunk, NONE } from "./framing.ts";
import { cutHead, Malformed, parseResponse, type ResponseHead, tokensOf, valuesOf } from "./head.ts";
import { requestHead, responseHead, trailersOnward } from "./headers.ts";
import type { Answer } from "./answer.ts";
import type { Ask, ClientSide } from "./ask.ts";
import { type Plan, planAnswer } from "./plan.ts";
import { type Pool, Upstream } from "./upstream.ts";
import type { Reach } from "./reach.ts";

/** RFC 9110 9.2.2: asking twice does no more than asking once. */
const IDEMPOTENT = new Set(["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]);

export class Exchange {
  private readonly cancel = new AbortController();
  private readonly request: BodyReader;
  private readonly upgrade: string | null;
  private upstream: Upstream | null = null;
  private phase: "reaching" | "head" | "body" | "tunnel" | "over" = "reaching";
  /** Of the request's body, come before there was a connection. */
  private early: Uint8Array = EMPTY;
  private answered: Uint8Array = EMPTY;
  private response: BodyReader = bodyReader(NONE);
  private plan: Pick<Plan, "from" | "to" | "reusable"> = { from: NONE, to: NONE, reusable: false };
  private keepAlive: boolean;
  private continued = false;
  private clientEnded = false;
  private upstreamEnded = false;

  /** `over` is called once, at the end. */
  constructor(private readonly ask: Ask, private readonly client: ClientSide, private readonly reach: Reach, private readonly pool: Pool, private readonly over: () => void) {
    this.request = bodyReader(ask.framing);
    this.keepAlive = ask.keepAlive;
    const { fields, minor } = ask.head;
    const upgrade = valuesOf(fields, "upgrade").join(", ");
    // HTTP/2 in clear text would be one connection for many requests, past all that is looked at here.
    const wanted = minor === 1 && upgrade !== "" && tokensOf(fields, "connection").includes("upgrade") && !tokensOf(fields, "upgrade").includes("h2c");
    this.upgrade = wanted ? upgrade : null;
    this.start(this.request.done && this.upgrade === null && IDEMPOTENT.has(ask.head.method));
  }

  /** A bug ends its connection, as in what sockets call (wire.ts). */
  private start(repeatable: boolean): void {
    this.begin(repeatable).catch((error: unknown) => {
      this.pool.bug(error);
      this.broken();
    });
  }

  private async begin(repeatable: boolean): Promise<void> {
    // A kept connection may be closed by its target just now: only what can be asked again goes there.
    const reached = await this.reach.to(this.ask.instanceId, this.ask.port, repeatable, this.cancel.signal);
    if (this.phase === "over") {
      if (reached instanceof Upstream) this.pool.give(reached);
      return;
    }
    if (reached === "aborted") return;
    if (reached instanceof Upstream) return this.send(reached);
    const { status, message, retryAfterS } = reached;
    this.fail({ status, message: `Cannot serve ${this.ask.caller.host}: ${message}.`, retryAfterS });
  }

  private send(upstream: Upstream): void {
    const { ask } = this;
    this.upstream = upstream;
    this.phase = "head";
    upstream.wire.handler = this.upstreamHandler(upstream);
    // It may have been sent to an instance that heard nothing any more; only a new connection wakes it.
    upstream.asleep = () => {
      if (this.phase === "head" && this.untouched(upstream)) upstream.wire.destroy();
    };
    const head = latin1(requestHead(ask.head, ask.target, { caller: ask.caller, framing: ask.framing, upgrade: this.upgrade, secret: ask.secret }));
    const room = upstream.wire.write(head);
    const early = this.early;
    this.early = EMPTY;
    if (early.length > 0) this.client.hold(0);
    if (room && !this.request.done) this.client.resume();
    if (early.length > 0) this.forward(early);
  }

  get isTunnel(): boolean { return this.phase === "tunnel"; }

  // The client's side.

  fromClient(bytes: Uint8Array): void {
    if (this.phase === "tunnel") {
      if (this.upstream?.wire.write(bytes) === false) this.client.pause();
    } else if (this.request.done) {
      this.client.keep(bytes);
    } else if (this.upstream === null) {
      this.early = join(this.early, bytes);
      this.client.hold(this.early.length);
      this.client.pause();
    } else {
      this.forward(bytes);
    }
  }

  private forward(bytes: Uint8Array): void {
    const chunked = this.ask.framing.kind === "chunked", parts: Uint8Array[] = [];
    const add = (part: Uint8Array) => void parts.push(part);
    const rest = this.request.read(bytes, add, chunked ? add : null);
    if (rest instanceof Malformed) return this.badRequest(rest);
    if (this.request.done && chunked) parts.push(lastChunk(trailersOnward(this.request.trailers, this.ask.secret)));
    const room = parts.length === 0 || this.upstream?.wire.write(gather(parts)) !== false;
    if (this.request.done) this.client.keep(rest);
    else if (!room) this.client.pause();
  }

  private badRequest({ status, why }: Malformed): void {
    if (this.phase === "body") return this.broken();
    this.fail({ status, message: `Cannot accept this request: ${why}.` });
  }

  clientDrained(): void { this.upstream?.wire.resume(); }

  /** FIN. But for a tunnel, nobody is there to read an answer: browsers and clients that give up close so. */
  clientEnd(): void {
    if (this.phase !== "tunnel") return this.broken();
    this.clientEnded = true;
    this.upstream?.wire.shutdown();
    this.tunnelEnd();
  }

  /** `reset` false: its FIN came after ours. */
  clientGone(reset: boolean): void {
    if (this.phase === "tunnel" && !reset) this.tunnelOver();
    else this.broken();
  }

  // The target's side.

  private upstreamHandler(upstream: Upstream): WireHandler {
    return {
      data: (bytes) => this.fromUpstream(bytes),
      drain: () => {
        if (this.phase === "tunnel" || !this.request.done) this.client.resume();
      },
      end: () => this.upstreamEnd(),
      close: (reset) => {
        this.pool.forget(upstream);
        this.upstreamGone(upstream, reset);
      },
      timeout: () => {},
    };
  }

  private fromUpstream(bytes: Uint8Array): void {
    if (this.phase === "tunnel") {
      if (!this.client.write(bytes)) this.upstream?.wire.pause();
    } else if (this.phase === "body") {
      this.relay(bytes);
    } else if (this.phase === "head") {
      this.answered = join(this.answered, bytes);
      this.readHeads();
    }
  }

  private readHeads(): void {
    while (this.phase === "head") {
      const cut = cutHead(this.answered, true);
      if (cut === null) return;
      const head = cut instanceof Malformed ? cut : parseResponse(cut.text);
      if (head instanceof Malformed) return this.badGateway(`its answer is not valid: ${head.why}`);
      this.answered = (cut as { rest: Uint8Array }).rest;
      if (head.status === 101) return this.switchOver(head);
      if (head.status >= 200) return this.startBody(head);
      if (head.status === 100) this.continued = true;
      if (this.ask.head.minor === 1 && !this.client.write(latin1(responseHead(head, NONE, null)))) this.upstream?.wire.pause();
    }
  }

  private switchOver(head: ResponseHead): void {
    if (this.upgrade === null || !this.request.done) return this.badGateway("it changes to a protocol that nobody asked for");
    const protocol = valuesOf(head.fields, "upgrade").join(", ");
    this.phase = "tunnel";
    this.client.resume();
    this.fromClient(this.client.takeKept());
    const rest = this.answered;
    this.answered = EMPTY;
    if (!this.client.write(gather([latin1(responseHead(head, NONE, "Upgrade", [`Upgrade: ${protocol}`])), rest]))) this.upstream?.wire.pause();
    if (this.upstreamEnded) this.client.shutdown();
  }

  private startBody(head: ResponseHead): void {
    const plan = planAnswer(this.ask.head, head, this.keepAlive, !this.request.done && !this.continued);
    if (plan instanceof Malformed) return this.badGateway(`its answer is not valid: ${plan.why}`);
    this.response = bodyReader(plan.from);
    this.plan = plan;
    this.keepAlive = plan.keepAlive;
    this.phase = "body";
    if (!this.client.write(latin1(plan.head))) this.upstream?.wire.pause();
    const rest = this.answered;
    this.answered = EMPTY;
    this.relay(rest);
  }

  private relay(bytes: Uint8Array): void {
    const chunked = this.plan.to.kind === "chunked", anew = chunked && this.plan.from.kind !== "chunked", parts: Uint8Array[] = [];
    const add = (part: Uint8Array) => void parts.push(part);
    const rest = this.response.read(bytes, anew ? (part) => void parts.push(...chunk(part)) : add, chunked && !anew ? add : null);
    if (rest instanceof Malformed) return this.broken();
    if (this.response.done && chunked) parts.push(lastChunk(trailersOnward(this.response.trailers, null)));
    if (parts.length > 0 && !this.client.write(gather(parts))) this.upstream?.wire.pause();
    if (this.response.done) this.complete(rest.length === 0);
    // It has sent all that it will.
    else if (this.upstreamEnded) this.upstreamEnd();
  }

  private upstreamEnd(): void {
    this.upstreamEnded = true;
    if (this.phase === "tunnel") {
      this.client.shutdown();
      this.tunnelEnd();
    } else if (this.phase === "body" && this.plan.from.kind === "close") {
      if (this.plan.to.kind === "chunked") this.client.write(lastChunk([]));
      this.complete(false);
    } else if (this.phase === "body") {
      this.broken();
    } else if (this.phase === "head") {
      this.upstream?.wire.destroy();
    }
  }

  private upstreamGone(upstream: Upstream, reset: boolean): void {
    if (this.phase === "over" || upstream !== this.upstream) return;
    if (this.phase === "head") {
      this.upstream = null;
      // It was closed before the request had reached anybody.
      if (this.untouched(upstream)) {
        this.phase = "reaching";
        this.upstreamEnded = false;
        return this.start(false);
      }
      return this.badGateway("its instance closed the connection before it had answered");
    }
    if (this.phase === "tunnel") return reset ? this.broken() : this.tunnelOver();
    if (!reset && this.plan.from.kind === "close") return this.upstreamEnd();
    this.broken();
  }

  /** A request that may be repeated, of which nothing has been answered. */
  private untouched(upstream: Upstream): boolean {
    return upstream.reused && this.answered.length === 0 && !this.continued;
  }

  // Its ends.

  /** The answer is with the client. */
  private complete(clean: boolean): void {
    const { upstream } = this;
    const whole = this.request.done;
    this.finish(() => {
      if (upstream !== null) {
        if (clean && whole && this.plan.reusable && !this.upstreamEnded) this.pool.give(upstream);
        else upstream.wire.destroy();
      }
      this.client.done(this.keepAlive && whole);
    });
  }

  private broken(): void {
    this.finish(() => {
      this.upstream?.wire.destroy();
      this.client.breakOff();
    });
  }

  private badGateway(why: string): void {
    this.fail({ status: 502, message: `Cannot serve ${this.ask.caller.host}: ${why}.` });
  }

  private fail(answer: Answer): void {
    this.finish(() => {
      this.upstream?.wire.destroy();
      this.client.answer(answer, this.keepAlive && this.request.done);
    });
  }

  private tunnelEnd(): void {
    if (this.clientEnded && this.upstreamEnded) this.tunnelOver();
  }

  private tunnelOver(): void {
    this.finish(() => {
      this.upstream?.wire.end();
      this.client.done(false);
    });
  }

  /** It is over first: what closing a connection calls back finds nothing to do. */
  private finish(last: () => void): void {
    if (this.phase === "over") return;
    if (this.phase === "reaching") this.cancel.abort();
    this.phase = "over";
    this.over();
    last();
  }
}
