import { afterEach, expect, test } from "bun:test";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { VIRTIO_PCI } from "../../../src/ffi/abi/virtio_pci.ts";
import { BAR } from "../../../src/vmm/virtio/config-space.ts";
import type { Device, DeviceContext } from "../../../src/vmm/virtio/device.ts";
import { BAR_ADDRESS, Driver } from "../driver.ts";

/** Returns what it gets: the writable part is filled with the length of the readable one. */
class Echo implements Device {
  readonly type = 1;
  readonly name = "echo";
  readonly features = 0x21n;
  readonly queueSizes = [256, 16];
  readonly config = new DataView(new ArrayBuffer(8));
  context: DeviceContext | null = null;
  notified: number[] = [];
  resetAtOnce = true;
  written: [number, number, number][] = [];
  activate(context: DeviceContext) { this.context = context; }
  onNotify(index: number) {
    this.notified.push(index);
    const queue = this.context!.queues[index]!;
    do while (queue.pop()) queue.push(queue.head, queue.payload.scatter(queue.firstWrite, queue.writeCount, new Uint8Array([queue.readBytes & 0xff])));
    while (queue.enableNotify());
    queue.flush();
  }
  writeConfig(offset: number, size: number, value: number) { this.written.push([offset, size, value]); }
  reset() { return this.resetAtOnce; }
  save() { return { kept: 7 }; }
  restored: unknown = null;
  restore(state: unknown) { this.restored = state; }
}

const cleanup: (() => void)[] = [];
afterEach(() => cleanup.splice(0).forEach((step) => step()));

function rig(): { driver: Driver; device: Echo } {
  const epoll = new Epoll();
  cleanup.push(() => epoll.close());
  const device = new Echo();
  return { driver: new Driver(device, epoll), device };
}

const capabilities = (d: Driver): { at: number; id: number; type: number }[] => {
  const list = [];
  for (let at = d.pci.configRead(0x34, 1); at !== 0; at = d.pci.configRead(at + 1, 1)) list.push({ at, id: d.pci.configRead(at, 1), type: d.pci.configRead(at + 3, 1) });
  return list;
};

test("configuration space has the identity and the capabilities", () => {
  const { driver: d } = rig();
  expect(d.pci.configRead(0, 4)).toBe(0x1041_1af4);
  expect(d.pci.configRead(8, 1)).toBe(1);
  expect(d.pci.configRead(0x3d, 1)).toBe(0); // no interrupt pin
  expect(capabilities(d).map((c) => (c.id === 0x11 ? "msix" : c.type))).toEqual(["msix", 1, 2, 3, 4, 5]);
  expect(d.pci.configRead(0x42, 2)).toBe(2); // three vectors
});

test("negotiates features, and refuses those that were not offered", () => {
  const { driver: d } = rig();
  expect(d.offered).toBe(0x1_3000_0021n);
  d.negotiate(0x1_0000_0002n);
  expect(d.status).toBe(3);
  d.negotiate(0x1n);
  expect(d.status).toBe(3);
  d.negotiate(0x1_0000_0001n);
  expect(d.status).toBe(11);
  d.status = 0;
  expect(d.status).toBe(0);
});

test("DRIVER_OK without FEATURES_OK does not start the device", () => {
  const { driver: d, device } = rig();
  d.status = 7;
  expect(d.status).toBe(3);
  expect(device.context).toBeNull();
});

test("a chain goes through, with an interrupt", () => {
  const { driver: d } = rig();
  d.start();
  const out = d.alloc(1);
  const head = d.queues[0]!.add([{ gpa: d.alloc(77), length: 77 }, { gpa: out, length: 1, write: true }]);
  d.queues[0]!.kick();
  d.settle();
  expect(d.queues[0]!.takeUsed()).toEqual([{ id: head, length: 1 }]);
  expect(d.bytes[out]).toBe(77);
  expect(d.platform.took(100)).toBe(true);
  expect(d.platform.took(101)).toBe(false);
});

