// The machine with tiny guests of our own: they run on every KVM, also on one that can't run Linux.
import { expect, test } from "bun:test";
import { EPOLLIN, Epoll, EventFd } from "../../src/ffi/epoll.ts";
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
  return { epoll, machine, until, pause, counter, output: () => output, end: () => end as MachineEnd | null };
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
  // Two configuration reads: their addresses are posted (posted.ts), which every KVM of today can.
  expect(guest.machine.exits()).toBe("hello from the guest\nK\n".length + 2 + 1);
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
  guest.pause(); // no vCPU is left running beside the other tests
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
  second.pause();
});

const LINE = "abcdefghijklmnopqrstuvwxyz";

test("a guest that is paused and saved amid string instructions loses and doubles nothing of them", () => {
  const first = run("strings");
  for (let round = 0; round < 50; round++) {
    first.pause();
    const exits = first.machine.exits();
    first.machine.resume();
    first.until(() => first.machine.exits() > exits + 7);
  }
  first.pause();
  const state = first.machine.save();
  const second = create(1);
  second.machine.memory.bytes[0]!.set(first.machine.memory.bytes[0]!);
  second.machine.restore(state);
  second.machine.restoreBoard(state.board);
  second.machine.resume();
  second.until(() => second.output().length > 20 * LINE.length);
  second.pause();
  second.machine.save(); // hands on what there is of a line
  const lines = (first.output() + second.output()).split("\n");
  expect(LINE.startsWith(lines.pop()!)).toBe(true);
  expect(lines.filter((line) => line !== LINE)).toEqual([]);
  expect([first.end(), second.end()]).toEqual([null, null]);
});

test("a guest that asks without end leaves other descriptors their turn, and can be paused", () => {
  const guest = run("strings");
  const event = new EventFd();
  event.signal();
  let turns = 0;
  guest.epoll.add(event.fd, EPOLLIN, () => { turns++; }); // ready for ever
  for (let round = 0; round < 10; round++) {
    const before = turns, exits = guest.machine.exits();
    guest.until(() => turns > before + 10 && guest.machine.exits() > exits + 1000);
    guest.pause();
    const still = guest.machine.exits();
    guest.epoll.poll(0);
    expect(guest.machine.exits()).toBe(still);
    guest.machine.resume();
  }
  guest.pause();
});

test("pause() called off before the vCPUs have come leaves them running", () => {
  const guest = run("counter", 4);
  guest.until(() => guest.counter() > 1000n);
  for (let round = 0; round < 100; round++) {
    guest.machine.pause(() => { throw new Error("was called off"); });
    guest.machine.resume();
  }
  const reached = guest.counter();
  guest.until(() => guest.counter() > reached);
  guest.pause();
});
