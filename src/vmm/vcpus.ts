// The main thread's side of the vCPU Workers: starts them, answers their accesses, parks them, hears their end.
import { Mapping } from "../ffi/memory.ts";
import { drainEventFd, type Epoll, EPOLLIN, EventFd, signalEventFd, TimerFd } from "../ffi/epoll.ts";
import { installKickHandler, kickThread } from "../ffi/signal.ts";
import { kvm_run } from "../ffi/abi/kvm.ts";
import type { Vcpu } from "./kvm.ts";
import { End, LOOKS, Machine, MACHINE_SIZE, PCI_MIRROR_OFFSET, SERIAL_RING_OFFSET, SERIAL_RING_SIZE, VCPU_BLOCK_SIZE, type VcpuStart, Word } from "./vcpu-shared.ts";

/** How the main thread answers; addresses and values are the guest's, unsigned, not checked yet. */
export interface AccessHandler {
  portRead(port: number, size: number): number;
  portWrite(port: number, size: number, value: number): void;
  /** Accesses of 8 bytes are handed over as two of 4. */
  memoryRead(gpa: number, size: number): number;
  memoryWrite(gpa: number, size: number, value: number): void;
  /** Bytes that the guest wrote to its serial port; valid only during the call. */
  serial(bytes: Uint8Array): void;
  /** A vCPU has left its loop; `why` is an `End`. */
  ended(vcpu: number, why: number, detail: number): void;
}

const BLOCKING = 0;
/** Requests answered in one go before the devices get their turn. */
const ANSWERS = 256;
/**
 * A Worker that can't load its code says so in an event of the loop that never runs here. It takes milliseconds to start;
 * a thread that is missing after this long will not come.
 */
const START_TIMEOUT_MS = 30_000;

interface Slot {
  readonly vcpu: Vcpu;
  readonly words: Int32Array;
  readonly ring: Uint8Array;
  readonly run: DataView;
  readonly mainEvent: EventFd;
  readonly wakeEvent: EventFd;
  readonly worker: Worker;
  reported: boolean;
}

export class Vcpus {
  /** Owned for the life of the process: Workers hold views of it. */
  readonly shared: Mapping;
  private readonly slots: Slot[] = [];
  private readonly machineWords: Int32Array;
  private onParked: (() => void) | null = null;
  private onRunning: (() => void) | null = null;
  private readonly startTimer = new TimerFd();

  /** `newWorker` gives one of src/vmm/vcpu-worker.ts that has got nothing yet. */
  constructor(private readonly epoll: Epoll, count: number, private readonly newWorker: () => Worker, private readonly handler: AccessHandler) {
    this.shared = Mapping.anonymous(MACHINE_SIZE + count * VCPU_BLOCK_SIZE);
    this.machineWords = new Int32Array(this.shared.buffer(0, MACHINE_SIZE));
    installKickHandler();
    epoll.add(this.startTimer.fd, EPOLLIN, () => this.checkStarted());
    this.startTimer.arm(START_TIMEOUT_MS);
  }

  /** Starts a Worker; it runs the vCPU at once unless `parked`. */
  start(vcpu: Vcpu, serialIrqFd: number, parked: boolean): void {
    const blockOffset = MACHINE_SIZE + this.slots.length * VCPU_BLOCK_SIZE;
    const block = this.shared.buffer(blockOffset, VCPU_BLOCK_SIZE);
    const mainEvent = new EventFd(), wakeEvent = new EventFd(BLOCKING);
    const words = new Int32Array(block);
    if (parked) Atomics.store(words, Word.PARK, 1);
    const worker = this.newWorker();
    const slot: Slot = {
      vcpu, words, ring: new Uint8Array(block, SERIAL_RING_OFFSET, SERIAL_RING_SIZE), run: new DataView(vcpu.run.buffer()),
      mainEvent, wakeEvent, worker, reported: false,
    };
    this.slots.push(slot);
    this.epoll.add(mainEvent.fd, EPOLLIN, () => this.onEvent(slot));
    const start: VcpuStart = {
      index: vcpu.index, vcpuFd: vcpu.fd, runAddress: vcpu.run.address, runSize: vcpu.run.length,
      machineAddress: this.shared.address, blockAddress: this.shared.address + blockOffset,
      mainFd: mainEvent.fd, wakeFd: wakeEvent.fd, serialIrqFd,
    };
    worker.postMessage(start);
  }

  /** 256 bytes that Workers read as the configuration space of a slot. */
  pciMirror(slot: number): Uint8Array { return this.shared.bytes(PCI_MIRROR_OFFSET + slot * 256, 256); }

  /** Asks all vCPUs to stop; `done` runs once all are parked (or have ended), maybe at once. */
  park(done: () => void): void {
    this.onParked = done;
    this.onRunning = null;
    for (const slot of this.slots) Atomics.store(slot.words, Word.PARK, 1);
    for (const slot of this.slots) this.kick(slot);
    this.checkParked();
  }

