// The machine with tiny guests of our own: they run on every KVM, also on one that can't run Linux.
import { expect, test } from "bun:test";
import { Epoll } from "../../src/ffi/epoll.ts";
import { O_RDWR, openFd } from "../../src/ffi/fd.ts";
import { Machine, type MachineEnd } from "../../src/vmm/machine.ts";
import { tinyGuest } from "./guests/build.ts";

const COUNTER = 0x200000;

const MEMORY = 64 * 2 ** 20;

/** A machine that is neither booted nor restored yet. */
function create(vcpus: number) {
  const epoll = new Epoll();
  let output = "", end: MachineEnd | null = null;
  const machine = new Machine(epoll, {
    kvmFd: openFd("/dev/kvm", O_RDWR), memoryBytes: MEMORY, vcpus, xsave: true,
    onSerial: (bytes) => { output += Buffer.from(bytes).toString(); },
    onEnd: (e) => { end = e; },
  });
  const until = (condition: () => boolean) => { while (!condition()) epoll.poll(100); };
  const pause = () => {
    let paused = false;
    machine.pause(() => { paused = true; });
    until(() => paused);
  };
  const counter = () => new DataView(machine.memory.read(COUNTER, 8)!.buffer).getBigUint64(0, true);
  return { machine, until, pause, counter, output: () => output, end: () => end as MachineEnd | null };
}

function run(name: string, vcpus = 1) {
  const guest = create(vcpus);
  guest.machine.boot({ kernel: tinyGuest(name), initrd: [], cmdline: "", vcpus });
  return guest;
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
  guest.until(() => guest.counter() > 1000n);
  for (let round = 0; round < 20; round++) {
    guest.pause();
    const still = guest.counter();
    expect(guest.counter()).toBe(still);
    guest.machine.resume();
    guest.until(() => guest.counter() > still);
  }
});

test("Machine.save() and restore() carry a guest into a new machine, where it goes on from the same instruction", () => {
  const first = run("counter", 2);
  first.until(() => first.counter() > 1000n);
  first.pause();
  const state = first.machine.save();
  const reached = first.counter();

  const second = create(2);
  second.machine.memory.bytes[0]!.set(first.machine.memory.bytes[0]!);
  second.machine.restore(state);
  expect(second.counter()).toBe(reached);
  second.machine.resume();
  // The counter is in a register: a guest that began anew would store small numbers.
  second.until(() => second.counter() !== reached);
  expect(second.counter()).toBeGreaterThan(reached);
});
