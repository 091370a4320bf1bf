import { expect, test } from "bun:test";
import { Backlog } from "../../../src/vmm/devices/vsock/backlog.ts";

const CREDIT = 256 * 1024;
const byteAt = (at: number): number => (at * 7 + (at >> 8)) & 0xff;

/** Bytes `from` and on, in a piece of their own. */
function put(backlog: Backlog, from: number, length: number): number {
  const room = backlog.grow(length);
  expect(room.length).toBe(length);
  for (let i = 0; i < length; i++) room[i] = byteAt(from + i);
  return from + length;
}

/** Takes up to `most` bytes of what comes first, which begins with byte `from`. */
function take(backlog: Backlog, from: number, most: number): number {
  const n = Math.min(most, backlog.first.length);
  for (let i = 0; i < n; i++) if (backlog.first[i] !== byteAt(from + i)) throw new Error(`byte ${from + i} is another`);
  backlog.take(n);
  return from + n;
}

test("pieces come out in order, however they are cut", () => {
  const backlog = new Backlog(), lengths = [1, 5000, 16_384, 3, 16_383, 2, 65_536, 100];
  let written = 0, read = 0;
  for (let round = 0; round < 200; round++) {
    written = put(backlog, written, lengths[round % lengths.length]!);
    for (let i = round % 3; i > 0 && !backlog.empty; i--) read = take(backlog, read, 1 + (round * 977) % 9000);
  }
  while (!backlog.empty) read = take(backlog, read, 4096);
  expect(read).toBe(written);
  expect(backlog.held).toBe(0);
});

for (const length of [1, 8191, 8193, 16_385])
  test(`a guest's whole credit in pieces of ${length} takes at most twice its memory`, () => {
    const backlog = new Backlog();
    for (let at = 0; at + length <= CREDIT; ) at = put(backlog, at, length);
    expect(backlog.held).toBeLessThan(2 * CREDIT + 16_384);
    backlog.clear();
    expect(backlog.empty).toBe(true);
  });