  /** `running` runs once no vCPU is parked any more. */
  resume(running?: () => void): void {
    this.onParked = null;
    this.onRunning = running ?? null;
    for (const slot of this.slots) {
      Atomics.store(slot.words, Word.PARK, 0);
      slot.wakeEvent.signal();
    }
  }

  exits(): number { return this.slots.reduce((sum, slot) => sum + (slot.words[Word.EXITS]! >>> 0), 0); }

  /** Takes out what the serial rings still hold. */
  drainSerial(): void { for (const slot of this.slots) this.takeSerial(slot); }

  /** Out of KVM_RUN: the flag for a Worker that is about to enter, the signal for one that is inside. */
  private kick(slot: Slot): void {
    slot.run.setUint8(kvm_run.immediate_exit, 1);
    const tid = Atomics.load(slot.words, Word.TID);
    if (tid !== 0) kickThread(tid);
  }

  private checkStarted(): void {
    this.startTimer.drain();
    const missing = this.slots.find((slot) => Atomics.load(slot.words, Word.TID) === 0);
    if (missing !== undefined) this.handler.ended(missing.vcpu.index, End.NOT_STARTED, 0);
  }

  private onEvent(slot: Slot): void {
    drainEventFd(slot.mainEvent.fd);
    this.takeSerial(slot);
    if (Atomics.load(slot.words, Word.REQUEST) === 1) this.answerAll();
    const ended = Atomics.load(slot.words, Word.ENDED);
    if (ended !== End.NONE && !slot.reported) {
      slot.reported = true;
      this.handler.ended(slot.vcpu.index, ended, slot.words[Word.DETAIL]!);
    }
    this.checkParked();
    this.checkRunning();
  }

  private checkRunning(): void {
    const done = this.onRunning;
    if (done === null) return;
    for (const { words } of this.slots) if (Atomics.load(words, Word.TID) === 0 || Atomics.load(words, Word.PARKED) !== 0) return;
    this.onRunning = null;
    done();
  }

  private checkParked(): void {
    const done = this.onParked;
    if (done === null) return;
    for (const { words } of this.slots)
      if (Atomics.load(words, Word.PARKED) === 0 && Atomics.load(words, Word.ENDED) === End.NONE) return;
    this.onParked = null;
    done();
  }

  /** Answers what waits, and for a moment what comes after it: see LOOKS. */
  private answerAll(): void {
    Atomics.store(this.machineWords, Machine.MAIN_LOOKS, 1);
    let answers = this.answerWaiting();
    for (let looks = LOOKS; looks > 0 && answers < ANSWERS; looks--) {
      const more = this.answerWaiting();
      if (more > 0) looks = LOOKS;
      answers += more;
    }
    Atomics.store(this.machineWords, Machine.MAIN_LOOKS, 0);
    this.answerWaiting();
  }

  private answerWaiting(): number {
    let answers = 0;
    for (const slot of this.slots) {
      if (Atomics.load(slot.words, Word.REQUEST) === 0) continue;
      this.answer(slot);
      answers++;
    }
    return answers;
  }

  private answer(slot: Slot): void {
    const { words } = slot;
    const low = words[Word.ADDRESS_LOW]! >>> 0, size = words[Word.SIZE]!;
    const isWrite = words[Word.REQUEST_WRITE] === 1;
    if (words[Word.REQUEST_PORT] === 1) {
      if (isWrite) this.handler.portWrite(low, size, words[Word.DATA_LOW]! >>> 0);
      else words[Word.DATA_LOW] = this.handler.portRead(low, size);
    } else this.answerMemory(words, low + (words[Word.ADDRESS_HIGH]! >>> 0) * 2 ** 32, size, isWrite);
    Atomics.store(words, Word.REQUEST, 0);
    if (Atomics.load(words, Word.SLEEPS) === 1) signalEventFd(slot.wakeEvent.fd);
  }

  private answerMemory(words: Int32Array, gpa: number, size: number, isWrite: boolean): void {
    const first = Math.min(size, 4);
    if (isWrite) {
      this.handler.memoryWrite(gpa, first, words[Word.DATA_LOW]! >>> 0);
      if (size > 4) this.handler.memoryWrite(gpa + 4, size - 4, words[Word.DATA_HIGH]! >>> 0);
    } else {
      words[Word.DATA_LOW] = this.handler.memoryRead(gpa, first);
      words[Word.DATA_HIGH] = size > 4 ? this.handler.memoryRead(gpa + 4, size - 4) : 0;
    }
  }

  private takeSerial(slot: Slot): void {
    const { words, ring } = slot;
    const head = Atomics.load(words, Word.SERIAL_HEAD) | 0;
    let tail = words[Word.SERIAL_TAIL]!;
    while (tail !== head) {
      const at = tail & (SERIAL_RING_SIZE - 1);
      const length = Math.min((head - tail) | 0, SERIAL_RING_SIZE - at);
      this.handler.serial(ring.subarray(at, at + length));
      tail = (tail + length) | 0;
    }
    Atomics.store(words, Word.SERIAL_TAIL, tail);
  }
}
