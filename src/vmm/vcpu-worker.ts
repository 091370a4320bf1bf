// One vCPU: a Worker that runs KVM_RUN and handles its exits, and nothing else. Ports that need only shared registers are
// answered here; everything else is asked from the main thread and waited for. Hot path: numbers only.
import { syscall } from "../ffi/syscall.ts";
import { SYS } from "../ffi/abi/syscalls.ts";
import { E } from "../ffi/abi/errno.ts";
import { ioctls, KVM, kvm_run } from "../ffi/abi/kvm.ts";
import { signalEventFd } from "../ffi/epoll.ts";
import { foreignBuffer } from "../ffi/memory.ts";
import { SERIAL_PORT, SERIAL_PORTS, SERIAL_STATE_SIZE, Serial } from "./serial.ts";
import {
  End, LOOKS, Machine, MACHINE_SIZE, PCI_MIRROR_OFFSET, PCI_VOLATILE_OFFSET, SERIAL_OFFSET, SERIAL_RING_OFFSET, SERIAL_RING_SIZE, VCPU_BLOCK_SIZE, type VcpuStart, Word,
} from "./vcpu-shared.ts";

const KEYBOARD_STATUS = 0x64, KEYBOARD_RESET = 0xfe;
const PCI_CONFIG_ADDRESS = 0xcf8, PCI_CONFIG_DATA = 0xcfc;
const { KVM_RUN } = ioctls;
const ALL_ONES = [0, 0xff, 0xffff, 0, 0xffffffff] as const;

class VcpuLoop {
  private readonly run: DataView;
  private readonly words: Int32Array;
  private readonly ring: Uint8Array;
  private readonly machineWords: Int32Array;
  private readonly pci: DataView;
  private readonly serial: Serial;
  private readonly sink = new BigUint64Array(1);

  constructor(private readonly start: VcpuStart) {
    // All of this memory belongs to the main thread and lives as long as the process.
    this.run = new DataView(foreignBuffer(start.runAddress, start.runSize));
    const block = foreignBuffer(start.blockAddress, VCPU_BLOCK_SIZE);
    this.words = new Int32Array(block);
    this.ring = new Uint8Array(block, SERIAL_RING_OFFSET, SERIAL_RING_SIZE);
    const machine = foreignBuffer(start.machineAddress, MACHINE_SIZE);
    this.machineWords = new Int32Array(machine);
    this.pci = new DataView(machine);
    this.serial = new Serial(
      new Uint8Array(machine, SERIAL_OFFSET, SERIAL_STATE_SIZE),
      (byte) => this.transmit(byte),
      () => signalEventFd(start.serialIrqFd),
    );
  }

  loop(): void {
    const { words, run } = this;
    Atomics.store(words, Word.TID, syscall(SYS.gettid));
    signalEventFd(this.start.mainFd); // somebody may wait for it to run
    const fd = this.start.vcpuFd;
    while (Atomics.load(words, Word.ENDED) === End.NONE) {
      if (Atomics.load(words, Word.PARK) !== 0) this.park();
      const result = syscall(SYS.ioctl, fd, KVM_RUN, 0);
      if (result < 0) {
        if (result === -E.EINTR || result === -E.EAGAIN) run.setUint8(kvm_run.immediate_exit, 0);
        else this.end(End.RUN_FAILED, -result);
        continue;
      }
      words[Word.EXITS]!++;
      this.handleExit(run.getUint32(kvm_run.exit_reason, true));
    }
  }

  private handleExit(reason: number): void {
    switch (reason) {
      case KVM.KVM_EXIT_IO: return this.handlePort();
      case KVM.KVM_EXIT_MMIO: return this.handleMmio();
      case KVM.KVM_EXIT_INTR: return;
      case KVM.KVM_EXIT_SHUTDOWN: return this.end(End.SHUTDOWN, 0);
      case KVM.KVM_EXIT_INTERNAL_ERROR: return this.end(End.INTERNAL_ERROR, this.run.getUint32(kvm_run["internal.suberror"], true));
      case KVM.KVM_EXIT_FAIL_ENTRY:
        return this.end(End.FAIL_ENTRY, this.run.getUint32(kvm_run["fail_entry.hardware_entry_failure_reason"], true));
      default: return this.end(End.UNKNOWN_EXIT, reason);
    }
  }

