// The machine with tiny guests of our own: they run on every KVM, also on one that can't run Linux.
import { expect, test } from "bun:test";
import { Epoll } from "../../src/ffi/epoll.ts";
import { O_RDWR, openFd } from "../../src/ffi/fd.ts";
import { Machine, type MachineEnd } from "../../src/vmm/machine.ts";
import { tinyGuest } from "./guests/build.ts";

const COUNTER = 0x200000;

function run(name: string, vcpus = 1) {
  const epoll = new Epoll();
  let output = "", end: MachineEnd | null = null;
  const machine = new Machine(epoll, {
    kvmFd: openFd("/dev/kvm", O_RDWR), memoryBytes: 64 * 2 ** 20, vcpus, xsave: true,
    onSerial: (bytes) => { output += Buffer.from(bytes).toString(); },
    onEnd: (e) => { end = e; },
  });
  machine.boot({ kernel: tinyGuest(name), initrd: [], cmdline: "", vcpus });
  const until = (condition: () => boolean) => { while (!condition()) epoll.poll(100); };
  return { machine, until, output: () => output, end: () => end as MachineEnd | null };
}

test("Machine runs a guest that prints, reads PCI configuration space and resets", () => {
  const guest = run("hello");
  guest.until(() => guest.end() !== null);
  expect(guest.output()).toBe("hello from the guest\nK\n");
  expect(guest.end()).toEqual({ kind: "reset", message: "the guest reset itself" });
  expect(guest.machine.exits()).toBeGreaterThan(20);
});

test("Machine reports a triple fault", () => {
  const guest = run("fault");
  guest.until(() => guest.end() !== null);
  expect(guest.end()!.kind).not.toBe("reset");
});

test("Machine.pause() stops all vCPUs and resume() lets them go on", () => {
  const guest = run("counter", 2);
  const counter = () => new DataView(guest.machine.memory.read(COUNTER, 8)!.buffer).getBigUint64(0, true);
  guest.until(() => counter() > 1000n);
  for (let round = 0; round < 20; round++) {
    let paused = false;
    guest.machine.pause(() => { paused = true; });
    guest.until(() => paused);
    const still = counter();
    expect(counter()).toBe(still);
    guest.machine.resume();
    guest.until(() => counter() > still);
  }
});
