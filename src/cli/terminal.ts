// The terminal we stand on: raw mode, its size, and the keys that leave a session.

/** Rows and columns; 24 by 80 where nothing tells. */
export const terminalSize = (): { rows: number; cols: number } => ({ rows: process.stdout.rows || 24, cols: process.stdout.columns || 80 });

/** Sends every key through as it is typed. Returns what puts the terminal back; call it once. */
export function rawMode(): () => void {
  process.stdin.setRawMode(true);
  return () => void process.stdin.setRawMode(false);
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
