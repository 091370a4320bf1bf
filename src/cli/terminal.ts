// The terminal we stand on: raw mode, its size, and the keys that leave a session.
import { ioctls, OFLAG, termios } from "../ffi/abi/termbits.ts";
import { SYS } from "../ffi/abi/syscalls.ts";
import { must } from "../ffi/syscall.ts";

/** Rows and columns; 24 by 80 where nothing tells. */
export const terminalSize = (): { rows: number; cols: number } => ({ rows: process.stdout.rows || 24, cols: process.stdout.columns || 80 });

/** Sends every key through as it is typed, and shows what comes as it is. Returns what puts the terminal back; call it once. */
export function rawMode(): () => void {
  const restore = rawInput();
  untouchedOutput();
  return restore;
}

/** What ends us and the runtime does not put the terminal back for, as it does for SIGINT and SIGTERM. */
const ENDING = ["SIGHUP", "SIGQUIT"] as const;

/** Takes every key as it is typed, and shows none. Returns what puts the terminal back; call it once. */
export function rawInput(): () => void {
  const restore = () => {
    for (const signal of ENDING) process.off(signal, onSignal);
    process.stdin.setRawMode(false);
  };
  const onSignal = (signal: NodeJS.Signals) => {
    restore();
    process.kill(process.pid, signal); // and now it ends us
  };
  process.stdin.setRawMode(true);
  for (const signal of ENDING) process.on(signal, onSignal);
  return restore;
}

/** The runtime's raw mode still puts a carriage return before each line feed. The guest's terminal has done so where its program wants it. */
function untouchedOutput(): void {
  const settings = new DataView(new ArrayBuffer(termios.size)), at = termios.at.c_oflag;
  must("Cannot read the terminal's settings", SYS.ioctl, 0, ioctls.TCGETS, settings);
  settings.setUint32(at, settings.getUint32(at, true) & ~OFLAG.OPOST, true);
  must("Cannot change the terminal's settings", SYS.ioctl, 0, ioctls.TCSETS, settings);
}

const CTRL_P = 0x10, CTRL_Q = 0x11;

/** Watches typed bytes for ctrl-p ctrl-q, as Docker's attach does. A ctrl-p is held back until the next key tells. */
export class DetachFilter {
  private pending = false;

  /** What goes to the program, and whether the user has left. */
  pass(chunk: Uint8Array): { bytes: Uint8Array; left: boolean } {
    const out: number[] = [];
    for (const byte of chunk) {
      if (this.pending && byte === CTRL_Q) return { bytes: Uint8Array.from(out), left: true };
      if (this.pending) out.push(CTRL_P);
      this.pending = byte === CTRL_P;
      if (!this.pending) out.push(byte);
    }
    return { bytes: Uint8Array.from(out), left: false };
  }
}
