// A 16550A (PC16550D data sheet) that only transmits: the kernel's early messages. Nothing is ever received.

export const SERIAL_PORT = 0x3f8;
export const SERIAL_PORTS = 8;
export const SERIAL_IRQ = 4;

// Register offsets, and where their values stand.
const THR = 0, IER = 1, IIR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7;
const DLL = 8, DLM = 9, THRE_PENDING = 10;
const STATE_SIZE = 16;
/** Output is handed on by the line, or at this length. */
const MAX_LINE = 1024, NEWLINE = 0x0a;

const LCR_DLAB = 0x80, IER_THRI = 0x02, MCR_LOOP = 0x10;
const IIR_NONE = 0x01, IIR_THRI = 0x02, IIR_FIFO = 0xc0;
const LSR_EMPTY = 0x60; // THRE and TEMT
const MSR_READY = 0xb0; // DCD, DSR, CTS

export class Serial {
  private readonly registers = new Uint8Array(STATE_SIZE);
  private readonly line = new Uint8Array(MAX_LINE);
  private length = 0;

  /** `output` takes bytes that are valid only during the call; `interrupt` pulses IRQ 4. */
  constructor(private readonly output: (bytes: Uint8Array) => void, private readonly interrupt: () => void) {}

  save(): number[] { return [...this.registers]; }

  /** Its interrupt may have been on its way: it comes again. */
  restore(registers: readonly number[]): void {
    this.registers.set(registers.slice(0, STATE_SIZE));
    if ((this.registers[IER]! & IER_THRI) !== 0) this.interrupt();
  }

  /** Hands on what is there of a line. */
  flush(): void {
    if (this.length > 0) this.output(this.line.subarray(0, this.length));
    this.length = 0;
  }

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

  private transmit(byte: number): void {
    this.line[this.length++] = byte;
    if (byte === NEWLINE || this.length === MAX_LINE) this.flush();
  }

  /** The transmitter is always empty, so its interrupt is due as soon as it is enabled. */
  private raiseIfEnabled(): void {
    if ((this.registers[IER]! & IER_THRI) === 0) return;
    this.registers[THRE_PENDING] = 1;
    this.interrupt();
  }
}

/** DTR→DSR, RTS→CTS, OUT1→RI, OUT2→DCD. */
function loopback(mcr: number): number {
  return ((mcr & 1) << 5) | ((mcr & 2) << 3) | ((mcr & 4) << 4) | ((mcr & 8) << 4);
}
