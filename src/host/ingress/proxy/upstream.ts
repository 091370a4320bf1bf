// Connections to targets: made, lent to one request at a time, kept for the next one, and dropped with their instance.
import { type Ledger, type RawSocket, Wire, type WireHandler } from "./wire.ts";

/** Idle connections kept for each target. */
const IDLE_MAX = 16;
/** Connections to one instance that are being opened at once. One that takes none, and says nothing, keeps each for two minutes in the kernel. */
const OPENING_MAX = 2048;
/** Shorter than the keep-alive of common servers (Node's is 5 s), so that few are found dead. */
const IDLE_S = 4;

export class Upstream {
  /** It has carried a request before: the target may close it at any moment. */
  reused = false;
  /** Set by the pool: tells whoever keeps account of the daemon's own connections. */
  ended: () => void = () => {};
  /** Set by who has it: its instance has fallen asleep. */
  asleep: () => void = () => {};
  constructor(readonly wire: Wire, readonly instanceId: string, readonly key: string) {}
}

/** Why there is no connection: the system's code, or what the caller set. */
export class NoConnection {
  constructor(readonly code: "timeout" | "aborted" | "busy" | (string & {})) {}
}

/** Who keeps account of the local ports of our connections (src/host/standby). */
export interface OwnPorts { add(port: number): () => void }

export class Pool {
  private readonly idle = new Map<string, Upstream[]>();
  private readonly all = new Map<string, Set<Upstream>>();
  private readonly opening = new Map<string, number>();

  constructor(private readonly ledger: Ledger, readonly bug: (error: unknown) => void, private readonly ownPorts: OwnPorts | null) {}

  /** A kept connection, or null. */
  take(instanceId: string, ip: string, port: number): Upstream | null {
    const upstream = this.idle.get(keyOf(instanceId, ip, port))?.pop();
    if (upstream === undefined) return null;
    upstream.wire.limit(0);
    upstream.reused = true;
    return upstream;
  }

  /** Of a connection whose request and answer are over. */
  give(upstream: Upstream): void {
    const list = this.idle.get(upstream.key) ?? [];
    if (list.length >= IDLE_MAX || upstream.wire.gone || !this.all.get(upstream.instanceId)?.has(upstream)) return upstream.wire.destroy();
    this.idle.set(upstream.key, [...list, upstream]);
    upstream.wire.handler = this.idleHandler(upstream);
    upstream.asleep = () => {};
    upstream.wire.resume();
    upstream.wire.limit(IDLE_S);
  }

  /** Answers at `timeoutMs` at the latest. What opens later is closed. */
  async connect(instanceId: string, ip: string, port: number, timeoutMs: number, signal: AbortSignal): Promise<Upstream | NoConnection> {
    if ((this.opening.get(instanceId) ?? 0) >= OPENING_MAX) return new NoConnection("busy");
    const { promise, resolve } = Promise.withResolvers<Upstream | NoConnection>();
    let waiting = true;
    this.open(instanceId, ip, port, (outcome) => {
      if (waiting || outcome instanceof NoConnection) resolve(outcome);
      else outcome.wire.destroy();
    });
    const timer = setTimeout(() => resolve(new NoConnection("timeout")), timeoutMs);
    const onAbort = () => resolve(new NoConnection("aborted"));
    signal.addEventListener("abort", onAbort);
    const outcome = await promise;
    waiting = false;
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
    return outcome;
  }

  private open(instanceId: string, ip: string, port: number, done: (outcome: Upstream | NoConnection) => void): void {
    this.count(instanceId, 1);
    const opened = (socket: RawSocket) => {
      this.count(instanceId, -1);
      const upstream = new Upstream(new Wire(socket, IGNORE, this.ledger), instanceId, keyOf(instanceId, ip, port));
      upstream.wire.handler = this.idleHandler(upstream);
      done(this.adopt(upstream));
    };
    const failed = (error: unknown) => {
      this.count(instanceId, -1);
      done(new NoConnection((error as { code?: string }).code ?? "unknown"));
    };
    Bun.connect<Wire | undefined>({ hostname: ip, port, allowHalfOpen: true, data: undefined, socket: Wire.handlers(opened, this.bug) }).catch(failed);
  }

  private count(instanceId: string, by: 1 | -1): void {
    const now = (this.opening.get(instanceId) ?? 0) + by;
    if (now === 0) this.opening.delete(instanceId);
    else this.opening.set(instanceId, now);
  }

  /** Ends what goes to an instance that has stopped: nobody is there to answer or to close. */
  dropAll(instanceId: string): void {
    for (const { wire } of [...(this.all.get(instanceId) ?? [])]) wire.destroy();
  }

  /** An instance has fallen asleep: what nobody uses is ended, and who waits for an answer is told. */
  fellAsleep(instanceId: string): void {
    this.dropIdle(instanceId);
    for (const upstream of [...(this.all.get(instanceId) ?? [])]) upstream.asleep();
  }

  /** Ends what nobody uses. */
  dropIdle(instanceId: string): void {
    for (const [key, list] of [...this.idle]) if (list[0]?.instanceId === instanceId) { this.idle.delete(key); for (const { wire } of list) wire.destroy(); }
  }

  idlePorts(instanceId: string): Set<number> {
    return new Set([...this.idle.values()].flat().filter((one) => one.instanceId === instanceId).map(({ wire }) => wire.localPort));
  }

  close(): void {
    for (const instanceId of [...this.all.keys()]) this.dropAll(instanceId);
  }

  /** For a handler's close(): it is not there any more. */
  forget(upstream: Upstream): void {
    const { key, instanceId } = upstream;
    upstream.ended();
    const list = (this.idle.get(key) ?? []).filter((one) => one !== upstream);
    if (list.length === 0) this.idle.delete(key);
    else this.idle.set(key, list);
    const all = this.all.get(instanceId);
    all?.delete(upstream);
    if (all?.size === 0) this.all.delete(instanceId);
  }

  private adopt(upstream: Upstream): Upstream {
    const all = this.all.get(upstream.instanceId) ?? new Set<Upstream>();
    this.all.set(upstream.instanceId, all.add(upstream));
    if (this.ownPorts !== null) upstream.ended = this.ownPorts.add(upstream.wire.localPort);
    return upstream;
  }

  /** Whatever an idle connection does ends it: an answer that nobody asked for must not meet the next request. */
  private idleHandler(upstream: Upstream): WireHandler {
    const end = () => upstream.wire.destroy();
    return { data: end, drain: () => {}, end, timeout: () => upstream.wire.end(), close: () => this.forget(upstream) };
  }
}

const keyOf = (instanceId: string, ip: string, port: number): string => `${instanceId} ${ip} ${port}`;
const IGNORE: WireHandler = { data() {}, drain() {}, end() {}, close() {}, timeout() {} };
