// Layered disks: against a plain buffer, under adversity, and across kills.
import { afterEach, describe, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mapLayout } from "../../../src/block-map.ts";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { BlockMap } from "../../../src/vmm/devices/block/block-map.ts";
import { BlockDevice } from "../../../src/vmm/devices/block/device.ts";
import { Layers } from "../../../src/vmm/devices/block/layers.ts";
import { DISCARD, Disk, FLUSH, IN, IOERR, OK, OUT, ways, ZEROES } from "./block-driver.ts";
import { makeLayer, openLayers, type LayerPaths } from "./layer-files.ts";

const BLOCK = 4096, SECTORS = BLOCK / 512;

const cleanup: (() => void)[] = [];
afterEach(() => {
  for (const step of cleanup.splice(0).reverse()) step();
});

function folder(): string {
  const dir = mkdtempSync(join(tmpdir(), "dormouse-layers-"));
  cleanup.push(() => rmSync(dir, { recursive: true }));
  return dir;
}

/** A device over a stack of layers, newest first. */
function open(way: string, stack: readonly LayerPaths[]): Disk {
  const epoll = new Epoll(), io = ways[way]!(epoll);
  const { layers, close } = openLayers(stack);
  const device = new BlockDevice({ name: "disk0", readonly: false, serial: "", backing: layers }, io);
  cleanup.push(close, () => epoll.close(), () => io.close());
  return new Disk("", device, epoll).start() as Disk;
}

const addLayer = (d: Disk, layer: LayerPaths): void => {
  let answer: string | null | undefined;
  const fd = openSync(layer.path, "r+"), mapFd = openSync(layer.map!, "r+");
  cleanup.push(() => [fd, mapFd].forEach((one) => closeSync(one)));
  (d.device as BlockDevice).addLayer({ fd, map: new BlockMap("the new map", mapFd, statSync(layer.path).size) }, (error) => (answer = error));
  d.run(() => answer !== undefined);
  expect(answer).toBeNull();
};

/** Reproducible: the same numbers in each run. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** One request of a random kind on blocks that no other of the same batch touches, done to the model too. */
function act(d: Disk, model: Uint8Array, dice: (below: number) => number, block: number, count: number): () => void {
  const at = block * BLOCK, length = count * BLOCK, sector = block * SECTORS, kind = dice(10);
  const answered = (status: number) => () => expect(d.bytes[status]).toBe(OK);
  if (kind < 4) {
    const value = 1 + dice(255), data = new Uint8Array(length).fill(value);
    model.set(data, at);
    const cut = 512 + dice(length - 1024); // buffers end anywhere
    const gpa = d.put(data);
    return answered(d.request(OUT, sector, [{ gpa, length: cut }, { gpa: gpa + cut, length: length - cut }]));
  }
  if (kind < 8) {
    const wanted = model.slice(at, at + length), gpa = d.alloc(length), cut = 1 + dice(length - 1);
    const status = d.request(IN, sector, [{ gpa, length: cut, write: true }, { gpa: gpa + cut, length: length - cut, write: true }]);
    return () => {
      expect(d.bytes[status]).toBe(OK);
      expect(Buffer.compare(d.bytes.subarray(gpa, gpa + length), wanted)).toBe(0);
    };
  }
  model.fill(0, at, at + length);
  return answered(kind === 8 ? d.range(DISCARD, sector, count * SECTORS) : d.range(ZEROES, sector, count * SECTORS, dice(2)));
}

/** `batches` of requests that are in flight together. */
function churn(d: Disk, model: Uint8Array, dice: (below: number) => number, batches: number): void {
  const blocks = model.length / BLOCK, part = Math.floor(blocks / 16);
  for (let batch = 0; batch < batches; batch++) {
    const checks: (() => void)[] = [];
    for (let i = 0; i < 16; i++) {
      const count = 1 + dice(8);
      checks.push(act(d, model, dice, i * part + dice(part - count), count));
    }
    if (dice(4) === 0) d.request(FLUSH, 0), checks.push(() => {});
    d.queues[0]!.kick();
    let done = 0;
    d.run(() => (done += d.queues[0]!.takeUsed().length) === checks.length);
    for (const check of checks) check();
  }
}

