// The daemon's end of one control socket: requests with deadlines, events, descriptors both ways.
import { errAsync, ok, ResultAsync } from "neverthrow";
import { DormouseError, fail, messageOf, type AsyncRes, type Res } from "../../errors.ts";
import { E, errnoName } from "../../ffi/abi/errno.ts";
import { EPOLLIN, EPOLLOUT } from "../../ffi/epoll.ts";
import { closeFd } from "../../ffi/fd.ts";
import { connectSeqpacket, receivePacket, sendPacket } from "../../ffi/socket.ts";
import { MAX_PACKET, type Method, type Methods, type VmmStatus } from "../../vmm/protocol.ts";
import type { Poller, Watch } from "../poller.ts";
import { asObject, parseDiskFailure, parseStatus, RESULTS, type DiskFailure } from "./parse.ts";

/** Deadline of a request that says none: a VMM's main loop never waits on anything, so this is generous. */
const REQUEST_TIMEOUT_MS = 10_000;
const UNREADABLE_EVENT = "the monitor sent an event that can't be read";

export interface RequestOptions {
  /** Descriptors by name; they stay the caller's, who may close them once request() has returned. */
  readonly fds?: Readonly<Record<string, number>>;
  readonly timeoutMs?: number;
}

export interface ClientListener {
  /** Each status that the VMM tells, by an event or in an answer, in its order. */
  onState(status: VmmStatus): void;
  /** A `save` under way has stopped reading the TAP. */
  onDeaf?(): void;
  onDiskFailed?(failure: DiskFailure): void;
  /** Once: the connection is gone, by the VMM's end or a packet that makes no sense. Not after close(). */
  onClosed(reason: string): void;
}

/** Descriptors of an answer by name; whoever gets them closes them. */
export type AnswerFds = Readonly<Record<string, number>>;

/** `settle` takes the descriptors over. */
interface Pending { readonly method: Method; readonly settle: (result: Res<unknown>, fds: AnswerFds) => void; readonly timer: ReturnType<typeof setTimeout> }
interface Outgoing { readonly bytes: Uint8Array }

export class VmmClient {
  private readonly buffer = new Uint8Array(MAX_PACKET);
  private readonly pending = new Map<number, Pending>();
  /** Packets without descriptors that wait for room in the socket. (Descriptors are the caller's, and may be closed by then.) */
  private readonly outgoing: Outgoing[] = [];
  private readonly watch: Watch;
  private ids = 0;
  private open = true;

  /** Takes over `fd`, a connected packet socket; throws where it can't be watched. */
  constructor(private readonly fd: number, poller: Poller, private readonly listener: ClientListener) {
    this.watch = poller.watch(fd, EPOLLIN, (events) => this.onReady(events));
  }

  static connect(path: string, poller: Poller, listener: ClientListener): Res<VmmClient> {
    return VmmClient.open(() => connectSeqpacket(path), poller, listener);
  }

  /** Takes over `fd`, a connected packet socket. */
  static over(fd: number, poller: Poller, listener: ClientListener): Res<VmmClient> {
    return VmmClient.open(() => fd, poller, listener);
  }

  private static open(connect: () => number, poller: Poller, listener: ClientListener): Res<VmmClient> {
    let fd = -1;
    try {
      fd = connect();
      return ok(new VmmClient(fd, poller, listener));
    } catch (error) {
      if (fd >= 0) closeFd(fd);
      return fail("host.process", `Cannot reach the monitor: ${messageOf(error)}`, { cause: error });
    }
  }

  /**
   * Asks the VMM. `host.process` where it refuses (its words in the message), answers late or with something else than
   * this method's result, or goes away before.
   */
  request<M extends Method>(method: M, params: Methods[M]["params"], options: RequestOptions = {}): AsyncRes<Methods[M]["result"]> {
    return this.ask(method, params, options, (result, fds) => {
      closeAll(fds);
      return result;
    });
  }

  /** As request(), for an answer that brings descriptors (`tap`): they are the caller's from here on. */
  requestFds<M extends Method>(method: M, params: Methods[M]["params"], options: RequestOptions = {}): AsyncRes<{ readonly result: Methods[M]["result"]; readonly fds: AnswerFds }> {
    return this.ask(method, params, options, (result, fds) => result.map((value) => ({ result: value, fds })));
  }

  private ask<M extends Method, T>(method: M, params: Methods[M]["params"], options: RequestOptions, finish: (result: Res<Methods[M]["result"]>, fds: AnswerFds) => Res<T>): AsyncRes<T> {
    const fds = options.fds ?? {};
    const id = ++this.ids;
    const bytes = Buffer.from(JSON.stringify({ id, method, params, fds: Object.keys(fds) }));
    const refused = this.post(bytes, Object.values(fds), method);
    if (refused !== null) return errAsync(refused);
    const timeoutMs = options.timeoutMs ?? REQUEST_TIMEOUT_MS;
    return new ResultAsync(
      new Promise((resolve) => {
        const timer = setTimeout(() => this.settle(id, fail("host.process", `Cannot get an answer to ${method} from the monitor: it is silent for ${timeoutMs} ms`)), timeoutMs);
        this.pending.set(id, { method, timer, settle: (result, answered) => resolve(finish(result as Res<Methods[M]["result"]>, answered)) });
      }),
    );
  }

