// A machine that is paused and goes on, at whatever moment, as for a save that is called off: no notification of its guest is lost and no
// interrupt. The guest halts for good where one is.
import { expect, test } from "bun:test";
import { VIRTIO_F } from "../../../src/ffi/abi/virtio_ring.ts";
import { virtio_pci_common_cfg as common } from "../../../src/ffi/abi/virtio_pci.ts";
import { PCI } from "../../../src/ffi/abi/pci_regs.ts";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { O_RDWR, openFd } from "../../../src/ffi/fd.ts";
import { RngDevice } from "../../../src/vmm/devices/rng.ts";
import { Machine } from "../../../src/vmm/machine.ts";
import { BAR } from "../../../src/vmm/virtio/config-space.ts";
import { VirtioPci } from "../../../src/vmm/virtio/transport.ts";
import { tinyGuest } from "../guests/build.ts";

const DESC = 0x40_0000, AVAIL = 0x40_1000, USED = 0x40_2000, BUFFER = 0x50_0000, SIZE = 64;
const MSIX_CONTROL = 0x40 + PCI.PCI_MSIX_FLAGS, VECTOR = 0x30, APIC = 0xfee0_0000;
/** More of them, by hand, for a lost one that is rare. */
const PAUSES = Number(process.env["PAUSES"] ?? 4000);
/** A guest that does nothing for as long has lost something. */
const STILL_MS = 10_000;

/** The driver's guest with a device that it uses. */
class Rig {
  readonly epoll = new Epoll();
  readonly machine: Machine;
  readonly device: VirtioPci;
  private readonly view: DataView;

  constructor() {
    this.machine = new Machine(this.epoll, { kvmFd: openFd("/dev/kvm", O_RDWR), memoryBytes: 64 * 2 ** 20, vcpus: 1, xsave: true, onSerial: () => {}, onEnd: (end) => { throw new Error(end.message); } });
    this.device = new VirtioPci(new RngDevice(), this.machine.memory, this.machine.platform, this.epoll, (message) => { throw new Error(message); });
    this.machine.add(this.device);
    const ram = this.machine.memory.bytes[0]!;
    this.view = new DataView(ram.buffer, ram.byteOffset, ram.byteLength);
    this.setUp();
    this.machine.boot({ kernel: tinyGuest("driver"), initrd: [], cmdline: "", vcpus: 1 });
  }

  private setUp(): void {
    const { device, view } = this;
    const set = (field: keyof typeof common.at, value: number) => device.barWrite(0, BAR.COMMON + common.at[field], common.sizes[field], value);
    device.configWrite(MSIX_CONTROL, 2, PCI.PCI_MSIX_FLAGS_ENABLE);
    [APIC, 0, VECTOR, 0].forEach((word, i) => device.barWrite(0, BAR.MSIX_TABLE + i * 4, 4, word));
    set("device_status", 3);
    set("guest_feature_select", 0);
    set("guest_feature", 2 ** VIRTIO_F.VIRTIO_RING_F_EVENT_IDX);
    set("guest_feature_select", 1);
    set("guest_feature", 1); // VERSION_1
    set("device_status", 11);
    set("queue_size", SIZE);
    set("queue_desc_lo", DESC);
    set("queue_avail_lo", AVAIL);
    set("queue_used_lo", USED);
    set("queue_msix_vector", 0);
    set("queue_enable", 1);
    view.setUint32(DESC, BUFFER, true);
    view.setUint32(DESC + 8, 16, true);
    view.setUint16(DESC + 12, 2, true); // VRING_DESC_F_WRITE
    set("device_status", 15);
  }

  get used(): number { return Number(this.view.getBigUint64(0x20_0000, true)); }
  get interrupts(): number { return Number(this.view.getBigUint64(0x20_0008, true)); }

  /** Rounds of the main loop until `until`; throws where nothing happens any more. */
  runUntil(what: string, until: () => boolean): void {
    let last = performance.now();
    for (let rounds = 0; !until(); rounds++) {
      if (this.epoll.poll(100) > 0) last = performance.now();
      else if (performance.now() - last > STILL_MS) throw new Error(`Nothing happens any more, ${what}: ${this.used} chains used, ${this.interrupts} interrupts, ${this.rings()}`);
    }
  }

  rings(): string {
    const at = (address: number) => this.view.getUint16(address, true);
    return `avail.idx ${at(AVAIL + 2)} avail_event ${at(USED + 4 + SIZE * 8)} used.idx ${at(USED + 2)} used_event ${at(AVAIL + 4 + SIZE * 2)}`;
  }

  /** As a save does it: the queues are held from the moment on in which the last vCPU stands. */
  pause(): void {
    let parked = false;
    this.machine.pause(() => {
      this.device.hold();
      parked = true;
    });
    this.runUntil("a pause", () => parked);
  }

  goOn(): void {
    this.device.letGo();
    this.machine.resume();
  }
}

test("pauses at any moment, saved or not, lose no notification and no interrupt", () => {
  const rig = new Rig(), { machine, device, epoll } = rig;
  for (let pause = 0; pause < PAUSES; pause++) {
    const before = rig.used;
    rig.runUntil(`after ${pause} pauses`, () => rig.used > before);
    for (let rounds = Math.random() * 4; rounds > 1; rounds--) epoll.poll(0);
    if (pause % 2 === 0) device.hold(); // what the guest notifies of until it stands is dropped
    rig.pause();
    if (pause % 4 === 0) {
      epoll.poll(0);
      machine.save();
      device.save();
    }
    rig.goOn();
  }
  rig.pause();
  expect(rig.used).toBeGreaterThanOrEqual(PAUSES);
  epoll.close();
}, 600_000);
