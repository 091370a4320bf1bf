// The main thread's side of disk I/O in a Worker (worker.ts).
import { Epoll, EPOLLIN, EventFd } from "../../../ffi/epoll.ts";
import { Mapping } from "../../../ffi/memory.ts";
import { workerUrl } from "../../../workers.ts";
import { MAX_CLIENTS, MAX_TAGS, type DiskClient, type DiskIo } from "./disk-io.ts";
import { DONE_WORDS, DONES, Field, Index, REQUEST_WORDS, REQUESTS, RING, SHARED_SIZE, STOPPED, type DiskWorkerStart } from "./shared.ts";

const HIGH = 2 ** 32;

export class WorkerIo implements DiskIo {
  readonly kind = "worker";
  private readonly shared = Mapping.anonymous(SHARED_SIZE);
  private readonly words = new Int32Array(this.shared.buffer());
  private readonly wake = new EventFd(0); // the Worker blocks on it
  private readonly done = new EventFd();
  private readonly clients: DiskClient[] = [];
  private readonly touched = new Uint8Array(MAX_CLIENTS);
  private tail = 0;

  private readonly worker = new Worker(workerUrl("disk"));

  constructor(private readonly epoll: Epoll, private readonly onFailure: (message: string) => void) {
    const start: DiskWorkerStart = { address: this.shared.address, wakeFd: this.wake.fd, doneFd: this.done.fd };
    this.worker.postMessage(start);
    epoll.add(this.done.fd, EPOLLIN, () => this.reap());
  }

  attach(client: DiskClient): number {
    if (this.clients.length === MAX_CLIENTS) throw new Error(`Cannot attach more than ${MAX_CLIENTS} disks`);
    return this.clients.push(client) - 1;
  }

  submit(client: number, op: number, fd: number, address: number, count: number, offset: number, tag: number): void {
    const w = this.words, at = REQUESTS + (this.tail & (RING - 1)) * REQUEST_WORDS;
    w[at + Field.OP] = op;
    w[at + Field.FD] = fd;
    this.wide(at + Field.ADDRESS, address);
    w[at + Field.COUNT] = count;
    this.wide(at + Field.OFFSET, offset);
    w[at + Field.DATA] = client * MAX_TAGS + tag;
    this.tail = (this.tail + 1) | 0;
  }

  flush(): void {
    if (Atomics.load(this.words, Index.SUBMIT_TAIL) === this.tail) return;
    Atomics.store(this.words, Index.SUBMIT_TAIL, this.tail);
    this.wake.signal();
  }

  private wide(at: number, value: number): void {
    const high = Math.floor(value / HIGH);
    this.words[at] = value - high * HIGH;
    this.words[at + 1] = high;
  }

  private reap(): void {
    this.done.drain();
    const w = this.words;
    if (Atomics.load(w, Index.STOP) === STOPPED) this.onFailure("Cannot go on with disk I/O: its Worker has ended");
    let head = w[Index.DONE_HEAD]!;
    for (const tail = Atomics.load(w, Index.DONE_TAIL); head !== tail; head = (head + 1) | 0) {
      const at = DONES + (head & (RING - 1)) * DONE_WORDS;
      const data = w[at]! >>> 0, client = Math.floor(data / MAX_TAGS);
      this.touched[client] = 1;
      this.clients[client]!.complete(data % MAX_TAGS, w[at + 1]!);
    }
    Atomics.store(w, Index.DONE_HEAD, head);
    this.flush(); // what complete() submitted anew
    for (let i = 0; i < this.clients.length; i++) {
      if (this.touched[i] === 0) continue;
      this.touched[i] = 0;
      this.clients[i]!.settled();
    }
  }

  /** Waits until the Worker has left the shared memory. */
  close(): void {
    this.epoll.remove(this.done.fd);
    Atomics.store(this.words, Index.STOP, 1);
    this.wake.signal();
    const wait = new Epoll();
    wait.add(this.done.fd, EPOLLIN, () => void this.done.drain());
    while (Atomics.load(this.words, Index.STOP) !== STOPPED) wait.poll();
    wait.close();
    this.worker.terminate();
    this.wake.close();
    this.done.close();
    this.shared.close();
  }
}
