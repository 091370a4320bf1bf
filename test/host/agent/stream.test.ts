// The end of a connection: what came before it is the reader's, in its own time.
import { expect, test } from "bun:test";
import { closeSync, readdirSync, writeSync } from "node:fs";
import { streamPair } from "../../../src/ffi/socket.ts";
import { encodeFrame } from "../../../src/host/agent/frames.ts";
import { AgentStream } from "../../../src/host/agent/stream.ts";
import { Frame } from "../../../src/vmm/protocol.ts";
import { until } from "../../support/until.ts";

const OUTPUT = 30_000;

class Reader {
  readonly got: string[] = [];
  stream!: AgentStream;
  /** `slow`: takes one frame, and asks for a pause. */
  constructor(readonly guest: number, private readonly slow: boolean) {}
  static async open(slow = false): Promise<Reader> {
    const [ours, theirs] = streamPair(), reader = new Reader(theirs, slow);
    reader.stream = await AgentStream.open(ours, {
      onFrame: ({ type, payload }) => {
        reader.got.push(`${type} ${payload.length}`);
        if (slow) reader.stream.pause();
      },
      onDrain() {},
      onClosed: (reason) => void reader.got.push(reason),
    });
    return reader;
  }
  says(...sizes: readonly number[]): this {
    for (const size of sizes) writeSync(this.guest, encodeFrame(Frame.STDOUT, new Uint8Array(size)));
    return this;
  }
  /** As a guest's command does that ends and has not read its input. */
  exits(): this {
    writeSync(this.guest, encodeFrame(Frame.EXIT, new Uint8Array(6)));
    closeSync(this.guest);
    return this;
  }
  heard = (count: number) => until(`${count} frames`, () => this.got.length >= count);
}

const output = `${Frame.STDOUT} ${OUTPUT}`, exit = `${Frame.EXIT} 6`, end = "the guest's agent hung up";
const descriptors = () => readdirSync("/proc/self/fd").length;

test("a slow reader gets all of the output and the exit of a command that did not read its input", async () => {
  const before = descriptors(), reader = await Reader.open(true);
  reader.stream.send(encodeFrame(Frame.STDIN, new Uint8Array(1000)));
  reader.says(OUTPUT);
  await reader.heard(1);
  reader.says(OUTPUT, OUTPUT).exits();
  // Another connection's news: the loop has seen this one's end by then.
  const other = await Reader.open();
  other.exits();
  await other.heard(2);
  expect(reader.got).toEqual([output]);
  for (const count of [2, 3, 4]) {
    reader.stream.resume();
    await reader.heard(count);
  }
  expect(reader.got).toEqual([output, output, output, exit]);
  reader.stream.resume();
  await reader.heard(5);
  expect(reader.got).toEqual([output, output, output, exit, end]);
  expect(descriptors()).toBe(before);
});

test("input that comes too late for a command does not hide its exit", async () => {
  const reader = await Reader.open();
  reader.says(OUTPUT).exits();
  reader.stream.send(encodeFrame(Frame.STDIN, new Uint8Array(1000)));
  await reader.heard(3);
  expect(reader.got).toEqual([output, exit, end]);
});

test("one that is closed while its reader waits says nothing more", async () => {
  const before = descriptors(), reader = await Reader.open(true);
  reader.stream.send(encodeFrame(Frame.STDIN, new Uint8Array(1000)));
  reader.says(OUTPUT, OUTPUT).exits();
  await reader.heard(1);
  reader.stream.close();
  reader.stream.close();
  reader.stream.resume();
  const other = await Reader.open();
  other.exits();
  await other.heard(2);
  expect(reader.got).toEqual([output]);
  expect(descriptors()).toBe(before);
});

test("nonsense ends it after what came before", async () => {
  const reader = await Reader.open(true);
  reader.says(1);
  await reader.heard(1);
  writeSync(reader.guest, Buffer.from([255, 255, 255, 255, 0]));
  reader.stream.resume();
  await reader.heard(2);
  expect(reader.got).toEqual([`${Frame.STDOUT} 1`, expect.stringContaining("broke the protocol")]);
  closeSync(reader.guest);
});
