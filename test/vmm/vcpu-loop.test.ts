// A vCPU's thread on a descriptor that is no vCPU: KVM_RUN fails with ENOTTY at once, and everything around it can be seen.
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { SYS } from "../../src/ffi/abi/syscalls.ts";
import { E } from "../../src/ffi/abi/errno.ts";
import { EventFd } from "../../src/ffi/epoll.ts";
import { Mapping, PAGE_SIZE } from "../../src/ffi/memory.ts";
import { kickThread, SIGKICK } from "../../src/ffi/signal.ts";
import { syscall } from "../../src/ffi/syscall.ts";
import { STACK_SIZE, startThread } from "../../src/ffi/thread.ts";
import { Block, BLOCK_STRIDE, lookForTurn, Turn, vcpuLoopAddress } from "../../src/vmm/arch/x86/vcpu-loop.ts";

const FUTEX_WAKE_PRIVATE = 0x81;
const TURN = Block.TURN / 4, RESULT = Block.RESULT / 4;

/** The turn is main's. */
function start(looks: number) {
  const memory = Mapping.anonymous(PAGE_SIZE + BLOCK_STRIDE), event = new EventFd(), noVcpu = new EventFd();
  const buffer = memory.buffer(PAGE_SIZE + STACK_SIZE, PAGE_SIZE), block = new DataView(buffer), words = new Int32Array(buffer);
  const set = (at: number, value: number) => block.setInt32(at, value, true);
  set(Block.TURN, Turn.MAINS);
  set(Block.VCPU_FD, noVcpu.fd);
  set(Block.MAIN_FD, event.fd);
  set(Block.LOOKS, looks);
  block.setBigUint64(Block.ONE, 1n, true);
  block.setBigUint64(Block.MAIN_LOOKS, BigInt(memory.address), true);
  const tid = startThread(vcpuLoopAddress, memory.address + PAGE_SIZE + STACK_SIZE, memory, PAGE_SIZE);
  return {
    tid, event, mainLooks: new Int32Array(memory.buffer(0, PAGE_SIZE)),
    turn: () => Atomics.load(words, TURN),
    result: () => words[RESULT],
    give: () => {
      words[RESULT] = 0;
      if (Atomics.exchange(words, TURN, Turn.VCPUS) === Turn.MAINS_VCPU_SLEEPS) syscall(SYS.futex, words, FUTEX_WAKE_PRIVATE, 1);
    },
  };
}
const until = (condition: () => boolean) => { while (!condition()); };

test("a vCPU's thread gives the turn back with what KVM_RUN returned, and signals main unless main looks", () => {
  for (const looks of [0, 1000]) {
    const thread = start(looks);
    for (let i = 0; i < 1000; i++) {
      const looking = i % 2;
      Atomics.store(thread.mainLooks, 0, looking);
      thread.give();
      until(() => thread.turn() !== Turn.VCPUS);
      expect(thread.result()).toBe(-E.ENOTTY);
      if (looking === 0) until(() => thread.event.drain());
    }
    until(() => thread.turn() === Turn.MAINS_VCPU_SLEEPS);
    expect(thread.event.drain()).toBe(false);
  }
});

test("a kick neither ends it nor gives it the turn", () => {
  const thread = start(0);
  for (let i = 0; i < 100; i++) {
    until(() => thread.turn() === Turn.MAINS_VCPU_SLEEPS);
    expect(kickThread(thread.tid)).toBe(0);
    expect(thread.turn()).toBe(Turn.MAINS_VCPU_SLEEPS);
    expect(thread.event.drain()).toBe(false);
    thread.give();
    kickThread(thread.tid);
    until(() => thread.event.drain());
    expect(thread.turn()).not.toBe(Turn.VCPUS);
  }
});

test("main's look finds the turn of any vCPU, and nothing while all have theirs", () => {
  const memory = Mapping.anonymous(4 * BLOCK_STRIDE), look = (looks: number) => lookForTurn(memory.address, 4, looks);
  const turns = [0, 1, 2, 3].map((i) => new Int32Array(memory.buffer(i * BLOCK_STRIDE, 4)));
  for (const looks of [0, 1, 100]) expect(look(looks)).toBe(0);
  for (const words of turns)
    for (const turn of [Turn.MAINS, Turn.MAINS_VCPU_SLEEPS]) {
      words[0] = turn;
      expect(look(0)).toBe(1);
      words[0] = Turn.VCPUS;
    }
  expect(look(0)).toBe(0);
  memory.close();
});

test("only the kick reaches it, and this thread's own signals are as before", () => {
  const blocked = (path: string) => BigInt(`0x${/^SigBlk:\s+([0-9a-f]+)$/m.exec(readFileSync(path, "latin1"))![1]}`);
  const before = blocked("/proc/thread-self/status");
  const { tid } = start(0);
  const bit = (signal: number) => 1n << BigInt(signal - 1);
  expect(blocked(`/proc/self/task/${tid}/status`)).toBe((2n ** 64n - 1n) & ~(bit(9) | bit(19) | bit(SIGKICK))); // nobody can block SIGKILL and SIGSTOP
  expect(blocked("/proc/thread-self/status")).toBe(before);
});
