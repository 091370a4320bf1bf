// Notifications of a running guest: an ioeventfd of KVM, the main loop's epoll, the device, and the used ring back.
import { expect, test } from "bun:test";
import { virtio_pci_common_cfg as common } from "../../../src/ffi/abi/virtio_pci.ts";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { O_RDWR, openFd } from "../../../src/ffi/fd.ts";
import { RngDevice } from "../../../src/vmm/devices/rng.ts";
import { Machine } from "../../../src/vmm/machine.ts";
import { BAR } from "../../../src/vmm/virtio/config-space.ts";
import { VirtioPci } from "../../../src/vmm/virtio/transport.ts";
import { tinyGuest } from "../guests/build.ts";

const DESC = 0x40_0000, AVAIL = 0x40_1000, USED = 0x40_2000, BUFFER = 0x50_0000;
const SIZE = 64, KICKS = 200;

/** Each notification finds one chain more. */
class Counted extends RngDevice {
  offer = (): void => {};
  override onNotify(): void {
    this.offer();
    super.onNotify();
  }
}

test("a guest's writes to the notify register reach the device, each of them", () => {
  const epoll = new Epoll();
  let end: string | null = null;
  const machine = new Machine(epoll, {
    kvmFd: openFd("/dev/kvm", O_RDWR), memoryBytes: 64 * 2 ** 20, vcpus: 1, xsave: true, onSerial: () => {},
    onEnd: (e) => { end = e.kind; },
  });
  const rng = new Counted();
  const device = new VirtioPci(rng, machine.memory, machine.platform, epoll, (message) => { throw new Error(message); });
  machine.add(device);
  const set = (field: keyof typeof common.at, value: number) => device.barWrite(0, BAR.COMMON + common.at[field], common.sizes[field], value);
  set("device_status", 3);
  set("guest_feature_select", 1);
  set("guest_feature", 1); // VERSION_1, nothing else
  set("device_status", 11);
  set("queue_size", SIZE);
  set("queue_desc_lo", DESC);
  set("queue_avail_lo", AVAIL);
  set("queue_used_lo", USED);
  set("queue_enable", 1);
  set("device_status", 15);
  const ram = machine.memory.bytes[0]!, view = new DataView(ram.buffer, ram.byteOffset, ram.byteLength);
  view.setUint32(DESC, BUFFER, true);
  view.setUint32(DESC + 8, 16, true);
  view.setUint16(DESC + 12, 2, true); // VRING_DESC_F_WRITE
  epoll.poll(0); // the notification that every queue gets at DRIVER_OK
  let offered = 0;
  rng.offer = () => view.setUint16(AVAIL + 2, ++offered, true);
  machine.boot({ kernel: tinyGuest("notify"), initrd: [], cmdline: "", vcpus: 1 });
  while (end === null) epoll.poll(1000);
  expect(end as string | null).toBe("reset");
  expect(view.getUint16(USED + 2, true)).toBe(KICKS);
  expect(view.getBigUint64(0x20_0000, true)).toBe(BigInt(KICKS));
  expect(machine.exits()).toBeLessThan(KICKS); // no kick came to user space
  epoll.close();
});
