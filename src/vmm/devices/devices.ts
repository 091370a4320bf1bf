// All devices of one machine: made from what `boot` brought, put on the bus in a fixed order, asked as one.
// The order is the guest's: vda, vdb, … are the disks in theirs; eth0 is the one network device.
import { errnoName } from "../../ffi/abi/errno.ts";
import type { Epoll } from "../../ffi/epoll.ts";
import { closeFd, fileSize } from "../../ffi/fd.ts";
import type { MachineParams } from "../../machine-state/saved-machine.ts";
import type { RequestFds } from "../control.ts";
import type { GuestMemory } from "../memory.ts";
import type { PciFunction, PciPlatform } from "../pci.ts";
import { GUEST_CID, type BootParams, type VmmStats } from "../protocol.ts";
import type { Discarded } from "../snapshot/discarded.ts";
import { Spares } from "../spares.ts";
import type { Device } from "../virtio/device.ts";
import { VirtioPci, type TransportState } from "../virtio/transport.ts";
import { BalloonDevice } from "./balloon.ts";
import { BlockMap } from "./block/block-map.ts";
import { BlockDevice } from "./block/device.ts";
import type { DiskIo } from "./block/disk-io.ts";
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
  readonly discarded: Discarded;
  add(pciFunction: PciFunction): void;
}

export interface DeviceEvents {
  /** A frame from init; the payload is the callee's. */
  onFrame(type: number, payload: Uint8Array): void;
  log(message: string): void;
  /** The host could not do what the guest asked of a disk: DiskStats.onFailure. */
  onDiskFailed(disk: number, errno: number): void;
}

const CONTROL_PORT = "dormouse";

export class Devices {
  private readonly disks: BlockDevice[];
  private readonly backings: Layers[];
  private readonly net: NetDevice | null;
  private readonly tapFd: number;
  private readonly vsock: VsockDevice;
  private readonly port: FramedPort;
  private readonly vmmLog: LogSink;
  private readonly io: DiskIo;
  private readonly transports: VirtioPci[] = [];

  constructor(epoll: Epoll, private readonly board: Board, private readonly params: Pick<BootParams, "disks" | "mac">, fds: RequestFds, events: DeviceEvents, spares = Spares.NONE) {
    const add = (device: Device) => {
      const transport = new VirtioPci(device, board.memory, board.platform, epoll, events.log);
      this.transports.push(transport);
      board.add(transport);
    };
    this.vmmLog = new LogSink([fds.take("vmm0"), fds.take("vmm1")]);
    const appLog = new LogSink([fds.take("app0"), fds.take("app1")]);
    this.port = new FramedPort(CONTROL_PORT, events.onFrame, events.log);
    const io = this.io = spares.takeDiskIo() ?? createDiskIo(epoll, events.log);
    this.backings = params.disks.map(({ layers }, i) => Layers.open(i, layers ?? 1, (name) => fds.take(name)));
    this.disks = params.disks.map(({ readonly, serial, blockBytes }, i) =>
      new BlockDevice({ name: `disk${i}`, readonly, serial, ...(blockBytes === undefined ? {} : { block: blockBytes }), backing: this.backings[i]! }, io));
    this.disks.forEach(({ stats }, i) => { stats.onFailure = (errno) => events.onDiskFailed(i, errno); });
    this.tapFd = params.mac === undefined ? -1 : fds.take("tap");
    this.net = params.mac === undefined ? null : new NetDevice({ fd: this.tapFd, mac: macBytes(params.mac) }, epoll, events.log);
    this.vsock = new VsockDevice(GUEST_CID, epoll);
    add(new ConsoleDevice([new SinkPort("console", appLog), this.port]));
    for (const disk of this.disks) add(disk);
    if (this.net !== null) add(this.net);
    add(this.vsock);
    add(new RngDevice());
    add(new BalloonDevice((hva, length) => board.discarded.discard(hva, length)));
  }

  /** Gives back what it has made; descriptors that it was given are their owner's. Only where nothing is in flight. A machine's devices end with its process. */
  close(): void {
    for (const transport of this.transports) transport.close();
    this.io.close();
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

  /** Somebody in the guest has opened the control port: there is an agent. */
  get agent(): boolean { return this.port.everOpened; }

  /** For MachineParams. */
  get disksAndNetwork(): Pick<MachineParams, "disks" | "network"> {
    const disks = this.params.disks.map(({ readonly, serial, remembered }, i) => {
      const head = remembered ? this.backings[i]!.head : null;
      return { readonly, serial, bytes: this.disks[i]!.capacity, ...(head === null ? {} : { head }) };
    });
    return { disks, network: this.net !== null };
  }

  // --- sleep and wake

  /** Nothing is read from the TAP any more; `filter`: NetDevice.deafen(). */
  deafen(filter: Uint8Array | null): void { this.net?.deafen(filter); }

  /** While the vCPUs are paused: finishes what is in flight; `done` runs once nothing touches guest memory any more, until resume(). */
  quiesce(done: () => void): void {
    let left = this.disks.length;
    const one = () => {
      if (left-- > 0) return;
      for (const transport of this.transports) transport.hold();
      done();
    };
    for (const disk of this.disks) disk.quiesce(one);
    one();
  }

  /** Takes back deafen() and quiesce(). Before the vCPUs run. */
  resume(): void {
    for (const transport of this.transports) transport.letGo();
    for (const disk of this.disks) disk.resume();
    this.net?.gate(false, false);
  }

  /** Nothing is written to disks, nothing crosses the TAP, until openGates(). */
  shutGates(): void {
    for (const disk of this.disks) disk.shut();
    this.net?.gate(true, true);
  }

  openGates(): void {
    for (const disk of this.disks) disk.open();
    this.net?.gate(false, false);
  }

  /** Brings all that the guest has written to the storage. */
  sync(done: (error: string | null) => void): void {
    let left = 1, failed: string | null = null;
    const one = (error: string | null) => {
      failed ??= error;
      if (--left === 0) done(failed);
    };
    this.disks.forEach((disk, i) => {
      if (this.params.disks[i]!.readonly) return;
      left++;
      disk.sync((errno) => one(errno === 0 ? null : `cannot sync disk${i}: ${errnoName(errno)}`));
    });
    one(null);
  }

  /** Only after quiesce(). */
  save(): TransportState[] { return this.transports.map((transport) => transport.save()); }

  /** Into new devices; null, or why the states don't fit. The vCPUs must have theirs already. */
  restore(states: readonly unknown[]): string | null {
    if (states.length !== this.transports.length) return `the machine was saved with ${states.length} devices, and here are ${this.transports.length}`;
    for (const [i, transport] of this.transports.entries()) {
      const refused = transport.restore(states[i] as TransportState);
      if (refused !== null) return refused;
    }
    this.board.platform.commitRoutes();
    for (const transport of this.transports) transport.goOn();
    this.vsock.resetTransport();
    return null;
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