  private handlePort(): void {
    const { run } = this;
    const write = run.getUint8(kvm_run["io.direction"]) === KVM.KVM_EXIT_IO_OUT;
    const size = run.getUint8(kvm_run["io.size"]), port = run.getUint16(kvm_run["io.port"], true);
    const count = run.getUint32(kvm_run["io.count"], true);
    const data = run.getUint32(kvm_run["io.data_offset"], true); // within the mapping: KVM wrote it
    for (let i = 0; i < count; i++) {
      const at = data + i * size;
      if (write) this.portWrite(port, size, load(run, at, size));
      else store(run, at, size, this.portRead(port, size));
    }
  }

  private portRead(port: number, size: number): number {
    if (port >= SERIAL_PORT && port < SERIAL_PORT + SERIAL_PORTS && size === 1) return this.serial.read(port - SERIAL_PORT);
    if (port >= PCI_CONFIG_DATA && port < PCI_CONFIG_DATA + 4 && port + size <= PCI_CONFIG_DATA + 4) return this.pciRead(port, size);
    if (port === PCI_CONFIG_ADDRESS && size === 4) return Atomics.load(this.machineWords, Machine.PCI_ADDRESS) >>> 0;
    if (port === KEYBOARD_STATUS) return 0; // input buffer empty: the reset command may be written
    return ALL_ONES[size] ?? 0xffffffff;
  }

  private portWrite(port: number, size: number, value: number): void {
    if (port >= SERIAL_PORT && port < SERIAL_PORT + SERIAL_PORTS && size === 1) this.serial.write(port - SERIAL_PORT, value);
    else if (port === PCI_CONFIG_ADDRESS && size === 4) Atomics.store(this.machineWords, Machine.PCI_ADDRESS, value | 0);
    else if (port >= PCI_CONFIG_DATA && port + size <= PCI_CONFIG_DATA + 4) this.ask(true, true, port, 0, size, value, 0);
    else if (port === KEYBOARD_STATUS && value === KEYBOARD_RESET) this.end(End.RESET, 0);
  }

  /** Configuration reads are most of what a booting kernel asks: answered from main's mirror where that can't be stale. */
  private pciRead(port: number, size: number): number {
    const address = Atomics.load(this.machineWords, Machine.PCI_ADDRESS) >>> 0;
    const slot = (address >>> 11) & 0x1f;
    const busAndFunction = address & 0x00ff_0700;
    const present = (Atomics.load(this.machineWords, Machine.PCI_PRESENT) >>> slot) & 1;
    if (address < 0x8000_0000 || busAndFunction !== 0 || present === 0) return ALL_ONES[size] ?? 0xffffffff;
    const dword = (address >>> 2) & 0x3f;
    const isVolatile = (this.pci.getUint8(PCI_VOLATILE_OFFSET + slot * 8 + (dword >>> 3)) >>> (dword & 7)) & 1;
    if (isVolatile === 1) return this.ask(true, false, port, 0, size, 0, 0);
    return load(this.pci, PCI_MIRROR_OFFSET + slot * 256 + dword * 4 + (port - PCI_CONFIG_DATA), size);
  }

  private handleMmio(): void {
    const { run } = this;
    const low = run.getUint32(kvm_run["mmio.phys_addr"], true), high = run.getUint32(kvm_run["mmio.phys_addr"] + 4, true);
    const size = run.getUint32(kvm_run["mmio.len"], true);
    const at = kvm_run["mmio.data"];
    if (run.getUint8(kvm_run["mmio.is_write"]) !== 0) {
      // Bytes behind the access are left over from older ones.
      if (size === 8) this.ask(false, true, low, high, size, run.getUint32(at, true), run.getUint32(at + 4, true));
      else this.ask(false, true, low, high, size, load(run, at, size), 0);
    } else {
      run.setUint32(at, this.ask(false, false, low, high, size, 0, 0), true);
      run.setUint32(at + 4, this.words[Word.DATA_HIGH]!, true);
    }
  }

