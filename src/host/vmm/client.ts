// The daemon's end of one control socket: requests with deadlines, events, descriptors both ways.
import { errAsync, ok, ResultAsync } from "neverthrow";
import { DormouseError, fail, messageOf, type AsyncRes, type Res } from "../../errors.ts";
import { E, errnoName } from "../../ffi/abi/errno.ts";
import { EPOLLIN, EPOLLOUT } from "../../ffi/epoll.ts";
import { closeFd } from "../../ffi/fd.ts";
import { connectSeqpacket, receivePacket, sendPacket } from "../../ffi/socket.ts";
import { MAX_PACKET, type Method, type Methods, type VmmStatus } from "../../vmm/protocol.ts";
import type { Poller, Watch } from "../poller.ts";
import { asObject, parseStatus, RESULTS } from "./parse.ts";

/** Deadline of a request that says none: a VMM's main loop never waits on anything, so this is generous. */
const REQUEST_TIMEOUT_MS = 10_000;

export interface RequestOptions {
  /** Descriptors by name; they stay the caller's, who may close them once request() has returned. */
  readonly fds?: Readonly<Record<string, number>>;
  readonly timeoutMs?: number;
}

export interface ClientListener {
  /** Each status that the VMM tells, by an event or in an answer, in its order. */
  onState(status: VmmStatus): void;
  /** Once: the connection is gone, by the VMM's end or a packet that makes no sense. Not after close(). */
  onClosed(reason: string): void;
}

interface Pending { readonly method: Method; readonly settle: (result: Res<unknown>) => void; readonly timer: ReturnType<typeof setTimeout> }
interface Outgoing { readonly bytes: Uint8Array }

export class VmmClient {
  private readonly buffer = new Uint8Array(MAX_PACKET);
  private readonly pending = new Map<number, Pending>();
  /** Packets without descriptors that wait for room in the socket. (Descriptors are the caller's, and may be closed by then.) */
  private readonly outgoing: Outgoing[] = [];
  private readonly watch: Watch;
  private ids = 0;
  private open = true;

  /** Takes over `fd`, a connected packet socket. */
  constructor(private readonly fd: number, poller: Poller, private readonly listener: ClientListener) {
    this.watch = poller.watch(fd, EPOLLIN, (events) => this.onReady(events));
  }

  static connect(path: string, poller: Poller, listener: ClientListener): Res<VmmClient> {
    try {
      return ok(new VmmClient(connectSeqpacket(path), poller, listener));
    } catch (error) {
      return fail("host.process", `Cannot reach the monitor: ${messageOf(error)}`, { cause: error });
    }
  }

  /**
   * Asks the VMM. `host.process` where it refuses (its words in the message), answers late or with something else than
   * this method's result, or goes away before.
   */
  request<M extends Method>(method: M, params: Methods[M]["params"], options: RequestOptions = {}): AsyncRes<Methods[M]["result"]> {
    const fds = options.fds ?? {};
    const id = ++this.ids;
    const bytes = Buffer.from(JSON.stringify({ id, method, params, fds: Object.keys(fds) }));
    const refused = this.post(bytes, Object.values(fds), method);
    if (refused !== null) return errAsync(refused);
    const timeoutMs = options.timeoutMs ?? REQUEST_TIMEOUT_MS;
    return new ResultAsync(
      new Promise((resolve) => {
        const timer = setTimeout(() => this.settle(id, fail("host.process", `Cannot get an answer to ${method} from the monitor: it is silent for ${timeoutMs} ms`)), timeoutMs);
        this.pending.set(id, { method, timer, settle: (result) => resolve(result as Res<Methods[M]["result"]>) });
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
      packet.fds.forEach(closeFd); // no answer of today brings any
      const problem = this.take(Buffer.from(packet.bytes).toString());
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

  /** Handles one message; says what is wrong where it makes no sense. */
  private take(text: string): string | null {
    const message = parseObject(text);
    if (message === null) return "the monitor sent something that is not a message";
    if ("event" in message) {
      const status = message["event"] === "state" ? parseStatus(message["status"]) : null;
      if (status === null) return "the monitor sent an event that can't be read";
      this.listener.onState(status);
      return null;
    }
    const { id, ok: answered, result, error } = message;
    if (typeof id !== "number" || typeof answered !== "boolean") return "the monitor sent an answer that can't be read";
    const pending = this.pending.get(id);
    if (pending === undefined) return null; // it came after its deadline
    if (!answered) {
      this.settle(id, fail("host.process", typeof error === "string" ? error : "the monitor refused without a reason"));
      return null;
    }
    const value = RESULTS[pending.method](result);
    // Here and not by whoever asked: that one goes on later, when newer events may have been handled already.
    if (value !== null && value !== undefined && "state" in value) this.listener.onState(value);
    if (value === undefined) this.settle(id, fail("host.process", `Cannot read the monitor's answer to ${pending.method}`));
    else this.settle(id, ok(value));
    return null;
  }

  private settle(id: number, result: Res<unknown>): void {
    const pending = this.pending.get(id);
    if (pending === undefined) return;
    this.pending.delete(id);
    clearTimeout(pending.timer);
    pending.settle(result);
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

function parseObject(text: string) {
  try {
    return asObject(JSON.parse(text));
  } catch {
    return null; // the caller says what was wrong
  }
}
