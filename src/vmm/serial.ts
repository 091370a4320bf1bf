// A 16550A (PC16550D data sheet) that only transmits: the kernel's early messages. Its registers are bytes shared by all
// vCPU Workers, its output goes into the writing vCPU's ring. Nothing is ever received.

export const SERIAL_PORT = 0x3f8;
export const SERIAL_PORTS = 8;
export const SERIAL_IRQ = 4;

// Register offsets, and where their values stand in the shared bytes.
const THR = 0, IER = 1, IIR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7;
const DLL = 8, DLM = 9, THRE_PENDING = 10;
export const SERIAL_STATE_SIZE = 16;

const LCR_DLAB = 0x80, IER_THRI = 0x02, MCR_LOOP = 0x10;
const IIR_NONE = 0x01, IIR_THRI = 0x02, IIR_FIFO = 0xc0;
const LSR_EMPTY = 0x60; // THRE and TEMT
const MSR_READY = 0xb0; // DCD, DSR, CTS

export class Serial {
  /** `registers`: SERIAL_STATE_SIZE shared bytes; `transmit` takes one byte; `interrupt` pulses IRQ 4. */
  constructor(
    private readonly registers: Uint8Array,
    private readonly transmit: (byte: number) => void,
    private readonly interrupt: () => void,
  ) {}

  read(register: number): number {
    const r = this.registers;
    const divisor = (r[LCR]! & LCR_DLAB) !== 0;
    switch (register) {
      case THR: return divisor ? r[DLL]! : 0;
      case IER: return divisor ? r[DLM]! : r[IER]!;
      case IIR: {
        const pending = r[THRE_PENDING]!;
        r[THRE_PENDING] = 0; // reading IIR acknowledges the transmitter's interrupt
        return (pending ? IIR_THRI : IIR_NONE) | IIR_FIFO;
      }
      case LSR: return LSR_EMPTY;
      // In loop mode the outputs come back as inputs: the driver's probe looks for it.
      case MSR: return r[MCR]! & MCR_LOOP ? loopback(r[MCR]!) : MSR_READY;
      default: return r[register]!;
    }
  }

  write(register: number, value: number): void {
    const r = this.registers;
    const divisor = (r[LCR]! & LCR_DLAB) !== 0;
    if (register === THR && !divisor) {
      if ((r[MCR]! & MCR_LOOP) === 0) this.transmit(value);
      this.raiseIfEnabled();
    } else if (register === THR) r[DLL] = value;
    else if (register === IER && divisor) r[DLM] = value;
    else if (register === IER) {
      const before = r[IER]!;
      r[IER] = value & 0x0f;
      if ((before & IER_THRI) === 0) this.raiseIfEnabled();
    } else if (register === LCR || register === MCR || register === SCR) r[register] = value;
  }

  /** The transmitter is always empty, so its interrupt is due as soon as it is enabled. */
  private raiseIfEnabled(): void {
    if ((this.registers[IER]! & IER_THRI) === 0) return;
    this.registers[THRE_PENDING] = 1;
    this.interrupt();
  }
}

/** Whether the saved registers ask for interrupts. */
export const serialInterrupts = (registers: readonly number[]): boolean => ((registers[IER] ?? 0) & IER_THRI) !== 0;

/** DTR→DSR, RTS→CTS, OUT1→RI, OUT2→DCD. */
function loopback(mcr: number): number {
  return ((mcr & 1) << 5) | ((mcr & 2) << 3) | ((mcr & 4) << 4) | ((mcr & 8) << 4);
}
