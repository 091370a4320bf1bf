// What queue and block device cost above the bare system call: 4 KiB reads out of the page cache, 80 requests at a time, through a
// real virtio-blk with a driver's side in the same process; against preadv with the same buffers. Natively, no KVM needed.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Epoll } from "../src/ffi/epoll.ts";
import { closeFd, O_CREAT, O_RDWR, openFd, pwriteAll } from "../src/ffi/fd.ts";
import { SYS } from "../src/ffi/abi/syscalls.ts";
import { syscall } from "../src/ffi/syscall.ts";
import { Mapping } from "../src/ffi/memory.ts";
import { BlockDevice } from "../src/vmm/devices/block/device.ts";
import type { DiskClient, DiskIo } from "../src/vmm/devices/block/disk-io.ts";
import { Op } from "../src/vmm/devices/block/shared.ts";
import { UringIo } from "../src/vmm/devices/block/uring.ts";
import { GuestMemory } from "../src/vmm/memory.ts";
import { Iovecs } from "../src/vmm/virtio/iovecs.ts";
import { Queue } from "../src/vmm/virtio/queue.ts";

interface Metric { median: number; unit: string; goal: number | null; met: boolean | null; runs: number }

const FILE = 64 * 2 ** 20, MEMORY = 64 * 2 ** 20;
const REQUESTS = 80, CHUNK = 4096, SIZE = 256;
const DESC = 0x1000, AVAIL = 0x3000, USED = 0x4000, BUFFERS = 0x10_0000;
const ROUNDS = 500, RUNS = 41; // short ones, in turn: what else the machine does hits all alike
const GOAL_NS = 200;

/** Answers at once, so that the queue's and device's own cost shows. */
abstract class AtOnce implements DiskIo {
  readonly kind = "worker";
  protected client: DiskClient | null = null;
  attach(client: DiskClient): number {
    this.client = client;
    return 0;
  }
  abstract submit(client: number, op: number, fd: number, address: number, count: number, offset: number, tag: number): void;
  flush(): void {}
  close(): void {}
}

class PreadvIo extends AtOnce {
  submit(_client: number, op: number, fd: number, address: number, count: number, offset: number, tag: number): void {
    if (op !== Op.READV) throw new Error("only reads are measured");
    this.client!.complete(tag, syscall(SYS.preadv, fd, address, count, offset, 0));
  }
}

/** Nothing at all: what is left is queue and device. */
class NoIo extends AtOnce {
  submit(_client: number, _op: number, _fd: number, _address: number, _count: number, _offset: number, tag: number): void {
    this.client!.complete(tag, CHUNK);
  }
}

class Rig {
  private readonly mapping = Mapping.anonymous(MEMORY);
  private readonly view = new DataView(this.mapping.buffer());
  private readonly queue: Queue;
  private available = 0;
  private sector = 0;
  interrupts = 0;

  constructor(private readonly device: BlockDevice) {
    const memory = GuestMemory.of(this.mapping);
    this.queue = new Queue(0, SIZE, memory, device.arena(), { interrupt: () => void this.interrupts++, broken: (_q, reason) => { throw new Error(reason); } });
    Object.assign(this.queue, { desc: DESC, avail: AVAIL, used: USED });
    const wrong = this.queue.activate(true, true);
    if (wrong !== null) throw new Error(wrong);
    device.activate({ memory, features: 0n, queues: [this.queue], configChanged() {}, fail(reason) { throw new Error(reason); }, again() {}, resetDone() {} });
    for (let r = 0; r < REQUESTS; r++) this.describe(r);
  }

  private describe(request: number): void {
    const buffer = BUFFERS + request * 0x4000, v = this.view;
    const desc = (i: number, gpa: number, length: number, flags: number, next: number) => {
      const at = DESC + i * 16;
      v.setBigUint64(at, BigInt(gpa), true);
      v.setUint32(at + 8, length, true);
      v.setUint16(at + 12, flags, true);
      v.setUint16(at + 14, next, true);
    };
    desc(request * 3, buffer, 16, 1, request * 3 + 1);
    desc(request * 3 + 1, buffer + 4096, CHUNK, 3, request * 3 + 2);
    desc(request * 3 + 2, buffer + 64, 1, 2, 0);
  }

