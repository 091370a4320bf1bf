// virtio-net over a TAP (virtio 1.2, 5.1): one pair of queues, checksum and segmentation offloads both ways, mergeable buffers.
// Frames keep their virtio_net_hdr on the TAP, so a frame is one readv or writev and nothing is looked at here.
import { E, errnoName } from "../../../ffi/abi/errno.ts";
import { SYS } from "../../../ffi/abi/syscalls.ts";
import { VIRTIO_ID } from "../../../ffi/abi/virtio_ids.ts";
import { VIRTIO_NET, virtio_net_config, virtio_net_hdr_mrg_rxbuf } from "../../../ffi/abi/virtio_net.ts";
import { EPOLLIN, type Epoll } from "../../../ffi/epoll.ts";
import { syscall, SysError } from "../../../ffi/syscall.ts";
import { attachFilter, detachFilter } from "../../../ffi/tun.ts";
import { bits, hasBit, RareLog, type Device, type DeviceContext, type Log } from "../../virtio/device.ts";
import type { Queue } from "../../virtio/queue.ts";
import type { TokenBucket } from "../token-bucket.ts";
import { applyOffloads, guestOffloads } from "./offloads.ts";
import { RxWindow } from "./rx-window.ts";

const RX = 0, TX = 1;
const QUEUE_SIZE = 256;
/** Frames one way in one go before other devices get their turn. */
const BUDGET = 128;
const HEADER = virtio_net_hdr_mrg_rxbuf.size;
/** Ethernet header and a VLAN tag. */
const LINK_BYTES = 18;
/** The longest segment that the kernel hands over whole: an IP packet of 64 KiB. */
const MAX_SEGMENT = 65_536;

export interface NetOptions {
  /** A TAP with IFF_VNET_HDR and headers of 12 bytes, non-blocking; stays the caller's. */
  readonly fd: number;
  readonly mac: Uint8Array;
  /** Told to the guest; 1500 unless given. */
  readonly mtu?: number;
}

export interface NetStats {
  rxBytes: number;
  txBytes: number;
  rxPackets: number;
  txPackets: number;
  /** Frames of the guest that the host would not take. */
  txDropped: number;
}

export class NetDevice implements Device {
  readonly type = VIRTIO_ID.VIRTIO_ID_NET;
  readonly name = "net";
  readonly features: bigint;
  readonly queueSizes = [QUEUE_SIZE, QUEUE_SIZE];
  readonly config = new DataView(new ArrayBuffer(virtio_net_config.at.speed));
  readonly stats: NetStats = { rxBytes: 0, txBytes: 0, rxPackets: 0, txPackets: 0, txDropped: 0 };
  /** Limits in bytes a second; their wake functions are wakeRx and wakeTx. */
  rxBucket: TokenBucket | null = null;
  txBucket: TokenBucket | null = null;

  private readonly fd: number;
  private readonly mtu: number;
  private readonly troubles: RareLog;
  private context: DeviceContext | null = null;
  private window: RxWindow | null = null;
  /** The TAP is in epoll, waiting for frames or (armed false) for nothing. */
  private armed = false;
  private gone = false;
  private deaf = false;
  private mute = false;

  constructor(options: NetOptions, private readonly epoll: Epoll, log: Log) {
    this.fd = options.fd;
    this.mtu = options.mtu ?? 1500;
    this.troubles = new RareLog(log);
    this.features = FIXED_FEATURES | guestOffloads(options.fd);
    new Uint8Array(this.config.buffer).set(options.mac.subarray(0, virtio_net_config.sizes.mac));
    this.config.setUint16(virtio_net_config.at.status, VIRTIO_NET.VIRTIO_NET_S_LINK_UP, true);
    this.config.setUint16(virtio_net_config.at.max_virtqueue_pairs, 1, true);
    this.config.setUint16(virtio_net_config.at.mtu, this.mtu, true);
    epoll.add(this.fd, 0, (events) => this.onTap(events));
  }

  activate(context: DeviceContext): void {
    this.context = context;
    const segments = applyOffloads(this.fd, context.features);
    const merge = hasBit(context.features, VIRTIO_NET.VIRTIO_NET_F_MRG_RXBUF);
    this.window = new RxWindow(context.queues[RX]!, merge ? HEADER + LINK_BYTES + (segments ? MAX_SEGMENT : this.mtu) : 0);
  }

  onNotify(index: number): void {
    if (index === RX) this.receive();
    else this.transmit();
  }

  wakeRx(): void { this.receive(); }
  wakeTx(): void { this.transmit(); }

  /**
   * Nothing is read from the TAP any more, until gate(). Where there is a `filter` (attachFilter()), the kernel drops from here on what that
   * does not pass, and what came before it is read still, as far as the guest has room: so what waits afterwards has passed.
   */
  deafen(filter: Uint8Array | null): void {
    if (filter !== null && !this.gone) this.filter(filter);
    this.gate(true, false);
  }