/** All of the disk, as the device reads it; and as it is after the monitor has gone. */
function content(d: Disk, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes), step = 256 * 1024, gpa = d.alloc(step);
  for (let at = 0; at < bytes; at += step) {
    const length = Math.min(step, bytes - at);
    expect(d.do(IN, at / 512, [{ gpa, length, write: true }]).status).toBe(OK);
    out.set(d.bytes.subarray(gpa, gpa + length), at);
  }
  return out;
}
const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

describe.each(Object.keys(ways))("layered disks on %s", (way) => {
  test("random writes, reads, discards over one to four layers are as on one plain buffer", () => {
    const dir = folder(), bytes = 4 << 20, model = new Uint8Array(bytes), dice = random(11);
    let stack: LayerPaths[] = [makeLayer(join(dir, "0"), bytes, false)];
    let d = open(way, stack);
    for (let depth = 1; depth <= 4; depth++) {
      churn(d, model, dice, 25);
      expect(same(content(d, bytes), model)).toBe(true);
      if (depth % 2 === 0) { // a new monitor, with what the files say
        d = open(way, stack);
        expect(same(content(d, bytes), model)).toBe(true);
      }
      if (depth === 4) break;
      stack = [makeLayer(join(dir, String(depth)), bytes, true), ...stack];
      addLayer(d, stack[0]!);
    }
  });

  test("a layer that is added gets all later writes, those that waited at the gate too; the one below stays as it was", () => {
    const dir = folder(), bytes = 1 << 20;
    const base = makeLayer(join(dir, "base"), bytes, false), top = makeLayer(join(dir, "top"), bytes, true);
    const d = open(way, [base]), device = d.device as BlockDevice;
    expect(d.do(OUT, 0, [{ gpa: d.put(new Uint8Array(BLOCK).fill(1)), length: BLOCK }]).status).toBe(OK);
    device.shut();
    const held = [d.request(OUT, 0, [{ gpa: d.put(new Uint8Array(BLOCK).fill(2)), length: BLOCK }]), d.range(DISCARD, 8, 8), d.request(FLUSH, 0)];
    d.queues[0]!.kick();
    d.settle();
    addLayer(d, top);
    const before = Uint8Array.from(readFileSync(base.path));
    expect(before[0]).toBe(1);
    device.open();
    d.answered(held.length);
    expect(held.every((status) => d.bytes[status] === OK)).toBe(true);
    expect(d.read(0, BLOCK)).toEqual(new Uint8Array(BLOCK).fill(2));
    expect(same(Uint8Array.from(readFileSync(base.path)), before)).toBe(true);
    expect(same(content(open(way, [base]), bytes), before)).toBe(true);
  });

  test("a layer can be added while requests are in flight", () => {
    const dir = folder(), bytes = 8 << 20;
    const base = makeLayer(join(dir, "base"), bytes, false), top = makeLayer(join(dir, "top"), bytes, true);
    const d = open(way, [base]), data = d.put(new Uint8Array(65536).fill(7));
    const all = Array.from({ length: 60 }, (_, i) => d.request(OUT, i * 128, [{ gpa: data, length: 65536 }]));
    d.queues[0]!.kick();
    d.epoll.poll(1000);
    const device = d.device as BlockDevice, answers: (number | string)[] = [];
    device.sync((errno) => void answers.push(errno));
    device.sync((errno) => void answers.push(errno));
    addLayer(d, top);
    expect(answers).toEqual([0, 0]);
    d.answered(all.length);
    expect(all.every((status) => d.bytes[status] === OK)).toBe(true);
    expect(d.read(59 * 128, 65536)).toEqual(new Uint8Array(65536).fill(7));
  });

  test("the gate may open while a layer is being added", () => {
    const dir = folder(), bytes = 1 << 20;
    const base = makeLayer(join(dir, "base"), bytes, false), top = makeLayer(join(dir, "top"), bytes, true);
    const d = open(way, [base]), device = d.device as BlockDevice;
    device.shut();
    const held = Array.from({ length: 20 }, (_, i) => d.request(OUT, i * 8, [{ gpa: d.put(new Uint8Array(BLOCK).fill(2)), length: BLOCK }]));
    d.queues[0]!.kick();
    d.settle();
    const fd = openSync(top.path, "r+"), mapFd = openSync(top.map!, "r+");
    cleanup.push(() => [fd, mapFd].forEach((one) => closeSync(one)));
    let answer: string | null | undefined;
    device.addLayer({ fd, map: new BlockMap("the new map", mapFd, bytes) }, (error) => (answer = error));
    device.open();
    d.answered(held.length);
    d.run(() => answer !== undefined);
    expect([answer, held.every((status) => d.bytes[status] === OK)]).toEqual([null, true]);
    expect(d.read(19 * 8, BLOCK)).toEqual(new Uint8Array(BLOCK).fill(2));
  });

  test("what was discarded stays zero above a layer that has it", () => {
    const dir = folder(), bytes = 1 << 20;
    const stack = [makeLayer(join(dir, "top"), bytes, true), makeLayer(join(dir, "base"), bytes, false)];
    writeFileSync(stack[1]!.path, new Uint8Array(bytes).fill(9));
    const d = open(way, stack);
    const all = [d.range(DISCARD, 8, 8), d.range(ZEROES, 24, 8), d.range(ZEROES, 40, 8, 1)];
    d.queues[0]!.kick();
    d.answered(all.length);
    expect(all.every((status) => d.bytes[status] === OK)).toBe(true);
    const wanted = new Uint8Array(bytes).fill(9);
    for (const sector of [8, 24, 40]) wanted.fill(0, sector * 512, (sector + 8) * 512);
    expect(same(content(d, bytes), wanted)).toBe(true);
    expect(same(content(open(way, stack), bytes), wanted)).toBe(true);
  });

  test("a flush brings the bits of what was written before into the map's second region", () => {
    const dir = folder(), bytes = 1 << 20, { nowAt, flushedAt } = mapLayout(bytes);
    const stack = [makeLayer(join(dir, "top"), bytes, true), makeLayer(join(dir, "base"), bytes, false)];
    const d = open(way, stack), gpa = d.put(new Uint8Array(BLOCK).fill(3));
    const bits = () => {
      const file = readFileSync(stack[0]!.map!);
      return { now: file[nowAt], flushed: file[flushedAt] };
    };
    d.do(OUT, 0, [{ gpa, length: BLOCK }]);
    expect(bits()).toEqual({ now: 1, flushed: 0 });
    expect(d.do(FLUSH, 0).status).toBe(OK);
    expect(bits()).toEqual({ now: 1, flushed: 1 });
    d.do(OUT, 16, [{ gpa, length: BLOCK }]);
    const late = open(way, stack); // what the monitor before did not flush is flushed by the next
    expect(late.do(FLUSH, 0).status).toBe(OK);
    expect(bits()).toEqual({ now: 5, flushed: 5 });
  });

  test("flushes given at once are all answered", () => {
    const dir = folder(), bytes = 1 << 20;
    const d = open(way, [makeLayer(join(dir, "top"), bytes, true), makeLayer(join(dir, "base"), bytes, false)]);
    const gpa = d.put(new Uint8Array(BLOCK).fill(3));
    const all = Array.from({ length: 40 }, (_, i) => (i % 2 === 0 ? d.request(FLUSH, 0) : d.request(OUT, i * 8, [{ gpa, length: BLOCK }])));
    d.queues[0]!.kick();
    d.answered(all.length);
    expect(all.every((status) => d.bytes[status] === OK)).toBe(true);
  });
});

