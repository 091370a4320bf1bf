import { expect, test } from "bun:test";
import { Frame, MAX_FRAME_PAYLOAD } from "../../src/vmm/protocol.ts";
import { encodeChunks, encodeFrame, encodeResize, encodeSignal, FrameDecoder } from "../../src/host/agent/frames.ts";
import { encodePairs } from "../../src/pairs.ts";

test("encodeFrame() writes length, type and payload", () => {
  expect(encodeFrame(Frame.STDIN, Uint8Array.of(7, 8))).toEqual(Uint8Array.of(2, 0, 0, 0, 18, 7, 8));
  expect(encodeFrame(Frame.ATTACH)).toEqual(Uint8Array.of(0, 0, 0, 0, 17));
  expect(() => encodeFrame(Frame.STDIN, new Uint8Array(MAX_FRAME_PAYLOAD + 1))).toThrow("at most 65536");
});

test("encodeResize() and encodeSignal() write little-endian fields and cut sizes", () => {
  expect(encodeResize(0x0102, 700000)).toEqual(Uint8Array.of(4, 0, 0, 0, 19, 2, 1, 0xff, 0xff));
  expect(encodeResize(Number.NaN, -4)).toEqual(Uint8Array.of(4, 0, 0, 0, 19, 0, 0, 0, 0));
  expect(encodeSignal(15)).toEqual(Uint8Array.of(1, 0, 0, 0, 20, 15));
});

test("encodeChunks() cuts a long stream and sends nothing for nothing", () => {
  const frames = encodeChunks(Frame.STDIN, new Uint8Array(MAX_FRAME_PAYLOAD * 2 + 1));
  expect(frames.map((f) => f.length - 5)).toEqual([MAX_FRAME_PAYLOAD, MAX_FRAME_PAYLOAD, 1]);
  expect(encodeChunks(Frame.STDIN, new Uint8Array())).toEqual([]);
});

test("FrameDecoder gives the same frames however the stream is cut", () => {
  const payload = crypto.getRandomValues(new Uint8Array(3000));
  const stream = Buffer.concat([encodeFrame(Frame.STDOUT, payload), encodeFrame(Frame.STDERR), encodeFrame(Frame.EXIT, encodePairs([["code", "0"]]))]);
  for (const size of [1, 2, 5, 7, 1000, stream.length]) {
    const decoder = new FrameDecoder();
    const frames = [];
    for (let at = 0; at < stream.length; at += size) frames.push(...decoder.push(stream.subarray(at, at + size)));
    expect(frames.map((f) => f.type)).toEqual([Frame.STDOUT, Frame.STDERR, Frame.EXIT]);
    expect(frames[0]!.payload).toEqual(payload);
    expect(decoder.pending).toBe(false);
  }
});

test("FrameDecoder refuses a frame that is too long before it is there", () => {
  expect(() => new FrameDecoder().push(Uint8Array.of(1, 0, 1, 0, 18))).toThrow("65537 bytes");
  const decoder = new FrameDecoder();
  expect(decoder.push(Uint8Array.of(1, 0))).toEqual([]);
  expect(decoder.pending).toBe(true);
});
