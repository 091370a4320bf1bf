// A virtio-net device with a driver, for tests; descriptors are closed after each.
import { Epoll } from "../../../src/ffi/epoll.ts";
import { closeFd } from "../../../src/ffi/fd.ts";
import { packetPair } from "../../../src/ffi/socket.ts";
import { NetDevice } from "../../../src/vmm/devices/net/device.ts";
import { Driver } from "../driver.ts";

export const HEADER = 12, RX = 0, TX = 1;
export const MAC = new Uint8Array([2, 0, 0, 0, 0, 9]);
export const V1 = 1n << 32n;

/** What the end of a test undoes, the last first. */
export const cleanup: (() => void)[] = [];
/** Call in afterEach. */
export function cleanUp(): void { for (const step of cleanup.splice(0).reverse()) step(); }

/** Closed with the rest. */
export const owned = (fd: number): number => {
  cleanup.push(() => closeFd(fd));
  return fd;
};

export const pair = () => packetPair().map(owned) as [number, number];

export function rig(fd: number, options: { mtu?: number; features?: bigint } = {}): { d: Driver; device: NetDevice } {
  const epoll = new Epoll();
  cleanup.push(() => epoll.close());
  const device = new NetDevice({ fd, mac: MAC, mtu: options.mtu }, epoll, () => {});
  const d = new Driver(device, epoll);
  d.start(options.features ?? d.offered);
  return { d, device };
}

/** Posts `count` receive buffers of `size` bytes; the function returned takes frames, with their buffers put together. */
export function receiver(d: Driver, count: number, size: number): () => Uint8Array[] {
  const queue = d.queues[RX]!, at = new Map<number, number>();
  for (let i = 0; i < count; i++) {
    const gpa = d.alloc(size);
    at.set(queue.add([{ gpa, length: size, write: true }]), gpa);
  }
  queue.kick();
  return () => {
    const used = queue.takeUsed(), frames: Uint8Array[] = [];
    while (used.length > 0) {
      const number = d.view.getUint16(at.get(used[0]!.id)! + 10, true);
      frames.push(new Uint8Array(Buffer.concat(used.splice(0, number).map((u) => d.bytes.slice(at.get(u.id)!, at.get(u.id)! + u.length)))));
    }
    return frames;
  };
}

export const framed = (payload: Uint8Array): Uint8Array => new Uint8Array(Buffer.concat([new Uint8Array(HEADER), payload]));