test("a map that can't be written is an error to the guest, and the block is what it was", () => {
  const dir = folder(), bytes = 1 << 20;
  const stack = [makeLayer(join(dir, "top"), bytes, true), makeLayer(join(dir, "base"), bytes, false)];
  writeFileSync(stack[1]!.path, new Uint8Array(bytes).fill(9));
  const epoll = new Epoll(), io = ways["io_uring"]!(epoll);
  const fds = [openSync(stack[0]!.path, "r+"), openSync(stack[1]!.path, "r")], mapFd = openSync(stack[0]!.map!, "r"); // not to be written to
  cleanup.push(() => [...fds, mapFd].forEach((fd) => closeSync(fd)), () => epoll.close(), () => io.close());
  const layers = new Layers("disk0", bytes, [{ fd: fds[0]!, map: new BlockMap("map0", mapFd, bytes) }, { fd: fds[1]!, map: null }]);
  const d = new Disk("", new BlockDevice({ name: "disk0", readonly: false, serial: "", backing: layers }, io), epoll).start() as Disk;
  expect(d.do(OUT, 0, [{ gpa: d.put(new Uint8Array(BLOCK)), length: BLOCK }]).status).toBe(IOERR);
  expect(d.read(0, BLOCK)).toEqual(new Uint8Array(BLOCK).fill(9));
});