test("indices wrap around", () => {
  const { driver: d } = rig();
  d.start();
  const out = d.alloc(16);
  for (let round = 0; round < 5000; round++) {
    for (let i = 0; i < 16; i++) d.queues[1]!.add([{ gpa: out, length: 16, write: true }]);
    d.queues[1]!.kick();
    d.settle();
    expect(d.queues[1]!.takeUsed()).toHaveLength(16);
  }
});

test("the event index suppresses interrupts and asks for notifications", () => {
  const { driver: d } = rig();
  d.start();
  const q = d.queues[0]!, gpa = d.alloc(16);
  q.usedEvent = 2;
  d.settle();
  for (let i = 0; i < 3; i++) {
    d.platform.took(100);
    q.add([{ gpa, length: 16, write: true }]);
    q.kick();
    d.settle();
    expect(q.availEvent).toBe(i + 1);
    expect(d.platform.took(100)).toBe(i === 2);
  }
});

test("without the event index the available flags suppress interrupts", () => {
  const { driver: d } = rig();
  d.start(0x1_0000_0001n);
  d.settle();
  const q = d.queues[0]!;
  q.availFlags = 1;
  q.add([{ gpa: d.alloc(16), length: 16, write: true }]);
  q.kick();
  d.settle();
  expect(d.platform.took(100)).toBe(false);
  q.availFlags = 0;
  q.add([{ gpa: d.alloc(16), length: 16, write: true }]);
  q.kick();
  d.settle();
  expect(d.platform.took(100)).toBe(true);
});

test("masked vectors stay pending and fire when unmasked", () => {
  const { driver: d } = rig();
  d.start(0x1_0000_0001n);
  d.settle();
  d.queues[0]!.add([{ gpa: d.alloc(16), length: 16, write: true }]);
  d.queues[0]!.kick();
  d.settle();
  expect(d.platform.took(100)).toBe(true);
  const mask = (value: number) => d.pci.barWrite(0, BAR.MSIX_TABLE + 12, 4, value);
  const commits = d.platform.commits;
  mask(1);
  d.queues[0]!.add([{ gpa: d.alloc(16), length: 16, write: true }]);
  d.queues[0]!.kick();
  d.settle();
  expect(d.platform.took(100)).toBe(false);
  expect(d.pci.barRead(0, BAR.MSIX_PBA, 4)).toBe(1);
  mask(0);
  expect(d.platform.took(100)).toBe(true);
  expect(d.pci.barRead(0, BAR.MSIX_PBA, 4)).toBe(0);
  expect(d.platform.commits).toBe(commits); // the route was right all the time
});

test("routes of all vectors reach KVM in one go, with the first interrupt", () => {
  const { driver: d } = rig();
  d.start(0x1_0000_0001n);
  d.settle();
  expect(d.platform.commits).toBe(0);
  for (let i = 0; i < 3; i++) {
    d.queues[0]!.add([{ gpa: d.alloc(16), length: 16, write: true }]);
    d.queues[0]!.kick();
    d.settle();
    expect(d.platform.took(100)).toBe(true);
  }
  expect(d.platform.commits).toBe(1);
});

test("a vector that moves to another CPU gets a new route", () => {
  const { driver: d } = rig();
  d.start();
  d.pci.barWrite(0, BAR.MSIX_TABLE + 12, 4, 1);
  d.pci.barWrite(0, BAR.MSIX_TABLE + 8, 4, 200);
  d.pci.barWrite(0, BAR.MSIX_TABLE + 12, 4, 0);
  d.queues[0]!.add([{ gpa: d.alloc(16), length: 16, write: true }]);
  d.queues[0]!.kick();
  d.settle();
  expect(d.platform.took(200)).toBe(true);
});

test("a driver without MSI-X finds the reason in ISR", () => {
  const { driver: d } = rig();
  d.placeBar();
  d.negotiate(0x1_0000_0001n);
  d.setupQueue(0);
  d.status = 15;
  d.queues[0]!.add([{ gpa: d.alloc(16), length: 16, write: true }]);
  d.queues[0]!.kick();
  d.settle();
  expect(d.pci.barRead(0, BAR.ISR, 1)).toBe(1);
  expect(d.pci.barRead(0, BAR.ISR, 1)).toBe(0);
});

