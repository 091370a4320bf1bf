// kill -9 at every step: the next daemon finishes the pull, with nothing left of the dead one's work.
import { expect, test } from "bun:test";
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { command } from "../../support/command.ts";
import { TempDir } from "../../support/paths.ts";
import { Images, listFiles, random, tinyImage } from "./harness.ts";
import { listImage } from "./mounted.ts";
import { file } from "./tar-builder.ts";
import { Unruly } from "./unruly.ts";

const image = tinyImage([[file("one", random(8 << 20))], [file("two", random(24 << 20))], [file("three", new Uint8Array(256 << 20))]]);

/** Starts a daemon that pulls, kills it when `enough` says so of what it told, and lets another finish. `stopAt`: a file of its folder, as for daemon.ts. */
async function killedAt(registry: Unruly, enough: (line: string, folder: string) => boolean, stopAt?: string): Promise<{ before: string[]; record: unknown }> {
  const temp = new TempDir("crash");
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "daemon.ts"), temp.path, registry.repository, ...(stopAt === undefined ? [] : [temp.join(stopAt)])], { stdin: "ignore", stdout: "pipe", stderr: "inherit" });
  const decoder = new TextDecoder();
  let said = "";
  for await (const chunk of child.stdout) {
    said += decoder.decode(chunk, { stream: true });
    if (!said.split("\n").some((line) => enough(line, temp.path))) continue;
    child.kill("SIGKILL");
    break;
  }
  await child.exited;
  expect(child.signalCode).toBe("SIGKILL");
  const before = listFiles(temp.join("images"));
  await using images = new Images({}, temp);
  const record = (await images.service.settled(registry.repository))._unsafeUnwrap();
  const { rootfsPath } = images.service.ready(registry.repository)._unsafeUnwrap();
  expect(Object.keys(await listImage(rootfsPath))).toEqual(["", "one", "three", "two"]);
  const blobs = [image.digest, ...image.blobs.keys()].map((digest) => `blobs/${digest.replace(":", "/")}`);
  expect(images.files()).toEqual([...blobs, `rootfs/${image.digest.slice(7)}.erofs`].sort());
  return { before, record };
}

const LONG = 60_000;

test("killed while it pulls", async () => {
  await using registry = new Unruly(image);
  // The large layer stops half-way, until the daemon is dead.
  const [digest, bytes] = image.layers[1]!;
  const ranges: string[] = [];
  registry.rule = ({ path, range }) => {
    if (!path.endsWith(digest)) return null;
    ranges.push(range ?? "whole");
    return ranges.length > 1 ? null : new Response(new ReadableStream({ start: (controller) => controller.enqueue(bytes.subarray(0, 10 << 20)) }));
  };
  const { before, record } = await killedAt(registry, (line) => Number(/^pulling (\d+)/.exec(line)?.[1] ?? 0) > 12 << 20);
  expect(before.some((name) => name.endsWith(".part"))).toBe(true);
  expect(record).toMatchObject({ status: "ready", error: null });
  expect(ranges.length).toBe(2);
  expect(ranges[1]).toMatch(/^bytes=[1-9]\d+-$/);
}, LONG);

test("killed while it converts", async () => {
  await using registry = new Unruly(image);
  const hex = image.digest.slice(7);
  const stopAt = `images/tmp/${hex}.erofs`;
  const { before, record } = await killedAt(registry, (line, folder) => line.startsWith("converting") && existsSync(`${folder}/${stopAt}`), stopAt);
  expect(before).toContain(`tmp/${hex}.erofs`);
  expect(record).toMatchObject({ status: "ready", error: null });
  // The layers were there already.
  for (const [digest] of image.layers) expect(registry.asked.filter((path) => path.endsWith(digest)).length).toBe(1);
}, LONG);

/** A pull into an images folder of `megabytes`; how it ends. */
async function onSmallDisk(registry: Unruly, megabytes: number): Promise<{ status: string; error: string; files: string[] }> {
  using temp = new TempDir("full");
  mkdirSync(temp.join("images"));
  const script = `mount -t tmpfs -o size=${megabytes}m none "$1/images" && exec "$2" "$3" "$1" "$4"`;
  const said = await command(["unshare", "-m", "sh", "-ec", script, "sh", temp.path, process.execPath, join(import.meta.dir, "daemon.ts"), registry.repository]);
  return JSON.parse(/^settled (.*)$/m.exec(said)![1]!) as { status: string; error: string; files: string[] };
}

test("a disk that fills up while it pulls, or while it converts, is told, and nothing is left on it", async () => {
  await using large = new Unruly(tinyImage([[file("noise", random(6 << 20))]]));
  expect(await onSmallDisk(large, 4)).toEqual({ status: "failed", error: expect.stringMatching(/no space left/i), files: [] });
  await using zeros = new Unruly(tinyImage([[file("zeros", new Uint8Array(16 << 20))]]));
  expect(await onSmallDisk(zeros, 4)).toEqual({ status: "failed", error: expect.stringContaining("the disk is full"), files: [] });
  expect(await onSmallDisk(zeros, 40)).toMatchObject({ status: "ready" });
}, LONG);
