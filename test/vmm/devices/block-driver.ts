// A driver of virtio-blk, and the two ways of disk I/O that its tests run with.
import { expect } from "bun:test";
import { VIRTIO_BLK } from "../../../src/ffi/abi/virtio_blk.ts";
import type { Epoll } from "../../../src/ffi/epoll.ts";
import type { BlockDevice } from "../../../src/vmm/devices/block/device.ts";
import type { DiskIo } from "../../../src/vmm/devices/block/disk-io.ts";
import { UringIo } from "../../../src/vmm/devices/block/uring.ts";
import { WorkerIo } from "../../../src/vmm/devices/block/worker-io.ts";
import { Driver, type ChainBuffer } from "../driver.ts";

export const { VIRTIO_BLK_T_IN: IN, VIRTIO_BLK_T_OUT: OUT, VIRTIO_BLK_T_FLUSH: FLUSH, VIRTIO_BLK_T_GET_ID: GET_ID, VIRTIO_BLK_T_DISCARD: DISCARD, VIRTIO_BLK_T_WRITE_ZEROES: ZEROES } = VIRTIO_BLK;
export const OK = 0, IOERR = 1, UNSUPP = 2;

export const ways: Record<string, (epoll: Epoll) => DiskIo> = {
  io_uring: (epoll) => UringIo.create(epoll)!,
  worker: (epoll) => new WorkerIo(epoll, (message) => { throw new Error(message); }),
};

export class Disk extends Driver {
  constructor(readonly path: string, device: BlockDevice, epoll: Epoll) {
    super(device, epoll);
  }
  /** Queues one request; the address of its status byte comes back. */
  request(type: number, sector: number, data: readonly ChainBuffer[] = [], table?: number): number {
    const header = new DataView(new ArrayBuffer(16));
    header.setUint32(0, type, true);
    header.setBigUint64(8, BigInt(sector), true);
    const status = this.put(new Uint8Array([0xff]));
    this.queues[0]!.add([{ gpa: this.put(new Uint8Array(header.buffer)), length: 16 }, ...data, { gpa: status, length: 1, write: true }], table);
    return status;
  }
  /** One request from start to end; its status, and the used length. */
  do(type: number, sector: number, data: readonly ChainBuffer[] = []): { status: number; length: number } {
    const status = this.request(type, sector, data);
    this.queues[0]!.kick();
    let used: { length: number }[] = [];
    this.run(() => (used = this.queues[0]!.takeUsed()).length > 0);
    return { status: this.bytes[status]!, length: used[0]!.length };
  }
  read(sector: number, length: number): Uint8Array {
    const gpa = this.alloc(length);
    expect(this.do(IN, sector, [{ gpa, length, write: true }])).toEqual({ status: OK, length: length + 1 });
    return this.bytes.slice(gpa, gpa + length);
  }
  /** Runs until `count` more requests are answered: a status byte is there before the used ring says so. */
  answered(count: number): void {
    let done = 0;
    this.run(() => (done += this.queues[0]!.takeUsed().length) === count);
  }
  /** Queues a discard or write-zeroes of whole sectors. */
  range(type: number, sector: number, sectors: number, flags = 0): number {
    const v = new DataView(new ArrayBuffer(16));
    v.setBigUint64(0, BigInt(sector), true);
    v.setUint32(8, sectors, true);
    v.setUint32(12, flags, true);
    return this.request(type, 0, [{ gpa: this.put(new Uint8Array(v.buffer)), length: 16 }]);
  }
}
