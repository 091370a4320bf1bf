// A few monitors that are started and idle, so that the start of a process is off the path of a wake. Each listens at
// <data>/pool/<n>.sock; whoever takes one gets its socket renamed into the instance's folder. The pool holds a connection to
// each from before its start: a monitor that hears a hang-up before it has a guest ends, so none outlives a killed daemon. Whoever takes
// one goes on with that connection, and with its pidfd.
import { mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { err, ok } from "neverthrow";
import { fail, wrap, type Res } from "../../errors.ts";
import { EPOLLIN } from "../../ffi/epoll.ts";
import { closeFd, O_RDWR, openFd } from "../../ffi/fd.ts";
import { ProcessHandle, processStart } from "../../ffi/process.ts";
import { connectSeqpacket, listenSeqpacket, receivePacket, sendPacket } from "../../ffi/socket.ts";
import { MAX_PACKET, type PrepareParams, type Request } from "../../vmm/protocol.ts";
import { describeError, type Logger } from "../../log.ts";
import type { Poller, Watch } from "../poller.ts";
import { socketPath } from "./files.ts";
import { spawnVmm, spawnWith, type Taken } from "./spawn.ts";

/** Where a monitor comes from. */
export interface Monitors {
  /** A monitor for the instance whose folder is `dir`, with its control socket in there. It will be told to make a machine of that shape. */
  take(dir: string, shape: Shape): Res<Taken>;
}

export type Shape = PrepareParams;

export interface VmmPool extends Monitors {
  /** How many wait to be taken. */
  readonly idle: number;
  /** Ends those that nobody took. */
  close(): void;
}

export interface PoolOptions {
  /** As for spawnVmm(). */
  readonly command: readonly string[];
  /** How many are kept; 0 starts each when it is asked for. */
  readonly size: number;
  /** `<data>/pool`; made where it is missing, and emptied. */
  readonly dir: string;
  readonly poller: Poller;
  readonly logger: Logger;
}

/** Monitors that are started when they are asked for. */
export const spawning = (command: readonly string[]): Monitors => ({ take: (dir, { memoryBytes }) => spawnVmm(command, dir, memoryBytes) });

/** What an instance has unless told otherwise. */
const USUAL: Shape = { memoryBytes: 2 ** 30, vcpus: 2 };

/**
 * A start takes a processor for some 50 ms, and the wakes of a burst need it more: by then a few are over, on a slow host too.
 * Of a long burst's time it takes little, since one is started at a time.
 */
const REFILL_DELAY_MS = 2000;

/** Starts the first monitors at once. Those of an earlier daemon have ended, or end: their sockets go. */
export function openPool(options: PoolOptions): Res<VmmPool> {
  try {
    mkdirSync(options.dir, { recursive: true, mode: 0o700 });
    for (const name of readdirSync(options.dir)) rmSync(join(options.dir, name), { recursive: true, force: true });
    writeFileSync(logOf(options.dir), "");
  } catch (error) {
    return err(wrap("host.storage", `Cannot prepare the folder of idle monitors ${options.dir}`, error));
  }
  return ok(new Pool(options));
}

const logOf = (dir: string): string => join(dir, "vmm.log");

interface Idle { readonly socket: string; readonly process: ProcessHandle; readonly start: number; readonly connection: Connection; readonly shape: Shape }

class Pool implements VmmPool {
  private readonly waiting: Idle[] = [];
  private timer: ReturnType<typeof setTimeout> | null = null;
  private started = 0;
  private closed = false;
  /** What was asked for last is what is prepared for next: a host mostly has machines of a kind. */
  private usual = USUAL;
  /** The one that prepares itself, which the next start waits for. */
  private newest: Idle | null = null;

  constructor(private readonly options: PoolOptions) { while (this.refill()); }

  get idle(): number { return this.waiting.length; }

  take(dir: string, shape: Shape): Res<Taken> {
    this.usual = { memoryBytes: shape.memoryBytes, vcpus: shape.vcpus };
    this.refillLater();
    for (let next = this.pick(shape); next !== undefined; next = this.pick(shape)) {
      if (move(next, dir)) return ok({ pid: next.process.pid, start: next.start, held: { process: next.process, connection: next.connection.give() } });
      this.discard(next);
    }
    return spawnVmm(this.options.command, dir, shape.memoryBytes);
  }

  private pick(shape: Shape): Idle | undefined {
    const fitting = this.waiting.findIndex((one) => one.shape.memoryBytes === shape.memoryBytes && one.shape.vcpus === shape.vcpus);
    return this.waiting.splice(Math.max(fitting, 0), 1)[0];
  }

  close(): void {
    this.closed = true;
    if (this.timer !== null) clearTimeout(this.timer);
    for (const one of this.waiting.splice(0)) this.discard(one);
  }

  private refillLater(): void {
    if (this.timer !== null) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      if (this.newest === null || !this.waiting.includes(this.newest)) this.refill();
    }, REFILL_DELAY_MS);
    this.timer.unref();
  }

  /** Starts one, where one is missing. A start that fails is not repeated before the next take(): the same would come of it. */
  private refill(): boolean {
    if (this.closed || this.waiting.length >= this.options.size) return false;
    const one = this.start();
    if (one.isErr()) {
      this.options.logger.warn("pool.start_failed", { error: describeError(one.error) });
      return false;
    }
    this.waiting.push(this.newest = one.value);
    return true;
  }

  private onPrepared(connection: Connection): void {
    if (this.newest?.connection !== connection) return;
    this.newest = null;
    this.refill();
  }

  private start(): Res<Idle> {
    const { dir, command, poller } = this.options;
    const socket = join(dir, `${++this.started}.sock`), shape = this.usual;
    let listener = -1, connection: Connection | null = null;
    try {
      listener = listenSeqpacket(socket);
      const made = connection = new Connection(connectSeqpacket(socket), poller, { prepared: () => this.onPrepared(made), lost: () => this.onLost(made) });
      const idle = spawnWith(command, listener, logOf(dir), shape.memoryBytes).andThen(({ pid, start }) => {
        const process = ProcessHandle.open(pid, start);
        return process === null ? fail("host.process", `Cannot start an idle monitor: it ended at once; ${logOf(dir)} may say why`) : ok({ socket, process, start, connection: made, shape });
      });
      if (idle.isErr()) this.drop(socket, made);
      else made.prepare(shape);
      return idle;
    } catch (error) {
      if (connection !== null) this.drop(socket, connection);
      return err(wrap("host.process", "Cannot start an idle monitor", error));
    } finally {
      if (listener >= 0) closeFd(listener);
    }
  }

  private onLost(connection: Connection): void {
    const at = this.waiting.findIndex((one) => one.connection === connection);
    if (at < 0) return;
    const [gone] = this.waiting.splice(at, 1) as [Idle];
    this.discard(gone);
    this.options.logger.warn("pool.monitor_ended", { pid: gone.process.pid, log: logOf(this.options.dir) });
  }

  /** The hang-up ends it, where it still runs. */
  private discard({ socket, process, connection }: Idle): void {
    this.drop(socket, connection);
    process.close();
  }

  private drop(socket: string, connection: Connection): void {
    connection.close();
    rmSync(socket, { force: true });
  }
}