  private filter(program: Uint8Array): void {
    try {
      attachFilter(this.fd, program);
    } catch (error) {
      if (error instanceof SysError && error.errno === E.EBADFD) return this.lose(error.errno);
      throw error;
    }
    this.receive();
  }

  /** `deaf`: nothing is read from the TAP, what comes waits in it. `mute`: the guest's frames wait in its queue. */
  gate(deaf: boolean, mute: boolean): void {
    if (this.deaf && !deaf) dropFilter(this.fd);
    this.deaf = deaf;
    this.mute = mute;
    if (deaf) this.arm(false);
    else this.receive();
    if (!mute) this.transmit();
  }

  reset(): boolean {
    this.context = null;
    this.window = null;
    this.arm(false);
    if (!this.gone) applyOffloads(this.fd, 0n);
    return true;
  }

  /** Gives the buffers that it had taken ahead back to the queue. */
  save(): unknown {
    this.window?.giveBack();
    return {};
  }
  restore(): void {}

  /** Before the descriptor is handed back. */
  close(): void {
    this.epoll.remove(this.fd);
    this.gone = true;
  }

  private onTap(events: number): void {
    if ((events & EPOLLIN) !== 0 && this.armed) this.receive();
    else if ((events & ~EPOLLIN) !== 0) this.lose(E.EBADFD);
  }

  /** Host to guest. */
  private receive(): void {
    const { context, window } = this;
    if (context === null || window === null || this.gone || this.deaf) return;
    const queue = context.queues[RX]!;
    for (let budget = BUDGET; budget > 0; budget--) {
      if (this.rxBucket !== null && !this.rxBucket.ready()) {
        this.arm(false); // the bucket's timer wakes us
        break;
      }
      if (!this.enoughRoom(queue, window)) {
        this.arm(false); // the driver's notification wakes us
        break;
      }
      const n = syscall(SYS.readv, this.fd, window.iov, window.entries);
      if (n <= 0) {
        if (n === -E.EAGAIN || n === -E.EINTR) this.arm(true);
        else this.lose(-n);
        break;
      }
      window.consume(n);
      this.rxBucket?.take(n);
      this.stats.rxPackets++;
      this.stats.rxBytes += n - HEADER;
      // Each at once: the ring has room for a few long frames only, and the guest works on them meanwhile. In its poll mode it wants no interrupt anyway.
      queue.flush();
      if (budget === 1) this.arm(true); // more may wait: epoll says so in the next round
    }
    queue.flush();
  }

  private enoughRoom(queue: Queue, window: RxWindow): boolean {
    while (!window.fill()) if (!queue.enableNotify()) return false;
    return true;
  }

  /** Guest to host. */
  private transmit(): void {
    const context = this.context;
    if (context === null || this.gone || this.mute) return;
    const queue = context.queues[TX]!;
    let budget = BUDGET;
    do {
      while (budget > 0) {
        if (this.txBucket !== null && !this.txBucket.ready()) return;
        if (!queue.pop()) break;
        this.send(queue);
        queue.push(queue.head, 0);
        queue.flush(); // each at once: a connection of the guest has few frames on their way, and goes on when they come back
        budget--;
      }
      if (budget === 0) context.again(TX);
    } while (budget > 0 && queue.enableNotify());
  }

  /** One frame. What the TAP doesn't take (its queue is full, the header makes no sense, it is down) is lost, as on any wire. */
  private send(queue: Queue): void {
    const n = queue.readCount === 0 ? -E.EINVAL : syscall(SYS.writev, this.fd, queue.arena.at(queue.firstRead), queue.readCount);
    if (n < 0) {
      this.stats.txDropped++;
      if (n === -E.EBADFD) this.lose(E.EBADFD);
      return;
    }
    this.txBucket?.take(n);
    this.stats.txPackets++;
    this.stats.txBytes += n - HEADER;
  }

  private arm(on: boolean): void {
    if (this.armed === on || this.gone) return;
    this.armed = on;
    this.epoll.modify(this.fd, on ? EPOLLIN : 0);
  }

  /** The TAP is gone: the guest sees its cable pulled. */
  private lose(errno: number): void {
    if (this.gone) return;
    this.armed = false;
    this.close();
    this.troubles.write(`net: cannot use the TAP any more: ${errnoName(errno)}`);
    this.config.setUint16(virtio_net_config.at.status, 0, true);
    this.context?.configChanged();
  }
}

const FIXED_FEATURES = bits(
  VIRTIO_NET.VIRTIO_NET_F_CSUM, VIRTIO_NET.VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET.VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET.VIRTIO_NET_F_HOST_ECN,
  VIRTIO_NET.VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET.VIRTIO_NET_F_MAC, VIRTIO_NET.VIRTIO_NET_F_STATUS, VIRTIO_NET.VIRTIO_NET_F_MTU,
);

/** Whoever listened for knocks while the guest heard nothing may have died over that. What is no TAP has no filter. */
function dropFilter(fd: number): void {
  try {
    detachFilter(fd);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
  }
}
