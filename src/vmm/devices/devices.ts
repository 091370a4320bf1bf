// All devices of one machine: made from what `boot` brought, put on the bus in a fixed order, asked as one.
// The order is the guest's: vda, vdb, … are the disks in theirs; eth0 is the one network device.
import type { Epoll } from "../../ffi/epoll.ts";
import { closeFd, fileSize } from "../../ffi/fd.ts";
import type { RequestFds } from "../control.ts";
import type { GuestMemory } from "../memory.ts";
import type { PciFunction, PciPlatform } from "../pci.ts";
import { GUEST_CID, type BootParams, type VmmStats } from "../protocol.ts";
import type { Device } from "../virtio/device.ts";
import { VirtioPci } from "../virtio/transport.ts";
import { BlockMap } from "./block/block-map.ts";
import { BlockDevice } from "./block/device.ts";
import { createDiskIo } from "./block/io.ts";
import { Layers } from "./block/layers.ts";
import { ConsoleDevice } from "./console/device.ts";
import { FramedPort } from "./console/framed-port.ts";
import { LogSink } from "./console/log-sink.ts";
import { SinkPort } from "./console/port.ts";
import { NetDevice } from "./net/device.ts";
import { RngDevice } from "./rng.ts";
import { VsockDevice } from "./vsock/device.ts";

/** Where the devices go. */
export interface Board {
  readonly memory: GuestMemory;
  readonly platform: PciPlatform;
  add(pciFunction: PciFunction): void;
}

export interface DeviceEvents {
  /** A frame from init; the payload is the callee's. */
  onFrame(type: number, payload: Uint8Array): void;
  log(message: string): void;
}

const CONTROL_PORT = "dormouse";

export class Devices {
  private readonly disks: BlockDevice[];
  private readonly net: NetDevice | null;
  private readonly tapFd: number;
  private readonly vsock: VsockDevice;
  private readonly port: FramedPort;
  private readonly vmmLog: LogSink;

  constructor(epoll: Epoll, board: Board, params: BootParams, fds: RequestFds, events: DeviceEvents) {
    const add = (device: Device) => board.add(new VirtioPci(device, board.memory, board.platform, epoll, events.log));
    this.vmmLog = new LogSink([fds.take("vmm0"), fds.take("vmm1")]);
    const appLog = new LogSink([fds.take("app0"), fds.take("app1")]);
    this.port = new FramedPort(CONTROL_PORT, events.onFrame, events.log);
    const io = createDiskIo(epoll, events.log);
    this.disks = params.disks.map(({ readonly, serial, layers }, i) =>
      new BlockDevice({ name: `disk${i}`, readonly, serial, backing: Layers.open(i, layers ?? 1, (name) => fds.take(name)) }, io));
    this.tapFd = params.mac === undefined ? -1 : fds.take("tap");
    this.net = params.mac === undefined ? null : new NetDevice({ fd: this.tapFd, mac: macBytes(params.mac) }, epoll, events.log);
    this.vsock = new VsockDevice(GUEST_CID, epoll);
    add(new ConsoleDevice([new SinkPort("console", appLog), this.port]));
    for (const disk of this.disks) add(disk);
    if (this.net !== null) add(this.net);
    add(this.vsock);
    add(new RngDevice());
  }

  /** Joins a stream socket, owned from now on, to a connection to `port` of the guest; calls back once, with null or why not. */
  connect(port: number, fd: number, done: (error: string | null) => void): void { this.vsock.connect(port, fd, done); }

  /** Descriptors `disk` and `map` become the newest layer of a disk; calls back once, with null or why not. Throws where they are no layer for it. */
  addLayer(disk: number, fds: RequestFds, done: (error: string | null) => void): void {
    const device = this.disks[disk];
    if (device === undefined) throw new Error(`Cannot add a layer to disk ${disk}: there are ${this.disks.length} disks`);
    const fd = fds.take("disk"), mapFd = fds.take("map");
    const close = () => [fd, mapFd].forEach(closeFd);
    try {
      const map = new BlockMap(`the block map of the new layer of disk${disk}`, mapFd, fileSize(fd));
      device.addLayer({ fd, map }, (error) => {
        if (error !== null) close();
        done(error);
      });
    } catch (error) {
      close();
      throw error;
    }
  }

  /** The TAP's descriptor; it stays the devices' own. */
  tap(): number {
    if (this.tapFd < 0) throw new Error("Cannot hand out the TAP: this machine has no network");
    return this.tapFd;
  }

  /** False where init has not read what was sent before. */
  sendFrame(type: number, payload: Uint8Array): boolean { return this.port.send(type, payload); }

  writeVmmLog(bytes: Uint8Array): void { this.vmmLog.write(bytes); }

  stats(): Pick<VmmStats, "disks" | "net"> {
    return {
      disks: this.disks.map(({ stats: { readBytes, writtenBytes, reads, writes } }) => ({ readBytes, writtenBytes, reads, writes })),
      net: this.net === null ? null : { ...this.net.stats },
    };
  }
}

/** `aa:bb:cc:dd:ee:ff` as six bytes. */
function macBytes(mac: string): Uint8Array {
  if (!/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(mac)) throw new Error(`mac must be six bytes in hexadecimal, not ${mac}`);
  return Uint8Array.from(mac.split(":"), (byte) => parseInt(byte, 16));
}
