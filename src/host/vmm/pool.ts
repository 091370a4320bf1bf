// A few monitors that are started and idle, so that the start of a process is off the path of a wake. Each listens at
// <data>/pool/<n>.sock; whoever takes one gets its socket renamed into the instance's folder. The pool holds a connection to
// each from before its start: a monitor that hears a hang-up before it has a guest ends, so none outlives a killed daemon.
import { mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { err, ok } from "neverthrow";
import { wrap, type Res } from "../../errors.ts";
import { EPOLLIN } from "../../ffi/epoll.ts";
import { closeFd, O_RDWR, openFd } from "../../ffi/fd.ts";
import { processStart } from "../../ffi/process.ts";
import { connectSeqpacket, listenSeqpacket, receivePacket, sendPacket } from "../../ffi/socket.ts";
import { MAX_PACKET, type PrepareParams, type Request } from "../../vmm/protocol.ts";
import { describeError, type Logger } from "../../log.ts";
import type { Poller, Watch } from "../poller.ts";
import { socketPath } from "./files.ts";
import { spawnVmm, spawnWith, type Spawned } from "./spawn.ts";

/** Where a monitor comes from. */
export interface Monitors {
  /** A monitor for the instance whose folder is `dir`, with its control socket in there. It will be told to make a machine of that shape. */
  take(dir: string, shape: Shape): Res<Spawned>;
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
export const spawning = (command: readonly string[]): Monitors => ({ take: (dir) => spawnVmm(command, dir) });

/** What an instance has unless told otherwise. */
const USUAL: Shape = { memoryBytes: 2 ** 30, vcpus: 2 };

/** A start takes a processor for some 50 ms, and the wakes of a burst need it more: by then they are over, on a slow host too. */
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

interface Idle { readonly socket: string; readonly spawned: Spawned; readonly connection: Connection; readonly shape: Shape }

class Pool implements VmmPool {
  private readonly waiting: Idle[] = [];
  /** To the idle ones, and to those that were taken until somebody else's connection has replaced it. */
  private readonly connections = new Set<Connection>();
  private timer: ReturnType<typeof setTimeout> | null = null;
  private started = 0;
  private closed = false;
  /** What was asked for last is what is prepared for next: a host mostly has machines of a kind. */
  private usual = USUAL;

  constructor(private readonly options: PoolOptions) { this.refill(); }

  get idle(): number { return this.waiting.length; }

  take(dir: string, shape: Shape): Res<Spawned> {
    this.usual = { memoryBytes: shape.memoryBytes, vcpus: shape.vcpus };
    this.refillLater();
    for (let next = this.pick(shape); next !== undefined; next = this.pick(shape)) {
      if (move(next, dir)) return ok(next.spawned);
      this.discard(next);
    }
    return spawnVmm(this.options.command, dir);
  }

  private pick(shape: Shape): Idle | undefined {
    const fitting = this.waiting.findIndex((one) => one.shape.memoryBytes === shape.memoryBytes && one.shape.vcpus === shape.vcpus);
    return this.waiting.splice(Math.max(fitting, 0), 1)[0];
  }

  close(): void {
    this.closed = true;
    if (this.timer !== null) clearTimeout(this.timer);
    for (const one of this.waiting.splice(0)) this.discard(one);
    for (const connection of this.connections) this.drop(connection);
  }

  private refillLater(): void {
    if (this.timer !== null) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      this.refill();
    }, REFILL_DELAY_MS);
    this.timer.unref();
  }

  /** A start that fails is not repeated before the next take(): the same would come of it. */
  private refill(): void {
    while (!this.closed && this.waiting.length < this.options.size) {
      const one = this.start();
      if (one.isErr()) return this.options.logger.warn("pool.start_failed", { error: describeError(one.error) });
      this.waiting.push(one.value);
    }
  }

  private start(): Res<Idle> {
    const { dir, command, poller } = this.options;
    const socket = join(dir, `${++this.started}.sock`), shape = this.usual;
    let listener = -1;
    try {
      listener = listenSeqpacket(socket);
      const connection = new Connection(connectSeqpacket(socket), poller, () => this.onLost(connection));
      this.connections.add(connection);
      const spawned = spawnWith(command, listener, logOf(dir));
      if (spawned.isErr()) this.discard({ socket, connection });
      else connection.prepare(shape);
      return spawned.map((process) => ({ socket, spawned: process, connection, shape }));
    } catch (error) {
      return err(wrap("host.process", "Cannot start an idle monitor", error));
    } finally {
      if (listener >= 0) closeFd(listener);
    }
  }

  /** Of one that was taken, because it has another connection now; of an idle one, because it has ended. */
  private onLost(connection: Connection): void {
    this.drop(connection);
    const at = this.waiting.findIndex((one) => one.connection === connection);
    if (at < 0) return;
    const [gone] = this.waiting.splice(at, 1) as [Idle];
    this.discard(gone);
    this.options.logger.warn("pool.monitor_ended", { pid: gone.spawned.pid, log: logOf(this.options.dir) });
  }

  /** The hang-up ends it, where it still runs. */
  private discard({ socket, connection }: Pick<Idle, "socket" | "connection">): void {
    this.drop(connection);
    rmSync(socket, { force: true });
  }

  private drop(connection: Connection): void {
    connection.close();
    this.connections.delete(connection);
  }
}

/** False where the monitor has ended, or its socket can't be moved there. */
function move({ socket, spawned }: Idle, dir: string): boolean {
  try {
    if (processStart(spawned.pid) !== spawned.start) return false;
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    renameSync(socket, socketPath(dir));
    return true;
  } catch {
    return false; // what is wrong with the folder is said by spawnVmm(), which is tried next
  }
}

/** Our end of a connection that shows that we live, and on which a monitor is told what to make ahead. */
class Connection {
  private readonly watch: Watch;
  private open = true;

  constructor(private readonly fd: number, poller: Poller, lost: () => void) {
    const buffer = new Uint8Array(MAX_PACKET);
    // A monitor without a guest only answers, and one with a guest speaks to its newest connection.
    this.watch = poller.watch(fd, EPOLLIN, () => { if (receivePacket(fd, buffer) === null) lost(); });
  }

  /** Nobody waits for the answer: one that can't prepare makes all of it when it is asked for it. */
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
