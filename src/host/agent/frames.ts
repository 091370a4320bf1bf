// Frames of the guest's agent, as docs/architecture.md defines them; src/guest/wire.c is the other side. Their pairs: src/pairs.ts.
import { Frame, MAX_FRAME_PAYLOAD } from "../../vmm/protocol.ts";

/** Length (u32le) and type (u8) before each payload. */
export const FRAME_HEADER = 5;
export type FrameType = (typeof Frame)[keyof typeof Frame];

/** One frame; `payload` is at most MAX_FRAME_PAYLOAD bytes (a RangeError otherwise: use `encodeChunks` for streams). */
export function encodeFrame(type: FrameType, payload: Uint8Array = new Uint8Array()): Uint8Array {
  if (payload.length > MAX_FRAME_PAYLOAD) throw new RangeError(`Cannot encode a frame of ${payload.length} bytes: at most ${MAX_FRAME_PAYLOAD} are allowed`);
  const frame = new Uint8Array(FRAME_HEADER + payload.length);
  new DataView(frame.buffer).setUint32(0, payload.length, true);
  frame[4] = type;
  frame.set(payload, FRAME_HEADER);
  return frame;
}

/** Bytes of a stream as frames of one type, as many as it takes; none for no bytes (an empty STDIN means the end). */
export function encodeChunks(type: FrameType, bytes: Uint8Array): Uint8Array[] {
  const frames: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += MAX_FRAME_PAYLOAD) frames.push(encodeFrame(type, bytes.subarray(at, at + MAX_FRAME_PAYLOAD)));
  return frames;
}

/** RESIZE: u16le rows, u16le cols; sizes out of range are cut to it. */
export function encodeResize(rows: number, cols: number): Uint8Array {
  const payload = new DataView(new ArrayBuffer(4));
  payload.setUint16(0, clampU16(rows), true);
  payload.setUint16(2, clampU16(cols), true);
  return encodeFrame(Frame.RESIZE, new Uint8Array(payload.buffer));
}
const clampU16 = (n: number): number => Math.min(Math.max(Math.trunc(n) || 0, 0), 0xffff);

/** SIGNAL: one byte. */
export const encodeSignal = (number: number): Uint8Array => encodeFrame(Frame.SIGNAL, Uint8Array.of(number));

export interface DecodedFrame {
  readonly type: number;
  /** A copy: it outlives the chunk that it came in. */
  readonly payload: Uint8Array;
}

/** Cuts a stream of bytes into frames. Holds at most one incomplete frame. */
export class FrameDecoder {
  private chunks: Uint8Array[] = [];
  private length = 0;

  /** The frames that `chunk` completes, in order. Throws a RangeError on a frame that is too long; the stream is useless then. */
  push(chunk: Uint8Array): DecodedFrame[] {
    if (chunk.length === 0) return [];
    this.chunks.push(chunk.slice());
    this.length += chunk.length;
    const frames: DecodedFrame[] = [];
    for (let frame = this.next(); frame; frame = this.next()) frames.push(frame);
    return frames;
  }

  /** True in the middle of a frame: an end of the stream here is a loss. */
  get pending(): boolean {
    return this.length > 0;
  }

  private next(): DecodedFrame | null {
    if (this.length < FRAME_HEADER) return null;
    if (this.chunks[0]!.length < FRAME_HEADER) this.join();
    const head = this.chunks[0]!;
    const size = new DataView(head.buffer, head.byteOffset).getUint32(0, true);
    if (size > MAX_FRAME_PAYLOAD) throw new RangeError(`Cannot decode a frame of ${size} bytes: at most ${MAX_FRAME_PAYLOAD} are allowed`);
    const end = FRAME_HEADER + size;
    if (this.length < end) return null;
    if (head.length < end) this.join();
    const first = this.chunks[0]!;
    this.length -= end;
    if (first.length === end) this.chunks.shift();
    else this.chunks[0] = first.subarray(end);
    return { type: first[4]!, payload: first.slice(FRAME_HEADER, end) };
  }

  private join(): void {
    this.chunks = [new Uint8Array(Buffer.concat(this.chunks))];
  }
}
