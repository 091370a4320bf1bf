// A guest whose other vCPU gives a queue a useless buffer for each that the device takes: the main loop comes back all the same.
import { afterEach, expect, test } from "bun:test";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { ConsoleDevice } from "../../../src/vmm/devices/console/device.ts";
import { FramedPort } from "../../../src/vmm/devices/console/framed-port.ts";
import { Driver, NEEDS_RESET } from "../driver.ts";
import { cleanUp, cleanup, pair, rig, RX } from "./net-rig.ts";

afterEach(cleanUp);

/** Where a device that never ends is stopped. */
const MOST = 100_000;

/** Puts a readable buffer into `index`, and another one as soon as the device has given one back. Returns how many it was in all. */
function feed(d: Driver, index: number): () => number {
  const queue = d.queues[index]!, taken = d.pci.context.queues[index]!, head = queue.add([{ gpa: d.alloc(16), length: 16 }]);
  const push = taken.push.bind(taken);
  let count = 1;
  taken.push = (used, length) => {
    push(used, length);
    if (++count < MOST) queue.publish(head);
  };
  queue.kick();
  return () => count;
}

test("of the network", () => {
  const { d } = rig(pair()[0]), fed = feed(d, RX);
  d.settle();
  expect(fed()).toBe(1);
  expect(d.status & NEEDS_RESET).toBe(NEEDS_RESET);
});

test("of the console", () => {
  const epoll = new Epoll(), port = new FramedPort("dormouse", () => {}, () => {});
  cleanup.push(() => epoll.close());
  const d = new Driver(new ConsoleDevice([port]), epoll).start();
  port.opened(true);
  port.send(1, new Uint8Array(8));
  const fed = feed(d, 0);
  d.settle();
  expect(fed()).toBe(1);
  expect(d.status & NEEDS_RESET).toBe(NEEDS_RESET);
});
