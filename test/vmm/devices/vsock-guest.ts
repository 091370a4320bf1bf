// A guest's side of virtio-vsock, for tests: its driver's queues, and packets as it sends and gets them.
import { expect } from "bun:test";
import { VIRTIO_VSOCK, virtio_vsock_hdr } from "../../../src/ffi/abi/virtio_vsock.ts";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { closeFd, tryRead } from "../../../src/ffi/fd.ts";
import { streamPair } from "../../../src/ffi/socket.ts";
import { VsockDevice } from "../../../src/vmm/devices/vsock/device.ts";
import { Driver } from "../driver.ts";

export const { VIRTIO_VSOCK_OP_REQUEST: REQUEST, VIRTIO_VSOCK_OP_RESPONSE: RESPONSE, VIRTIO_VSOCK_OP_RST: RST, VIRTIO_VSOCK_OP_SHUTDOWN: SHUTDOWN, VIRTIO_VSOCK_OP_RW: RW, VIRTIO_VSOCK_OP_CREDIT_UPDATE: CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_REQUEST: CREDIT_REQUEST } = VIRTIO_VSOCK;
const H = virtio_vsock_hdr.at, HEADER = virtio_vsock_hdr.size;
export const CID = 3, PORT = 1024;

const cleanup: (() => void)[] = [];
/** Call in afterEach. */
export function cleanUp(): void { for (const step of cleanup.splice(0).reverse()) step(); }

export interface Packet { readonly op: number; readonly from: number; readonly to: number; readonly flags: number; readonly forwarded: number; readonly data: string }

/** The guest's driver: 64 receive buffers of 4 KiB that come around. */
export class Guest {
  readonly epoll = new Epoll();
  readonly device = new VsockDevice(CID, this.epoll);
  readonly driver = new Driver(this.device, this.epoll).start();
  private readonly inbox: Packet[] = [];
  private readonly buffers = new Map<number, number>();
  private readonly out = this.driver.alloc(1 << 16);

  constructor(buffers = 64) {
    for (let i = 0; i < buffers; i++) {
      const gpa = this.driver.alloc(4096);
      this.buffers.set(this.driver.queues[0]!.add([{ gpa, length: 4096, write: true }]), gpa);
    }
    this.driver.queues[0]!.kick();
    cleanup.push(() => this.epoll.close());
  }

  send(op: number, hostPort: number, options: { data?: Uint8Array; flags?: number; alloc?: number; forwarded?: number; length?: number; type?: number; cid?: number; guestPort?: number } = {}): void {
    const { data = new Uint8Array(0) } = options;
    const v = this.driver.view, at = this.out;
    v.setBigUint64(at + H.src_cid, BigInt(options.cid ?? CID), true);
    v.setBigUint64(at + H.dst_cid, 2n, true);
    v.setUint32(at + H.src_port, options.guestPort ?? PORT, true);
    v.setUint32(at + H.dst_port, hostPort, true);
    v.setUint32(at + H.len, options.length ?? data.length, true);
    v.setUint16(at + H.type, options.type ?? 1, true);
    v.setUint16(at + H.op, op, true);
    v.setUint32(at + H.flags, options.flags ?? 0, true);
    v.setUint32(at + H.buf_alloc, options.alloc ?? 65_536, true);
    v.setUint32(at + H.fwd_cnt, options.forwarded ?? 0, true);
    this.driver.bytes.set(data, at + HEADER);
    const queue = this.driver.queues[1]!;
    queue.add([{ gpa: at, length: HEADER }, ...(data.length > 0 ? [{ gpa: at + HEADER, length: data.length }] : [])]);
    queue.kick();
    this.driver.run(() => queue.takeUsed().length > 0);
  }

  /** The next packet from the host. */
  next(): Packet {
    this.driver.run(() => this.collect() > 0);
    return this.inbox.shift()!;
  }

  /** All packets there are now. */
  rest(): Packet[] {
    this.driver.settle();
    this.collect();
    return this.inbox.splice(0);
  }

  private collect(): number {
    const queue = this.driver.queues[0]!, v = this.driver.view;
    for (const { id, length } of queue.takeUsed()) {
      const at = this.buffers.get(id)!;
      expect(length).toBe(HEADER + v.getUint32(at + H.len, true));
      this.inbox.push({
        op: v.getUint16(at + H.op, true), from: v.getUint32(at + H.src_port, true), to: v.getUint32(at + H.dst_port, true), flags: v.getUint32(at + H.flags, true),
        forwarded: v.getUint32(at + H.fwd_cnt, true), data: Buffer.from(this.driver.bytes.slice(at + HEADER, at + length)).toString(),
      });
      queue.publish(id);
      queue.kick();
    }
    return this.inbox.length;
  }

  /** A connection that the host has opened and the guest accepted. */
  connected(alloc = 65_536): { host: number; port: number } {
    const [ours, theirs] = streamPair();
    let outcome: string | null | undefined;
    this.device.connect(PORT, theirs, (error) => (outcome = error));
    const request = this.next();
    expect(request).toMatchObject({ op: REQUEST, to: PORT });
    this.send(RESPONSE, request.from, { alloc });
    expect(outcome).toBeNull();
    cleanup.push(() => closeFd(ours));
    return { host: ours, port: request.from };
  }

  read(host: number, length: number): string {
    const out: Buffer[] = [], chunk = new Uint8Array(65_536);
    let got = 0;
    this.driver.run(() => {
      let n: number;
      while ((n = tryRead(host, chunk, chunk.length)) > 0) {
        out.push(Buffer.from(chunk.slice(0, n)));
        got += n;
      }
      return got >= length || n === 0;
    });
    return Buffer.concat(out).toString();
  }
}
