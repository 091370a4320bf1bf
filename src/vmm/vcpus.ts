// The main thread's side of the vCPUs: starts their threads, answers what they leave the guest for, parks them. A vCPU and main take
// turns (arch/x86/vcpu-loop.ts): while it is main's, the vCPU's thread waits, and its kvm_run is main's.
import { E } from "../ffi/abi/errno.ts";
import { kvm_run } from "../ffi/abi/kvm.ts";
import { SYS } from "../ffi/abi/syscalls.ts";
import { EPOLLIN, EventFd, type Epoll } from "../ffi/epoll.ts";
import { Mapping, PAGE_SIZE } from "../ffi/memory.ts";
import { kickThread } from "../ffi/signal.ts";
import { syscall } from "../ffi/syscall.ts";
import { STACK_SIZE, startThread } from "../ffi/thread.ts";
import { Block, BLOCK_STRIDE, lookForTurn, Turn, vcpuLoopAddress } from "./arch/x86/vcpu-loop.ts";
import type { Vcpu } from "./kvm.ts";
import { answerExit, End, type ExitHandler } from "./vcpu-exit.ts";

/** Accesses answered in one go before the devices get their turn. */
const ACCESSES = 256;
/**
 * How often one side looks for the other before it sleeps, with a pause each time: some ten microseconds and more. A driver that sets up its device asks hundreds
 * of times in a row, and two thread switches take longer than that. Of no use where both share one CPU.
 */
const LOOKS = navigator.hardwareConcurrency > 1 ? 500 : 0;
const FUTEX_WAKE_PRIVATE = 0x81; // linux/futex.h: FUTEX_WAKE | FUTEX_PRIVATE_FLAG

interface Slot {
  readonly words: Int32Array;
  readonly run: DataView;
  readonly tid: number;
  /** Parked: the turn is main's, and nothing waits for an answer. */
  held: boolean;
}

/** Word indices of what main looks at in a block. */
const TURN = Block.TURN / 4, RESULT = Block.RESULT / 4;

export class Vcpus {
  private readonly slots: readonly Slot[];
  private readonly event = new EventFd();
  /** A page with the word that says that main looks, then a stack and a block for each vCPU. Lives as long as the process: threads use it. */
  private readonly memory: Mapping;
  private readonly mainLooks: Int32Array;
  private parking = true;
  private onParked: (() => void) | null = null;
  private stopped = false;
  private exitCount = 0;

  private handler!: ExitHandler;

  /** All are parked until resume(), and serve() comes before that. */
  constructor(epoll: Epoll, readonly vcpus: readonly Vcpu[]) {
    this.memory = Mapping.anonymous(PAGE_SIZE + vcpus.length * BLOCK_STRIDE);
    this.mainLooks = new Int32Array(this.memory.buffer(0, PAGE_SIZE));
    this.slots = vcpus.map((vcpu, i) => this.start(vcpu, PAGE_SIZE + i * BLOCK_STRIDE));
    epoll.add(this.event.fd, EPOLLIN, () => this.onEvent());
  }

  get count(): number { return this.slots.length; }

  /** Who answers what they leave the guest for. */
  serve(handler: ExitHandler): void { this.handler = handler; }

  private start(vcpu: Vcpu, offset: number): Slot {
    const buffer = this.memory.buffer(offset + STACK_SIZE, PAGE_SIZE), block = new DataView(buffer);
    block.setInt32(Block.TURN, Turn.MAINS, true);
    block.setInt32(Block.VCPU_FD, vcpu.fd, true);
    block.setInt32(Block.MAIN_FD, this.event.fd, true);
    block.setInt32(Block.LOOKS, LOOKS, true);
    block.setBigUint64(Block.ONE, 1n, true);
    block.setBigUint64(Block.MAIN_LOOKS, BigInt(this.memory.address), true);
    const tid = startThread(vcpuLoopAddress, this.memory.address + offset + STACK_SIZE, this.memory, offset);
    return { words: new Int32Array(buffer), run: new DataView(vcpu.run.buffer()), tid, held: true };
  }

  /**
   * Asks all vCPUs to stop; `done` runs once all are parked, maybe at once. KVM completes an access only when it is entered again, so a
   * vCPU that has asked for something is answered and entered once more: with immediate_exit it comes back at once, with EINTR, or with
   * the next access of the same instruction.
   */
  park(done: () => void): void {
    this.parking = true;
    this.onParked = done;
    for (const slot of this.slots) {
      if (slot.held) continue;
      slot.run.setUint8(kvm_run.immediate_exit, 1); // for one that is about to enter; the signal for one that is inside
      kickThread(slot.tid);
    }
    this.checkParked();
  }

  /** Every vCPU that was parked is on its way into the guest. */
  resume(): void {
    this.parking = false;
    this.onParked = null;
    for (const slot of this.slots) {
      if (slot.held) this.give(slot);
      else slot.run.setUint8(kvm_run.immediate_exit, 0); // it was asked to park, and had not come yet
    }
  }

  /** The machine has ended: no vCPU gets the turn any more. */
  stop(): void { this.stopped = true; }

  /** Exits to user space. */
  exits(): number { return this.exitCount; }

  /**
   * Answers what waits, and for a moment what comes after it: see LOOKS. A guest that asks without end gets no more than its share: the
   * other descriptors of the main loop are looked at in between.
   */
  private onEvent(): void {
    this.event.drain();
    Atomics.store(this.mainLooks, 0, 1);
    let accesses = this.answerWaiting();
    while (accesses < ACCESSES && !this.parking && !this.stopped && this.comesAnother()) accesses += this.answerWaiting();
    Atomics.store(this.mainLooks, 0, 0);
    this.answerWaiting(); // who came while main said that it looks
    this.checkParked();
  }

  /** Only while no vCPU is held: their turns are main's. */
  private comesAnother(): boolean { return lookForTurn(this.memory.address + PAGE_SIZE + STACK_SIZE, this.slots.length, LOOKS) !== 0; }

  private answerWaiting(): number {
    let accesses = 0;
    for (const slot of this.slots)
      if (!slot.held && Atomics.load(slot.words, TURN) !== Turn.VCPUS) accesses += this.answer(slot);
    return accesses;
  }

  /** Returns how many accesses it was. */
  private answer(slot: Slot): number {
    const result = slot.words[RESULT]!;
    let accesses = 1;
    if (result === 0) {
      this.exitCount++;
      accesses = answerExit(slot.run, this.handler);
    } else if (result !== -E.EINTR && result !== -E.EAGAIN) this.handler.ended(End.RUN_FAILED, -result);
    if (this.stopped || (result !== 0 && this.parking)) slot.held = true;
    else this.give(slot);
    return accesses;
  }

  private give(slot: Slot): void {
    if (this.stopped) return;
    slot.held = false;
    slot.run.setUint8(kvm_run.immediate_exit, this.parking ? 1 : 0);
    if (Atomics.exchange(slot.words, TURN, Turn.VCPUS) === Turn.MAINS_VCPU_SLEEPS) syscall(SYS.futex, slot.words, FUTEX_WAKE_PRIVATE, 1);
  }

  private checkParked(): void {
    const done = this.onParked;
    if (done === null || !this.slots.every((slot) => slot.held)) return;
    this.onParked = null;
    done();
  }
}
