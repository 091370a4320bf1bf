// Several disks of one machine that is being saved: each is synced, whoever of them reaps what the kernel has done.
import { afterEach, expect, test } from "bun:test";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { BlockDevice } from "../../../src/vmm/devices/block/device.ts";
import type { DiskClient, DiskIo } from "../../../src/vmm/devices/block/disk-io.ts";
import { Driver, NEEDS_RESET } from "../driver.ts";

const cleanup: (() => void)[] = [];
afterEach(() => cleanup.splice(0).forEach((step) => step()));

/** Where everything is done as soon as somebody flushes, and reaped by whom `reaper` says, as a ring may have it. */
class Ring implements DiskIo {
  readonly kind = "io_uring";
  private readonly clients: DiskClient[] = [];
  private submitted: { readonly client: number; readonly tag: number }[] = [];
  constructor(private readonly own: boolean) {}
  attach(client: DiskClient): number { return this.clients.push(client) - 1; }
  submit(client: number, _op: number, _fd: number, _address: number, _count: number, _offset: number, tag: number): void { this.submitted.push({ client, tag }); }

  /** Those of others, or the caller's own as well. */
  flush(caller: number): void {
    const done = this.submitted.filter(({ client }) => this.own || client !== caller);
    this.submitted = this.submitted.filter((one) => !done.includes(one));
    this.finish(done, caller);
  }

  /** From the main loop. */
  reap(): void { this.finish(this.submitted.splice(0), -1); }

  private finish(done: readonly { readonly client: number; readonly tag: number }[], caller: number): void {
    for (const { client, tag } of done) this.clients[client]!.complete(tag, 0);
    for (const client of new Set(done.map((one) => one.client))) {
      if (caller < 0) this.clients[client]!.settled();
      else if (client !== caller) this.clients[client]!.settleLater();
    }
  }
  close(): void {}
}

for (const [what, own] of [["another disk's request", false], ["its own request, at once", true]] as const)
  test(`a sync that is reaped by ${what} is told, while the queues are held`, () => {
    const epoll = new Epoll(), io = new Ring(own);
    cleanup.push(() => epoll.close());
    const drivers = ["disk0", "disk1", "disk2"].map((name) => new Driver(new BlockDevice({ name, readonly: false, serial: name, backing: { fd: 0, bytes: 1 << 20 } }, io), epoll).start());
    const devices = drivers.map(({ device }) => device as BlockDevice), synced: number[] = [];
    let idle = 0;
    for (const device of devices) device.quiesce(() => void idle++);
    for (const { pci } of drivers) pci.hold();
    devices.forEach((device, i) => device.sync((errno) => synced.push(errno === 0 ? i : -1)));
    for (const driver of drivers) driver.settle();
    io.reap();
    expect({ idle, synced: synced.sort() }).toEqual({ idle: 3, synced: [0, 1, 2] });
    for (const { pci } of drivers) pci.letGo();
    for (const device of devices) device.resume();
    for (const driver of drivers) driver.settle();
  });

test("a sync that another disk's request reaps is told, though the guest has broken the queue of its own", () => {
  const epoll = new Epoll(), io = new Ring(false);
  cleanup.push(() => epoll.close());
  const drivers = ["disk0", "disk1"].map((name) => new Driver(new BlockDevice({ name, readonly: false, serial: name, backing: { fd: 0, bytes: 1 << 20 } }, io), epoll).start());
  const [broken, other] = drivers.map(({ device }) => device as BlockDevice), { view, queues } = drivers[0]!;
  view.setUint16(queues[0]!.avail + 2, 500, true);
  queues[0]!.kick();
  drivers[0]!.settle();
  expect(drivers[0]!.status & NEEDS_RESET).toBe(NEEDS_RESET);
  const synced: string[] = [];
  broken!.sync((errno) => synced.push(`broken: ${errno}`));
  other!.sync((errno) => synced.push(`other: ${errno}`));
  drivers[0]!.settle();
  io.reap();
  expect(synced.sort()).toEqual(["broken: 0", "other: 0"]);
});
