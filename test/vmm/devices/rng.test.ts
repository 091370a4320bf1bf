import { expect, test } from "bun:test";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { RngDevice } from "../../../src/vmm/devices/rng.ts";
import { Driver } from "../driver.ts";

test("RngDevice fills what it is given, up to a page a buffer", () => {
  const epoll = new Epoll();
  const driver = new Driver(new RngDevice(), epoll).start();
  const queue = driver.queues[0]!;
  const small = driver.alloc(64), large = driver.alloc(1 << 20);
  queue.add([{ gpa: small, length: 64, write: true }]);
  queue.add([{ gpa: large, length: 1 << 20, write: true }]);
  queue.add([{ gpa: driver.alloc(16), length: 16 }]);
  queue.kick();
  driver.settle();
  expect(queue.takeUsed().map((u) => u.length)).toEqual([64, 4096, 0]);
  expect(new Set(driver.bytes.slice(small, small + 64)).size).toBeGreaterThan(20);
  expect(driver.bytes.slice(large + 4096, large + 8192)).toEqual(new Uint8Array(4096));
  epoll.close();
});