  /** Hangs up; the VMM lives on. Requests under way end with an error. Idempotent. */
  close(): void {
    this.end("the connection was closed", false);
  }

  private post(bytes: Uint8Array, fds: readonly number[], method: Method): DormouseError | null {
    if (!this.open) return new DormouseError("host.process", `Cannot send ${method} to the monitor: it has gone`);
    if (bytes.length > MAX_PACKET) return new DormouseError("host.process", `Cannot send ${method} to the monitor: ${bytes.length} bytes are more than a packet of ${MAX_PACKET}`);
    const sent = this.outgoing.length > 0 ? -E.EAGAIN : sendPacket(this.fd, bytes, fds);
    if (sent >= 0) return null;
    if (sent !== -E.EAGAIN || fds.length > 0) return new DormouseError("host.process", `Cannot send ${method} to the monitor: ${errnoName(-sent)}`);
    this.outgoing.push({ bytes });
    this.watch.modify(EPOLLIN | EPOLLOUT);
    return null;
  }

  private onReady(events: number): void {
    if ((events & EPOLLOUT) !== 0) this.flush();
    // Packets are taken one after another until none waits: an end of the connection comes behind the last words.
    while (this.open) {
      const packet = receivePacket(this.fd, this.buffer);
      if (packet === "again") return;
      if (packet === null) return this.end("the monitor has closed it", true);
      const problem = this.take(Buffer.from(packet.bytes).toString(), packet.fds);
      if (problem !== null) return this.end(problem, true);
    }
  }

  private flush(): void {
    for (let first = this.outgoing[0]; first !== undefined; first = this.outgoing[0]) {
      if (sendPacket(this.fd, first.bytes) === -E.EAGAIN) return;
      this.outgoing.shift(); // any other failure shows as the connection's end, which settles its request
    }
    this.watch.modify(EPOLLIN);
  }

  /** Handles one message with its descriptors; says what is wrong where it makes no sense. */
  private take(text: string, received: readonly number[]): string | null {
    const message = parseObject(text);
    const id = message?.["id"], pending = typeof id === "number" ? this.pending.get(id) : undefined;
    const fds = pending !== undefined && message?.["ok"] === true ? named(message["fds"], received) : null;
    if (fds === null) received.forEach(closeFd); // nobody asked for them
    if (message === null) return "the monitor sent something that is not a message";
    if ("event" in message) return this.hear(message);
    if (typeof id !== "number" || typeof message["ok"] !== "boolean") return "the monitor sent an answer that can't be read";
    if (pending === undefined) return null; // it came after its deadline
    if (!message["ok"]) {
      const { error } = message;
      this.settle(id, fail("host.process", typeof error === "string" ? error : "the monitor refused without a reason"));
      return null;
    }
    const value = RESULTS[pending.method](message["result"]);
    // Here and not by whoever asked: that one goes on later, when newer events may have been handled already.
    if (value !== null && value !== undefined) {
      if ("state" in value) this.listener.onState(value);
      else if ("status" in value) this.listener.onState(value.status);
    }
    if (value !== undefined && fds !== null) this.settle(id, ok(value), fds);
    else {
      closeAll(fds ?? {});
      this.settle(id, fail("host.process", `Cannot read the monitor's answer to ${pending.method}`));
    }
    return null;
  }

  private hear(message: Readonly<Record<string, unknown>>): string | null {
    if (message["event"] === "deaf") {
      this.listener.onDeaf?.();
      return null;
    }
    if (message["event"] === "diskFailed") {
      const failure = parseDiskFailure(message);
      if (failure !== null) this.listener.onDiskFailed?.(failure);
      return failure === null ? UNREADABLE_EVENT : null;
    }
    const status = message["event"] === "state" ? parseStatus(message["status"]) : null;
    if (status === null) return UNREADABLE_EVENT;
    this.listener.onState(status);
    return null;
  }

  private settle(id: number, result: Res<unknown>, fds: AnswerFds = {}): void {
    const pending = this.pending.get(id);
    if (pending === undefined) return;
    this.pending.delete(id);
    clearTimeout(pending.timer);
    pending.settle(result, fds);
  }

  private end(reason: string, tell: boolean): void {
    if (!this.open) return;
    this.open = false;
    this.watch.close();
    closeFd(this.fd);
    for (const [id, { method }] of [...this.pending]) this.settle(id, fail("host.process", `Cannot get an answer to ${method} from the monitor: ${reason}`));
    if (tell) this.listener.onClosed(reason);
  }
}

const closeAll = (fds: AnswerFds): void => Object.values(fds).forEach(closeFd);

/** Descriptors under the names that came with them; null unless each has one of its own. */
function named(names: unknown, fds: readonly number[]): AnswerFds | null {
  const list: readonly unknown[] = names === undefined ? [] : Array.isArray(names) ? names : [null];
  const sound = list.length === fds.length && new Set(list).size === list.length && list.every((name) => typeof name === "string");
  return sound ? Object.fromEntries(fds.map((fd, i) => [list[i] as string, fd])) : null;
}

function parseObject(text: string) {
  try {
    return asObject(JSON.parse(text));
  } catch {
    return null; // the caller says what was wrong
  }
}
