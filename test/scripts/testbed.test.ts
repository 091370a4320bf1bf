// The parts of the testbed that need no machine: its frames and its initramfs.
import { expect, test } from "bun:test";
import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { cpio } from "../../scripts/lib/testbed/cpio.ts";
import { encodeFrame, Frame, FrameReader, nulTerminated } from "../../scripts/lib/testbed/frames.ts";
import { command } from "../support/command.ts";
import { TempDir } from "../support/paths.ts";

test("FrameReader finds frames wherever the stream is cut", () => {
  const frames: [number, string][] = [[Frame.READY, ""], [Frame.STDOUT, "some output"], [Frame.STDERR, "x"], [Frame.EXIT, "\x07"]];
  const stream = Buffer.concat(frames.map(([type, text]) => encodeFrame(type, Buffer.from(text))));
  for (let size = 1; size <= stream.length; size++) {
    const found: [number, string][] = [];
    const reader = new FrameReader((type, payload) => found.push([type, payload.toString()]));
    for (let at = 0; at < stream.length; at += size) reader.push(stream.subarray(at, at + size));
    expect(found).toEqual(frames);
  }
});

test("nulTerminated() keeps empty strings and counts bytes, not letters", () => {
  expect(nulTerminated(["a", "", "é"])).toEqual(Buffer.from([0x61, 0, 0, 0xc3, 0xa9, 0]));
});

test("cpio() writes what cpio reads", async () => {
  using dir = new TempDir("cpio");
  await writeFile(dir.join("archive"), cpio([
    { path: "d", mode: 0o040755 }, { path: "d/odd", mode: 0o100644, data: Buffer.from("odd") }, { path: "run", mode: 0o100755, data: Buffer.from("#!/bin/sh\n") }, { path: "none", mode: 0o100600 },
  ]));
  await mkdir(dir.join("out"));
  await command(["cpio", "-i", "--quiet", "-F", dir.join("archive")], { cwd: dir.join("out") });
  expect(await readFile(dir.join("out/d/odd"), "utf8")).toBe("odd");
  expect((await stat(dir.join("out/run"))).mode & 0o777).toBe(0o755);
  expect((await stat(dir.join("out/none"))).size).toBe(0);
});

/** Numbers of `enum { NAME = n, … }` in the agent. */
test("both ends number the frames alike", async () => {
  const source = await readFile(new URL("../../scripts/lib/testbed/agent.c", import.meta.url), "utf8");
  const numbers = Object.fromEntries([...source.matchAll(/^ {2}([A-Z]+) = (\d+),/gm)].map(([, name, number]) => [name, Number(number)]));
  expect(numbers).toEqual({ ...Frame });
});
