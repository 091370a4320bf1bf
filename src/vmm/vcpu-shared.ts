// The memory that the main thread and the vCPU Workers share: offsets and words only.
// One page for the machine's small registers, the mirror of PCI configuration space, then a block for each vCPU.
// Words that one side publishes to the other are read and written with Atomics.

/** Machine page: 32-bit words, by index. */
export const Machine = {
  /** CONFIG_ADDRESS, port 0xCF8. The kernel's pci_config_lock keeps address and data together. */
  PCI_ADDRESS: 0,
  /** Bit n: slot n of bus 0 holds a function. */
  PCI_PRESENT: 1,
  /** 1: the main thread looks for requests by itself, and needs no signal. */
  MAIN_LOOKS: 2,
} as const;
/** Byte offset of the serial port's registers in the machine page (see serial.ts). */
export const SERIAL_OFFSET = 64;
/** 8 bytes a slot: bit n set = dword n of the configuration space must be asked from the main thread at every read. */
export const PCI_VOLATILE_OFFSET = 0x400;
/** 256 bytes a slot. */
export const PCI_MIRROR_OFFSET = 0x1000;
export const PCI_SLOTS = 32;
export const MACHINE_SIZE = PCI_MIRROR_OFFSET + PCI_SLOTS * 256;

/** A vCPU's block: 32-bit words, by index. */
export const Word = {
  /** Thread id of the Worker, 0 until it runs; for tgkill. */
  TID: 0,
  /** Main → vCPU: 1 = park at the next chance. */
  PARK: 1,
  /** vCPU → main: 1 = parked, waiting for its eventfd. */
  PARKED: 2,
  /** vCPU → main: an `End` value; the Worker has left its loop. */
  ENDED: 3,
  /** With ENDED: exit reason, suberror or errno. */
  DETAIL: 4,
  /** vCPU → main: 1 = an access below waits for an answer; main sets 0. */
  REQUEST: 5,
  REQUEST_PORT: 6, // 1: I/O port, 0: memory
  REQUEST_WRITE: 7,
  ADDRESS_LOW: 8,
  ADDRESS_HIGH: 9,
  SIZE: 10,
  /** Value written, or main's answer; 8 bytes. */
  DATA_LOW: 11,
  DATA_HIGH: 12,
  /** Exits to user space, modulo 2^32. */
  EXITS: 13,
  /** Serial output ring: the Worker advances HEAD, main advances TAIL; both modulo 2^32. */
  SERIAL_HEAD: 14,
  SERIAL_TAIL: 15,
  /** 1: the Worker waits for its answer in read(), and needs a signal. */
  SLEEPS: 16,
} as const;
export const SERIAL_RING_OFFSET = 2048;
export const SERIAL_RING_SIZE = 2048; // a power of two
export const VCPU_BLOCK_SIZE = 4096;

/**
 * How often one side looks for the other before it sleeps: some twenty microseconds. A driver that sets up its device asks hundreds
 * of times in a row: on two idle CPUs an access takes 11 µs so, and 65 µs with two thread switches. Of no use where both share one CPU.
 */
export const LOOKS = navigator.hardwareConcurrency > 1 ? 8000 : 0;

/** Why a Worker left its loop. */
export const End = { NONE: 0, RESET: 1, SHUTDOWN: 2, INTERNAL_ERROR: 3, FAIL_ENTRY: 4, UNKNOWN_EXIT: 5, RUN_FAILED: 6, THREW: 7, NOT_STARTED: 8 } as const;

/** What a Worker is started with. Addresses are the main thread's: same process, same address space. */
export interface VcpuStart {
  readonly index: number;
  readonly vcpuFd: number;
  readonly runAddress: number;
  readonly runSize: number;
  /** The machine page's address, and this vCPU's block. */
  readonly machineAddress: number;
  readonly blockAddress: number;
  /** Eventfd that wakes main. */
  readonly mainFd: number;
  /** Blocking eventfd that wakes this Worker. */
  readonly wakeFd: number;
  /** Eventfd of the serial port's interrupt (ISA IRQ 4). */
  readonly serialIrqFd: number;
}