  /** Hands an access to the main thread and sleeps until it is answered; returns the low half of the answer. */
  private ask(port: boolean, write: boolean, low: number, high: number, size: number, dataLow: number, dataHigh: number): number {
    const { words } = this;
    words[Word.REQUEST_PORT] = port ? 1 : 0;
    words[Word.REQUEST_WRITE] = write ? 1 : 0;
    words[Word.ADDRESS_LOW] = low;
    words[Word.ADDRESS_HIGH] = high;
    words[Word.SIZE] = size;
    words[Word.DATA_LOW] = dataLow;
    words[Word.DATA_HIGH] = dataHigh;
    Atomics.store(words, Word.REQUEST, 1);
    // Both sides first say what they are about to do, then look once more: no request and no answer is slept over.
    if (Atomics.load(this.machineWords, Machine.MAIN_LOOKS) === 0) signalEventFd(this.start.mainFd);
    for (let looks = LOOKS; looks > 0 && Atomics.load(words, Word.REQUEST) !== 0; looks--);
    if (Atomics.load(words, Word.REQUEST) !== 0) this.sleepUntilAnswered();
    return words[Word.DATA_LOW]! >>> 0;
  }

  private sleepUntilAnswered(): void {
    const { words } = this;
    Atomics.store(words, Word.SLEEPS, 1);
    // Main may signal for other reasons (a wish to park): those wait.
    while (Atomics.load(words, Word.REQUEST) !== 0) syscall(SYS.read, this.start.wakeFd, this.sink, 8);
    Atomics.store(words, Word.SLEEPS, 0);
  }

  private transmit(byte: number): void {
    const { words } = this;
    const head = words[Word.SERIAL_HEAD]!;
    // A full ring waits for main: kernel messages are not lost, and a guest that floods the port only slows itself.
    while (((head - Atomics.load(words, Word.SERIAL_TAIL)) | 0) >= SERIAL_RING_SIZE) {
      if (Atomics.load(words, Word.ENDED) !== End.NONE) return;
      signalEventFd(this.start.mainFd);
      syscall(SYS.sched_yield);
    }
    this.ring[head & (SERIAL_RING_SIZE - 1)] = byte;
    Atomics.store(words, Word.SERIAL_HEAD, (head + 1) | 0);
    if (byte === 0x0a) signalEventFd(this.start.mainFd);
  }

  /** Completes what KVM still owes the last exit, tells main, and sleeps until PARK is taken back. */
  private park(): void {
    const { words, run } = this;
    for (;;) {
      run.setUint8(kvm_run.immediate_exit, 1);
      const result = syscall(SYS.ioctl, this.start.vcpuFd, KVM_RUN, 0);
      if (result !== 0) break;
      // Completing one access of several produces the next: it is handled before parking.
      this.handleExit(run.getUint32(kvm_run.exit_reason, true));
      if (Atomics.load(words, Word.ENDED) !== End.NONE) return;
    }
    run.setUint8(kvm_run.immediate_exit, 0);
    Atomics.store(words, Word.PARKED, 1);
    signalEventFd(this.start.mainFd);
    while (Atomics.load(words, Word.PARK) !== 0 && Atomics.load(words, Word.ENDED) === End.NONE) syscall(SYS.read, this.start.wakeFd, this.sink, 8);
    Atomics.store(words, Word.PARKED, 0);
    signalEventFd(this.start.mainFd);
  }

  end(why: number, detail: number): void {
    this.words[Word.DETAIL] = detail;
    Atomics.store(this.words, Word.ENDED, why);
    signalEventFd(this.start.mainFd);
  }
}

/** 1, 2 or 4 bytes, unsigned. KVM splits wider accesses. */
function load(view: DataView, at: number, size: number): number {
  if (size === 1) return view.getUint8(at);
  if (size === 2) return view.getUint16(at, true);
  return view.getUint32(at, true);
}

function store(view: DataView, at: number, size: number, value: number): void {
  if (size === 1) view.setUint8(at, value);
  else if (size === 2) view.setUint16(at, value, true);
  else view.setUint32(at, value, true);
}

declare const self: Worker;
self.onmessage = (message: MessageEvent<VcpuStart>) => {
  const loop = new VcpuLoop(message.data);
  try {
    loop.loop();
  } catch (error) {
    console.error(`vCPU ${message.data.index} failed:`, error);
    loop.end(End.THREW, 0);
  }
};