test("ioeventfds follow the BAR and go at reset", () => {
  const { driver: d } = rig();
  d.start();
  expect([...d.platform.ioEvents.keys()]).toEqual([BAR_ADDRESS + 0x3000, BAR_ADDRESS + 0x3004]);
  d.placeBar(0xd100_0000);
  expect([...d.platform.ioEvents.keys()]).toEqual([0xd100_3000, 0xd100_3004]);
  d.placeBar(0);
  expect(d.platform.ioEvents.size).toBe(0);
  d.placeBar();
  expect(d.platform.ioEvents.size).toBe(2);
  d.status = 0;
  expect(d.platform.ioEvents.size).toBe(0);
});

test("BARs laid over each other cost speed only", () => {
  const { driver: d, device } = rig();
  d.platform.ioEvents.set(BAR_ADDRESS + 0x3000, -1);
  d.start();
  d.settle();
  expect(d.log).toHaveLength(1);
  device.notified = [];
  d.pci.barWrite(0, BAR.NOTIFY, 2, 0);
  d.settle();
  expect(device.notified).toEqual([0]);
});

test("the configuration window reads and writes the BAR", () => {
  const { driver: d } = rig();
  const window = capabilities(d).find((c) => c.type === VIRTIO_PCI.VIRTIO_PCI_CAP_PCI_CFG)!.at;
  d.pci.configWrite(window + 8, 4, BAR.COMMON + 20); // device_status
  d.pci.configWrite(window + 12, 4, 1);
  d.pci.configWrite(window + 16, 1, 1);
  expect(d.status).toBe(1);
  expect(d.pci.configRead(window + 16, 4)).toBe(1);
  d.pci.configWrite(window + 8, 4, 0xffff_fffc);
  expect(d.pci.configRead(window + 16, 4)).toBe(0);
});

test("a reset that takes time is seen as such", () => {
  const { driver: d, device } = rig();
  d.start();
  device.resetAtOnce = false;
  d.status = 0;
  expect(d.status).toBe(15);
  d.status = 1;
  expect(d.status).toBe(15);
  device.context!.resetDone();
  expect(d.status).toBe(0);
});

test("config writes reach the device within bounds only", () => {
  const { driver: d, device } = rig();
  d.pci.barWrite(0, BAR.DEVICE + 4, 4, 9);
  d.pci.barWrite(0, BAR.DEVICE + 8, 1, 9);
  d.pci.barWrite(0, BAR.DEVICE + 6, 4, 9);
  expect(device.written).toEqual([[4, 4, 9]]);
});

test("an enabled queue does not move", () => {
  const { driver: d } = rig();
  d.start();
  d.writeCommon("queue_select", 0);
  d.writeCommon("queue_desc_lo", 0xdead_0000);
  d.writeCommon("queue_size", 2);
  expect(d.readCommon("queue_desc_lo")).toBe(0x10_0000);
  expect(d.readCommon("queue_size")).toBe(256);
});

test("state goes into another transport, which goes on where it was", () => {
  const { driver: a } = rig();
  a.start();
  const gpa = a.alloc(16);
  for (let i = 0; i < 40; i++) a.queues[0]!.add([{ gpa, length: 16, write: true }]);
  a.queues[0]!.kick();
  a.settle();
  a.queues[0]!.add([{ gpa, length: 16, write: true }]); // not kicked: the notification is lost with the machine
  const state = JSON.parse(JSON.stringify(a.pci.save()));
  const { driver: b, device } = rig();
  b.bytes.set(a.bytes);
  b.placeBar();
  expect(b.pci.restore(state)).toBeNull();
  b.platform.commitRoutes();
  b.pci.goOn();
  b.settle();
  expect(device.restored).toEqual({ kept: 7 });
  expect(b.view.getUint16(a.queues[0]!.used + 2, true)).toBe(41);
  expect(b.platform.took(100)).toBe(true);
  expect(b.pci.save()).toEqual({ ...state, queues: b.pci.save().queues });
  expect(b.pci.restore({ ...state, type: 5 })).toContain("another device");
});
