// Every device with an outside world, for tests that wander at random.
import { closeSync, openSync, writeFileSync } from "node:fs";
import type { Epoll } from "../../../src/ffi/epoll.ts";
import { closeFd, pwriteAll, tryRead, tryWrite } from "../../../src/ffi/fd.ts";
import { packetPair, streamPair } from "../../../src/ffi/socket.ts";
import { mapHeader, mapLayout } from "../../../src/block-map.ts";
import { BalloonDevice } from "../../../src/vmm/devices/balloon.ts";
import { BlockMap } from "../../../src/vmm/devices/block/block-map.ts";
import { BlockDevice } from "../../../src/vmm/devices/block/device.ts";
import { Layers } from "../../../src/vmm/devices/block/layers.ts";
import { UringIo } from "../../../src/vmm/devices/block/uring.ts";
import { ConsoleDevice } from "../../../src/vmm/devices/console/device.ts";
import { FramedPort } from "../../../src/vmm/devices/console/framed-port.ts";
import { LogSink } from "../../../src/vmm/devices/console/log-sink.ts";
import { SinkPort } from "../../../src/vmm/devices/console/port.ts";
import { NetDevice } from "../../../src/vmm/devices/net/device.ts";
import { RngDevice } from "../../../src/vmm/devices/rng.ts";
import { VsockDevice } from "../../../src/vmm/devices/vsock/device.ts";
import type { Device } from "../../../src/vmm/virtio/device.ts";
import { TempDir } from "../../support/paths.ts";

export const cleanup: (() => void)[] = [];
/** Call in afterEach. */
export function cleanUp(): void { for (const step of cleanup.splice(0).reverse()) step(); }

function file(bytes: number): number {
  const temp = new TempDir("hostile");
  writeFileSync(temp.join("file"), new Uint8Array(bytes));
  const fd = openSync(temp.join("file"), "r+");
  cleanup.push(() => temp[Symbol.dispose](), () => closeSync(fd));
  return fd;
}

export interface Rig {
  readonly device: Device;
  /** The outside world does something. */
  readonly outside: () => void;
  /** Words of a header that the device may take for sound: so that the test gets past the first check. */
  readonly header?: (r: Random) => number[];
}
export type Random = (below: number) => number;

/** Requests mostly within the disk, half of them of whole blocks. */
const blockHeader = (r: Random): number[] => [[0, 1, 4, 8, 11, 13, 99][r(7)]!, 0, r(10) === 0 ? r(0xffff_ffff) : r(2) === 0 ? r(256) * 8 : r(2048), 0];

export const rigs: Record<string, (epoll: Epoll) => Rig> = {
  block: (epoll) => {
    const io = UringIo.create(epoll)!;
    cleanup.push(() => io.close());
    const device = new BlockDevice({ name: "disk0", readonly: false, serial: "s", backing: { fd: file(1 << 20), bytes: 1 << 20 } }, io);
    return { device, outside: () => {}, header: blockHeader };
  },
  "layered block": (epoll) => {
    const io = UringIo.create(epoll)!, bytes = 1 << 20;
    const map = file(mapLayout(bytes).fileBytes);
    pwriteAll(map, mapHeader(bytes), 0);
    const layers = new Layers("disk0", bytes, [{ fd: file(bytes), map: new BlockMap("map0", map, bytes) }, { fd: file(bytes), map: null }]);
    cleanup.push(() => io.close());
    return { device: new BlockDevice({ name: "disk0", readonly: false, serial: "s", backing: layers }, io), outside: () => {}, header: blockHeader };
  },
  net: (epoll) => {
    const [tap, wire] = packetPair();
    cleanup.push(() => closeFd(tap), () => closeFd(wire));
    const frame = new Uint8Array(1000), sink = new Uint8Array(70_000);
    const outside = () => {
      tryWrite(wire, frame, frame.length);
      while (tryRead(wire, sink, sink.length) > 0);
    };
    return { device: new NetDevice({ fd: tap, mac: new Uint8Array(6) }, epoll, () => {}), outside };
  },
  vsock: (epoll) => {
    const device = new VsockDevice(3, epoll);
    const open: number[] = [];
    cleanup.push(() => open.forEach((fd) => closeFd(fd)));
    device.listener = () => {
      const [ours, theirs] = streamPair();
      open.push(ours);
      return theirs;
    };
    const outside = () => {
      const [ours, theirs] = streamPair();
      open.push(ours);
      if (open.length > 20) closeFd(open.shift()!);
      device.connect(1024, theirs, () => {});
      for (const fd of open) tryWrite(fd, new Uint8Array(500), 500);
    };
    let port = 0;
    device.listener = ((listen) => (to: number) => {
      port = to;
      return listen(to);
    })(device.listener);
    const header = (r: Random) => [3, 0, 2, 0, r(4), r(3) === 0 ? port : 0x4000_0000 + r(30), r(3) === 0 ? r(70_000) : 0, (r(9) << 16) | (r(20) === 0 ? 2 : 1), r(4), r(3) * 1000, r(2000)];
    return { device, outside, header };
  },
  console: () => {
    const sink = new LogSink([file(0), file(0)], 1 << 20);
    const port = new FramedPort("dormouse", () => {}, () => {});
    return { device: new ConsoleDevice([new SinkPort("console", sink), port]), outside: () => void port.send(1, new Uint8Array(300)), header: (r) => [r(3), r(9) | (r(2) << 16)] };
  },
  rng: () => ({ device: new RngDevice(), outside: () => {} }),
  balloon: () => {
    const device = new BalloonDevice(() => {});
    return { device, outside: () => void device.requestStats(() => {}) };
  },
};
