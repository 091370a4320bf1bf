import { afterAll, beforeEach, expect, test } from "bun:test";
import { appendFileSync, closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { closeFd, O_CREAT, O_RDWR, openFd } from "../../../src/ffi/fd.ts";
import { LineCutter, stampOf, tailPosition, youngerOf } from "../../../src/host/instances/log-files.ts";
import { appendOperation } from "../../../src/host/instances/oplog.ts";
import { LogSink } from "../../../src/vmm/devices/console/log-sink.ts";
import { until } from "../../support/until.ts";
import { DIGEST, never, open, recordsOf, removeRoots, request, type Fixture } from "./fixture.ts";

const dir = mkdtempSync(join(tmpdir(), "dormouse-logs-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
afterAll(removeRoots);

const paths = [join(dir, "app.0.log"), join(dir, "app.1.log")] as const;
const stamps = () => [stampOf(paths[0]), stampOf(paths[1])] as const;
const at = (lines: number) => tailPosition(paths, stamps(), lines);
beforeEach(() => paths.forEach((path) => rmSync(path, { force: true })));

test("tailPosition() finds the last lines across both files, whichever is the younger", () => {
  expect(at(5)).toEqual({ file: 0, offset: 0 });
  writeFileSync(paths[0], "a\nbb\nccc\n");
  expect([at(0), at(1), at(2), at(3), at(9)].map(({ offset }) => offset)).toEqual([9, 5, 2, 0, 0]);
  writeFileSync(paths[1], "d\nee");
  expect(youngerOf(stamps())).toBe(1);
  expect(at(1)).toEqual({ file: 1, offset: 2 });
  // The younger file holds exactly two lines: whether the older one's last line belongs to the first is seen there.
  expect(at(2)).toEqual({ file: 0, offset: 9 });
  expect(at(3)).toEqual({ file: 0, offset: 5 });
  expect(at(99)).toEqual({ file: 0, offset: 0 });
});

test("tailPosition() reads far back through lines longer than a block", () => {
  writeFileSync(paths[0], `${"x".repeat(200_000)}\n${"y".repeat(70_000)}\nz`);
  expect([at(1), at(2), at(3)].map(({ offset }) => offset)).toEqual([270_002, 200_001, 0]);
});

test("LineCutter keeps half lines, drops carriage returns, cuts endless lines, and mends split characters", () => {
  const cutter = new LineCutter();
  const push = (bytes: Uint8Array) => [...cutter.push(bytes)];
  const snow = Buffer.from("☃");
  expect(push(Buffer.concat([Buffer.from("a\r\nb\n\nc"), snow.subarray(0, 1)]))).toEqual(["a", "b", ""]);
  expect(push(Buffer.concat([snow.subarray(1), Buffer.from("\nrest")]))).toEqual(["c☃"]);
  expect(cutter.rest()).toBe("rest");
  expect(cutter.rest()).toBeNull();
  const blocks = Array.from({ length: 40 }, () => push(Buffer.alloc(65536, "e"))).flat();
  expect(blocks.map((line) => line.length)).toEqual([1048576, 1048576]);
  expect(cutter.rest()).toHaveLength(40 * 65536 - 2 * 1048576);
});

test("appendOperation() turns to the other file when one is full", () => {
  for (let i = 0; i < 10; i++) appendOperation(dir, `operation ${i}\nof two lines`, 150);
  const operations = [join(dir, "dormouse.0.log"), join(dir, "dormouse.1.log")] as const;
  expect(operations.map((path) => stampOf(path).size).every((size) => size > 0 && size < 250)).toBe(true);
});

let f: Fixture;
const open1 = async () => {
  f = await open();
  const { id } = recordsOf(f.store.db).insert("tz4a98xxat96iws9zmbrgj3a", request("web", null), DIGEST)._unsafeUnwrap();
  return { id, files: [join(f.root, "instances", id, "app.0.log"), join(f.root, "instances", id, "app.1.log")] as const };
};
const read = (options: { tail?: number; follow?: boolean; signal?: AbortSignal }, source: "app" | "vmm" = "app") =>
  f.instances.logs("web", { source, tail: options.tail ?? 100, follow: options.follow ?? false, signal: options.signal ?? never() });

test("logs() answers log.not_found before the first file, and the whole of both after", async () => {
  const { files } = await open1();
  expect(read({})._unsafeUnwrapErr().code).toBe("log.not_found");
  mkdirSync(join(files[0], ".."), { recursive: true });
  // Changed in one tick of the file system's clock, the longer one is the full one.
  writeFileSync(files[0], "number one\ntw");
  writeFileSync(files[1], "o\nthree");
  expect(await Array.fromAsync(read({})._unsafeUnwrap())).toEqual(["number one", "two", "three"]);
  expect(await Array.fromAsync(read({ tail: 2 })._unsafeUnwrap())).toEqual(["two", "three"]);
  expect(await Array.fromAsync(read({ tail: 0 })._unsafeUnwrap())).toEqual([]);
  expect(f.instances.logs("nobody", { source: "app", tail: 1, follow: false, signal: never() })._unsafeUnwrapErr().code).toBe("instance.not_found");
  await f.close();
});

test("follow brings whole lines as they come, over many rotations, without loss or repetition, until Stopped", async () => {
  const { id, files } = await open1();
  mkdirSync(join(files[0], ".."), { recursive: true });
  const fds = files.map((path) => openFd(path, O_RDWR | O_CREAT)) as [number, number];
  const sink = new LogSink(fds, 2_000);
  sink.write(Buffer.from("line 0\nline 1\n"));
  const got: string[] = [];
  const reader = (async () => {
    for await (const line of read({ follow: true, tail: 1 })._unsafeUnwrap()) got.push(line);
  })();
  let written = 1;
  for (let round = 0; round < 40; round++) {
    for (let i = 0; i < 20; i++) sink.write(Buffer.from(`line ${++written}\n`));
    await until(`line ${written}`, () => got.at(-1) === `line ${written}`);
  }
  sink.write(Buffer.from("half"));
  const records = recordsOf(f.store.db);
  records.transition(id, "Stopped", null);
  // Written before the end was noticed: it is the log's last word.
  appendFileSync(files[stampOf(files[0]).mtimeNs > stampOf(files[1]).mtimeNs ? 0 : 1], " line");
  await reader;
  expect(got.slice(0, -1)).toEqual(Array.from({ length: written }, (_, i) => `line ${i + 1}`));
  expect(got.at(-1)).toBe("half line");
  fds.forEach(closeFd);
  await f.close();
});

test("follow ends at the hang-up of its reader, and at the deletion of its instance", async () => {
  f = await open();
  await f.instances.create(request("web", ["say", "hello"]));
  await f.instances.wait("web", "Running", 20_000, never());
  const hangUp = new AbortController();
  const seen: string[] = [];
  const first = (async () => { for await (const line of read({ follow: true, signal: hangUp.signal })._unsafeUnwrap()) seen.push(line), hangUp.abort(); })();
  await first;
  expect(seen).toEqual(["hello"]);
  const second = Array.fromAsync(read({ follow: true })._unsafeUnwrap());
  await f.instances.remove("web", { graceful: false });
  expect(await second).toEqual(["hello"]);
  await f.close();
});

test("follow of a real monitor's output ends with its last line, also where it has no newline", async () => {
  f = await open();
  await f.instances.create(request("web", ["talk", "200"]));
  expect(await Array.fromAsync(read({ follow: true })._unsafeUnwrap())).toEqual(Array.from({ length: 200 }, (_, i) => `line ${i + 1}`));
  await f.instances.remove("web", { graceful: false });
  await f.instances.create(request("web", ["say-exit", "one", "two"]));
  expect(await Array.fromAsync(read({ follow: true })._unsafeUnwrap())).toEqual(["one", "two"]);
  expect((await Array.fromAsync(f.instances.logs("web", { source: "dormouse", tail: 1, follow: true, signal: never() })._unsafeUnwrap()))[0]).toContain("stopped");
  await f.close();
});

test("follow ends with a start that fails, of which nothing more is heard", async () => {
  f = await open();
  for (const cmd of [["refuse-boot"], ["die-at-boot"]]) {
    await f.instances.create(request("web", cmd));
    expect(await Array.fromAsync(read({ follow: true })._unsafeUnwrap())).toEqual([]);
    await f.instances.remove("web", { graceful: false });
  }
  await f.close();
});

test("a log that is cut under its reader is an error, not an end", async () => {
  const { files } = await open1();
  mkdirSync(join(files[0], ".."), { recursive: true });
  for (const path of files) closeSync(openSync(path, "a"));
  writeFileSync(files[0], "one\ntwo\n");
  const reader = read({ follow: true })._unsafeUnwrap()[Symbol.asyncIterator]();
  expect([await reader.next(), await reader.next()].map(({ value }) => value)).toEqual(["one", "two"]);
  writeFileSync(files[0], "x");
  await expect(reader.next()).rejects.toThrow(/fell behind/);
  await f.close();
});
