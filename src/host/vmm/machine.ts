// One VMM as the daemon holds it: its process, its control connection, and the news of both in one place.
// Detached or killed with the daemon, the VMM runs on; the next daemon adopts it by process id and socket.
import { err, errAsync, ok } from "neverthrow";
import { DormouseError, fail, messageOf, type AsyncRes, type Res } from "../../errors.ts";
import { EPOLLIN } from "../../ffi/epoll.ts";
import { ProcessHandle, SIGKILL } from "../../ffi/process.ts";
import type { Method, Methods, VmmStatus } from "../../vmm/protocol.ts";
import type { Poller, Watch } from "../poller.ts";
import { VmmClient, type AnswerFds, type ClientListener, type RequestOptions } from "./client.ts";
import { socketPath } from "./files.ts";
import type { DiskFailure } from "./parse.ts";
import type { HeldMonitor, Taken } from "./spawn.ts";

/** How often a connection that broke is made anew before the VMM is given up for dead. */
const RECONNECTS = 5;
const RECONNECT_DELAY_MS = 200;

export interface MachineListener {
  onState(status: VmmStatus): void;
  /** A `save` under way has stopped reading the TAP. */
  onDeaf?(): void;
  /** The guest was told of it. */
  onDiskFailed?(failure: DiskFailure): void;
  /** Once: the process has ended. status.json says how its guest did. */
  onEnded(): void;
  /** The process is there and can't be talked to. It is left as it is. */
  onUnreachable(reason: string): void;
}

export class Machine {
  private client: VmmClient | null = null;
  private readonly processWatch: Watch;
  private over = false;
  private failures = 0;
  /** Resolves when the process has ended (never for one that was detached). */
  readonly ended: Promise<void>;
  private markEnded!: () => void;

  private constructor(private readonly process: ProcessHandle, private readonly dir: string, private readonly poller: Poller, private readonly listener: MachineListener) {
    this.ended = new Promise((resolve) => (this.markEnded = resolve));
    this.processWatch = poller.watch(process.fd, EPOLLIN, () => this.onProcessEnded());
  }

  /**
   * The VMM `spawned` of the instance whose folder is `dir`, connected. Null where the process is gone. An Err leaves
   * the process as it is. Takes over what is held of it.
   */
  static attach(spawned: Taken, dir: string, poller: Poller, listener: MachineListener): Res<Machine | null> {
    let handle: ProcessHandle | null;
    try {
      handle = spawned.held?.process ?? ProcessHandle.open(spawned.pid, spawned.start);
    } catch (error) {
      return fail("host.process", `Cannot watch the monitor ${spawned.pid}: ${messageOf(error)}`, { cause: error });
    }
    if (handle === null) return ok(null);
    const machine = new Machine(handle, dir, poller, listener);
    const connected = machine.connect(spawned.held);
    if (connected.isOk()) return ok(machine);
    machine.detach();
    return err(connected.error);
  }

  get pid(): number { return this.process.pid; }

  request<M extends Method>(method: M, params: Methods[M]["params"], options?: RequestOptions): AsyncRes<Methods[M]["result"]> {
    if (this.client === null) return errAsync(new DormouseError("host.process", `Cannot send ${method} to the monitor: there is no connection to it`));
    return this.client.request(method, params, options);
  }

  /** As request(), for an answer that brings descriptors: they are the caller's. */
  requestFds<M extends Method>(method: M, params: Methods[M]["params"], options?: RequestOptions): AsyncRes<{ readonly result: Methods[M]["result"]; readonly fds: AnswerFds }> {
    if (this.client === null) return errAsync(new DormouseError("host.process", `Cannot send ${method} to the monitor: there is no connection to it`));
    return this.client.requestFds(method, params, options);
  }

  /** Ends the process at once, whatever it does. `ended` tells when it has. */
  kill(): void {
    if (!this.over) this.process.signal(SIGKILL);
  }

  /** Lets go of the VMM, which runs on. */
  detach(): void {
    if (this.over) return;
    this.over = true;
    this.release();
  }

  private connect(held?: HeldMonitor): Res<void> {
    const listener: ClientListener = {
      onState: (status) => { if (!this.over) this.listener.onState(status); },
      onDeaf: () => { if (!this.over) this.listener.onDeaf?.(); },
      onDiskFailed: (failure) => { if (!this.over) this.listener.onDiskFailed?.(failure); },
      onClosed: (reason) => this.onDisconnected(reason),
    };
    const client = held === undefined ? VmmClient.connect(socketPath(this.dir), this.poller, listener) : VmmClient.over(held.connection, this.poller, listener);
    return client.map((client) => { this.client = client; });
  }

  /** Mostly the process is ending, and its pidfd says so in a moment. Otherwise a new connection replaces this one. */
  private onDisconnected(reason: string): void {
    this.client = null;
    if (this.over) return;
    if (++this.failures > RECONNECTS) return this.listener.onUnreachable(reason);
    setTimeout(() => {
      if (this.over || this.client !== null) return;
      const connected = this.connect();
      if (connected.isErr()) this.onDisconnected(connected.error.message);
      else this.refresh();
    }, RECONNECT_DELAY_MS);
  }

  /** What happened while there was no connection. */
  private refresh(): void {
    this.request("status", null).match(
      () => { this.failures = 0; },
      (error) => { if (!this.over && this.client !== null) this.listener.onUnreachable(error.message); },
    );
  }

  private onProcessEnded(): void {
    if (this.over) return;
    this.over = true;
    this.release();
    this.markEnded();
    this.listener.onEnded();
  }

  private release(): void {
    this.client?.close();
    this.client = null;
    this.processWatch.close();
    this.process.close();
  }
}