describe("layers that are not what they should be are refused", () => {
  const refused = (spoil: (stack: LayerPaths[]) => void): string => {
    const dir = folder(), bytes = 1 << 20;
    const stack = [makeLayer(join(dir, "top"), bytes, true), makeLayer(join(dir, "base"), bytes, false)];
    spoil(stack);
    try {
      openLayers(stack);
    } catch (error) {
      return (error as Error).message;
    }
    return "";
  };
  const poke = (path: string, offset: number, value: number) => {
    const fd = openSync(path, "r+");
    writeSync(fd, new Uint8Array([value]), 0, 1, offset);
    closeSync(fd);
  };

  test.each<[string, (stack: LayerPaths[]) => void, string]>([
    ["no map at all", ([top]) => writeFileSync(top!.map!, "x".repeat(5000)), "Cannot use map0: it is no block map"],
    ["an empty file", ([top]) => writeFileSync(top!.map!, ""), "Cannot use map0: it has 0 bytes only"],
    ["a spoiled header", ([top]) => poke(top!.map!, 17, 0xff), "Cannot use map0: the checksum of its header is wrong"],
    ["a map cut short", ([top]) => truncateSync(top!.map!, 8192), "Cannot use map0: it has 8192 bytes instead of 12288"],
    ["a map of another disk", ([top]) => void makeLayer(top!.path, 2 << 20, true), "Cannot use disk0.1: it has 1048576 bytes, and the disk 2097152"],
    ["bits behind the end", ([top]) => poke(top!.map!, 4096 + 32, 1), "Cannot use map0: it is damaged (it names blocks behind the end of the disk)"],
    ["a layer of another size", ([, base]) => truncateSync(base!.path, 4096), "Cannot use disk0.1: it has 4096 bytes, and the disk 1048576"],
  ])("%s", (_name, spoil, message) => {
    expect(refused(spoil)).toBe(message);
  });
});

test("SIGKILL at any moment: what was acknowledged is there", async () => {
  const dir = folder(), bytes = 2 << 20;
  const base = makeLayer(join(dir, "base"), bytes, false), top = makeLayer(join(dir, "top"), bytes, true);
  for (let round = 0; round < 6; round++) {
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "layers-writer.ts"), Object.keys(ways)[round % 2]!, JSON.stringify([top, base])], { stdout: "pipe" });
    // Each line is a block and what it was acknowledged to hold.
    const acknowledged = new Map<number, number>();
    let text = "";
    const wanted = 400 * (round + 1);
    for await (const part of child.stdout) {
      text += Buffer.from(part).toString();
      if (text.length > wanted * 8) child.kill("SIGKILL");
    }
    await child.exited;
    for (const line of text.split("\n").slice(0, -1)) {
      const [block, value] = line.split(" ").map(Number);
      acknowledged.set(block!, value!);
    }
    expect(acknowledged.size).toBeGreaterThan(100);
    const now = content(open("worker", [top, base]), bytes);
    for (const [block, value] of acknowledged) {
      const found = now[block * BLOCK]!;
      // A later write of the same block may have come through without being acknowledged: values only grow.
      expect(found).toBeGreaterThanOrEqual(value);
      expect(now.subarray(block * BLOCK, (block + 1) * BLOCK).every((byte) => byte === found)).toBe(true);
    }
    makeLayer(top.path, bytes, true);
  }
});