/** False where the monitor has ended, or its socket can't be moved there. */
function move({ socket, process, start }: Idle, dir: string): boolean {
  try {
    // Its pidfd tells of its end only once the last of its threads has gone.
    if (processStart(process.pid) !== start) return false;
    renameInto(socket, dir);
    return true;
  } catch {
    return false; // what is wrong with the folder is said by spawnVmm(), which is tried next
  }
}

/** An instance that was started before has its folder. */
function renameInto(socket: string, dir: string): void {
  try {
    renameSync(socket, socketPath(dir));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    renameSync(socket, socketPath(dir));
  }
}

/** Our end of a connection that shows that we live, and on which a monitor is told what to make ahead. */
class Connection {
  private readonly watch: Watch;
  private open = true;

  constructor(private readonly fd: number, poller: Poller, on: { prepared(): void; lost(): void }) {
    const buffer = new Uint8Array(MAX_PACKET);
    this.watch = poller.watch(fd, EPOLLIN, () => {
      const packet = receivePacket(fd, buffer);
      if (packet === null) on.lost();
      // A monitor without a guest only answers, and `prepare` is all that it is asked.
      else if (packet !== "again") on.prepared();
    });
  }

  /** The descriptor is the caller's from here on. The answer to `prepare` may still come on it, which nobody waits for. */
  give(): number {
    this.watch.close();
    this.open = false;
    return this.fd;
  }

  /** One that can't prepare, and answers with an error, makes all of it when it is asked for it. */
  prepare(shape: Shape): void {
    let kvm = -1;
    try {
      kvm = openFd("/dev/kvm", O_RDWR);
      const request: Request<"prepare"> = { id: 0, method: "prepare", params: shape, fds: ["kvm"] };
      sendPacket(this.fd, Buffer.from(JSON.stringify(request)), [kvm]);
    } catch {
      // whoever is to boot a guest without KVM says so
    } finally {
      if (kvm >= 0) closeFd(kvm);
    }
  }

  close(): void {
    if (!this.open) return;
    this.open = false;
    this.watch.close();
    closeFd(this.fd);
  }
}
