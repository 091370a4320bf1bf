// A monitor process of its own with a tiny guest in it, driven over its control socket; its guest's memory seen from outside.
import { closeSync, mkdirSync, openSync, readSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { closeFd, O_CREAT, O_RDONLY, O_RDWR, O_TRUNC, openFd } from "../../src/ffi/fd.ts";
import type { Poller } from "../../src/host/poller.ts";
import { VmmClient } from "../../src/host/vmm/client.ts";
import { socketPath } from "../../src/host/vmm/files.ts";
import { spawnVmm, vmmCommand } from "../../src/host/vmm/spawn.ts";
import type { BootParams, LoadParams, RestoreParams, RestoreResult, SaveParams, VmmStatus } from "../../src/vmm/protocol.ts";
import type { AsyncRes, Res } from "../../src/errors.ts";
import { findGuestRam } from "../support/guest-ram.ts";
import { until } from "../support/until.ts";
import { tinyGuest } from "./guests/build.ts";

export const MEMORY = 64 * 2 ** 20;
const DISK_BYTES = 2 ** 20;
const TIMEOUT_MS = 60_000;
/** Where the ticker keeps its words, and what it fills. */
const LOOP = 0x200000, TICKS = 0x200008, ORDER = 0x200010, ORDERS = 0x200018, MAGIC = 0x200020;
export const FILLED = 0x2000000;

const SHAPE: Pick<BootParams, "memoryBytes" | "vcpus" | "xsave" | "disks"> = { memoryBytes: MEMORY, vcpus: 1, xsave: true, disks: [{ readonly: false, serial: "upper" }] };

export class Monitor {
  readonly statuses: VmmStatus[] = [];
  deaf = 0;
  closed = "";
  private base = -1;
  private constructor(readonly dir: string, readonly pid: number, readonly client: VmmClient) {}

  static start(dir: string, poller: Poller): Monitor {
    mkdirSync(dir, { recursive: true });
    makeDisk(join(dir, "disk"));
    const { pid } = spawnVmm(vmmCommand(), dir)._unsafeUnwrap();
    let monitor: Monitor | null = null;
    const client = VmmClient.connect(socketPath(dir), poller, {
      onState: (status) => void monitor!.statuses.push(status), onDeaf: () => void monitor!.deaf++, onClosed: (reason) => void (monitor!.closed = reason),
    });
    monitor = new Monitor(dir, pid, client._unsafeUnwrap());
    return monitor;
  }

  /** Descriptors of disks after the first, by name. */
  disks: Readonly<Record<string, string>> = {};

  private fds(more: Readonly<Record<string, number>>): Record<string, number> {
    const file = (name: string) => openFd(join(this.dir, name), O_RDWR | O_CREAT);
    return { disk0: file("disk"), app0: file("app.0.log"), app1: file("app.1.log"), vmm0: file("vmm.0.log"), vmm1: file("vmm.1.log"), status: file("status.json"), ...Object.fromEntries(Object.entries(this.disks).map(([name, path]) => [name, openFd(path, O_RDWR)])), ...more };
  }

  async boot(guest: string, change: Partial<typeof SHAPE> = {}): Promise<void> {
    const fds = this.fds({ kvm: openFd("/dev/kvm", O_RDWR), kernel: tinyGuest(guest).fd, initrd: openFd("/dev/null", O_RDONLY), config: openFd("/dev/null", O_RDONLY) });
    const answer = await this.client.request("boot", { ...SHAPE, cmdline: "", ...change }, { fds, timeoutMs: TIMEOUT_MS });
    Object.values(fds).forEach(closeFd);
    answer._unsafeUnwrap();
  }

  async prepare(memoryBytes: number, vcpus: number) {
    const kvm = openFd("/dev/kvm", O_RDWR);
    const answer = this.client.request("prepare", { memoryBytes, vcpus }, { fds: { kvm }, timeoutMs: TIMEOUT_MS });
    closeFd(kvm);
    return answer;
  }

  /** Into `<files>/machine` and `memory`, which may be something else than plain files. */
  async save(files: string, params: SaveParams) {
    const fds = openGeneration(files);
    const answer = this.client.request("save", params, { fds, timeoutMs: TIMEOUT_MS });
    Object.values(fds).forEach(closeFd);
    return answer;
  }

  /** `folders` and their generations, newest first. */
  async restore(folders: readonly string[], generations: readonly string[], change: Partial<LoadParams & RestoreParams> = {}): Promise<Res<RestoreResult>> {
    const { memoryBytes, vcpus, xsave, ...devices } = { ...SHAPE, identity: { hostname: "box" }, deadlineMs: 10_000, ...change };
    const loading = this.load(folders, { memoryBytes, vcpus, xsave, generations }), fds = this.fds({});
    const answer = this.client.request("restore", devices, { fds, timeoutMs: TIMEOUT_MS });
    Object.values(fds).forEach(closeFd);
    return loading.andThen(() => answer);
  }

  /** The first half of restore(). */
  load(folders: readonly string[], params: Partial<LoadParams> & Pick<LoadParams, "generations">): AsyncRes<null> {
    const chain = folders.flatMap((folder, i): [string, number][] => [[`machine${i}`, openFd(join(folder, "machine"), O_RDONLY)], [`memory${i}`, openFd(join(folder, "memory"), O_RDONLY)]]);
    const fds = { kvm: openFd("/dev/kvm", O_RDWR), ...Object.fromEntries(chain) }, { memoryBytes, vcpus, xsave } = SHAPE;
    const answer = this.client.request("load", { memoryBytes, vcpus, xsave, ...params }, { fds, timeoutMs: TIMEOUT_MS });
    Object.values(fds).forEach(closeFd);
    return answer;
  }

  // --- the ticker's memory

  get loop(): number { return Number(this.word(LOOP)); }
  get ticks(): number { return Number(this.word(TICKS)); }
  get orders(): number { return Number(this.word(ORDERS)); }
  order(what: number): void {
    const word = new BigInt64Array([BigInt(what)]);
    this.access((fd, at) => writeSync(fd, new Uint8Array(word.buffer), 0, 8, at + ORDER));
  }

  /** Writes a word of RAM as the guest would; `offset` counts RAM alone, the 32-bit hole takes no place. */
  poke(offset: number, value: bigint): void {
    const word = new BigUint64Array([value]);
    this.access((fd, at) => writeSync(fd, new Uint8Array(word.buffer), 0, 8, at + offset));
  }

  word(gpa: number): bigint {
    const word = new BigUint64Array(1);
    this.access((fd, at) => readSync(fd, new Uint8Array(word.buffer), 0, 8, at + gpa));
    return word[0]!;
  }

  private access(use: (fd: number, base: number) => number): void {
    if (this.base < 0) this.base = this.findMemory();
    const fd = openSync(`/proc/${this.pid}/mem`, "r+");
    try {
      use(fd, this.base);
    } finally {
      closeSync(fd);
    }
  }

  /** The ticker has signed its memory. */
  private findMemory(): number {
    const fd = openSync(`/proc/${this.pid}/mem`, "r");
    try {
      const base = findGuestRam(this.pid, fd, MAGIC, "TICKER!\0");
      if (base >= 0) return base;
    } finally {
      closeSync(fd);
    }
    throw new Error("Cannot find the guest's memory: it has not signed it yet");
  }

  /** Ends it; nothing that it had open is held any more. */
  async end(): Promise<void> {
    try {
      process.kill(this.pid, "SIGKILL");
    } catch {
      // it has ended by itself
    }
    this.client.close();
  }
}

/** An empty one. */
export function makeDisk(path: string): void {
  writeFileSync(path, "");
  truncateSync(path, DISK_BYTES);
}

function openGeneration(folder: string): { machine: number; memory: number } {
  mkdirSync(folder, { recursive: true });
  const file = (name: string) => openFd(join(folder, name), O_RDWR | O_CREAT | O_TRUNC);
  return { machine: file("machine"), memory: file("memory") };
}

/** The ticker counts on, in its loop and by its timer. */
export async function runs(one: Monitor): Promise<void> {
  const [loop, ticks] = await until("the guest's memory", () => [one.loop, one.ticks] as const);
  await until("the guest to count", () => one.loop > loop && one.ticks > ticks + 2);
}

/** Gives the ticker an order, and waits until it is done. */
export async function fill(one: Monitor, what: number): Promise<void> {
  const before = one.orders;
  one.order(what);
  await until("the order", () => one.orders > before);
}