  /** The driver's part: makes all requests available. */
  private offer(): void {
    const v = this.view;
    for (let r = 0; r < REQUESTS; r++) {
      v.setUint32(BUFFERS + r * 0x4000 + 8, this.sector & 0x1ffff & ~7, true);
      this.sector += 56;
      v.setUint16(AVAIL + 4 + (this.available & (SIZE - 1)) * 2, r * 3, true);
      this.available = (this.available + 1) & 0xffff;
    }
    v.setUint16(AVAIL + 2, this.available, true);
  }

  round(): void {
    this.offer();
    this.device.onNotify();
  }

  /** Waits for what did not complete at once. */
  finish(epoll: Epoll): void {
    while (this.device.inFlight > 0) epoll.poll();
    if (this.device.stats.errors > 0) throw new Error("reads failed");
  }
  offerOnly(): void { this.offer(); }
}

function measure(work: () => void, after: () => void): number {
  const start = Bun.nanoseconds();
  for (let i = 0; i < ROUNDS; i++) work();
  after();
  return (Bun.nanoseconds() - start) / (ROUNDS * REQUESTS);
}

const median = (values: number[]): number => values.sort((a, b) => a - b)[Math.floor(values.length / 2)]!;

/** The bare call: the same reads, from iovecs that stand ready. */
function bare(fd: number): () => void {
  const memory = Mapping.anonymous(MEMORY), iovecs = new Iovecs(REQUESTS);
  for (let r = 0; r < REQUESTS; r++) iovecs.set(r, memory.address + BUFFERS + r * 0x4000 + 4096, CHUNK);
  let sector = 0;
  return () => {
    for (let r = 0; r < REQUESTS; r++) {
      syscall(SYS.preadv, fd, iovecs.at(r), 1, (sector & 0x1ffff & ~7) * 512, 0);
      sector += 56;
    }
  };
}

function rig(fd: number, io: DiskIo): Rig {
  return new Rig(new BlockDevice({ name: "bench", readonly: true, serial: "", backing: { fd, bytes: FILE } }, io));
}

export async function run(): Promise<Record<string, Metric>> {
  const dir = mkdtempSync(join(tmpdir(), "dormouse-bench-"));
  const fd = openFd(join(dir, "disk"), O_RDWR | O_CREAT);
  const epoll = new Epoll();
  try {
    pwriteAll(fd, new Uint8Array(FILE).fill(1), 0);
    const uring = UringIo.create(epoll);
    const rigs = { preadv: rig(fd, new PreadvIo()), uring: uring === null ? null : rig(fd, uring), queue: rig(fd, new NoIo()) };
    const call = bare(fd);
    const samples: Record<string, number[]> = { bare: [], preadv: [], uring: [], queue: [] };
    for (let i = 0; i < RUNS + 1; i++) {
      const one = {
        bare: measure(call, () => {}), preadv: measure(() => rigs.preadv.round(), () => rigs.preadv.finish(epoll)),
        uring: rigs.uring === null ? Number.NaN : measure(() => rigs.uring!.round(), () => rigs.uring!.finish(epoll)),
        queue: measure(() => rigs.queue.round(), () => rigs.queue.finish(epoll)),
      };
      if (i > 0) for (const [name, value] of Object.entries(one)) samples[name]!.push(value); // the first run warms up
    }
    uring?.close();
    const metric = (value: number, goal: number | null = null): Metric => ({ median: Math.round(value), unit: "ns/request", goal, met: goal === null ? null : value <= goal, runs: RUNS });
    const above = samples["preadv"]!.map((value, i) => value - samples["bare"]![i]!);
    return {
      above_bare_call: metric(median(above), GOAL_NS),
      bare_preadv: metric(median(samples["bare"]!)),
      block_preadv: metric(median(samples["preadv"]!)),
      block_io_uring: metric(median(samples["uring"]!)),
      queue_and_device_only: metric(median(samples["queue"]!)),
    };
  } finally {
    closeFd(fd);
    epoll.close();
    rmSync(dir, { recursive: true });
  }
}
