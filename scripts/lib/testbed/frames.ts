// Frames between session.ts and agent.c: u8 type, u32le length, payload.
export const Frame = { CONFIG: 1, STDIN: 2, SIGNAL: 3, RESIZE: 4, READY: 16, STDOUT: 17, STDERR: 18, CREDIT: 19, EXIT: 20, ALIVE: 21 } as const;
/** Bytes of STDIN that may be on the way at a time (INPUT_WINDOW of the agent). */
export const INPUT_WINDOW = 64 * 1024;

const HEAD = 5;

export function encodeFrame(type: number, payload: Uint8Array): Buffer {
  const frame = Buffer.alloc(HEAD + payload.length);
  frame[0] = type;
  frame.writeUInt32LE(payload.length, 1);
  frame.set(payload, HEAD);
  return frame;
}

/** Strings that end in NUL, as CONFIG has them. */
export const nulTerminated = (strings: readonly string[]): Buffer => Buffer.from(strings.map((s) => s + "\0").join(""));

/** Cuts a byte stream into frames. */
export class FrameReader {
  private buffer: Buffer = Buffer.alloc(0);
  constructor(private readonly handle: (type: number, payload: Buffer) => void) {}

  push(bytes: Uint8Array): void {
    this.buffer = this.buffer.length === 0 ? Buffer.from(bytes) : Buffer.concat([this.buffer, bytes]);
    let at = 0;
    while (this.buffer.length - at >= HEAD) {
      const end = at + HEAD + this.buffer.readUInt32LE(at + 1);
      if (this.buffer.length < end) break;
      this.handle(this.buffer[at]!, this.buffer.subarray(at + HEAD, end));
      at = end;
    }
    this.buffer = this.buffer.subarray(at);
  }
}
