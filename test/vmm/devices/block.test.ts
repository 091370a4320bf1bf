// virtio-blk against real files, with io_uring and with the Worker.
import { afterEach, describe, expect, test } from "bun:test";
import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { E } from "../../../src/ffi/abi/errno.ts";
import { Epoll } from "../../../src/ffi/epoll.ts";
import { virtio_blk_config } from "../../../src/ffi/abi/virtio_blk.ts";
import { BlockDevice } from "../../../src/vmm/devices/block/device.ts";
import { UringIo } from "../../../src/vmm/devices/block/uring.ts";
import { TokenBucket } from "../../../src/vmm/devices/token-bucket.ts";
import { DISCARD, Disk, FLUSH, GET_ID, IN, IOERR, OK, OUT, UNSUPP, ways, ZEROES } from "./block-driver.ts";

const cleanup: (() => void)[] = [];
afterEach(() => {
  for (const step of cleanup.splice(0).reverse()) step();
});

function disk(way: string, content: Uint8Array<ArrayBuffer>, readonly = false): Disk {
  const dir = mkdtempSync(join(tmpdir(), "dormouse-block-"));
  const path = join(dir, "disk");
  writeFileSync(path, content);
  const fd = openSync(path, readonly ? "r" : "r+");
  const epoll = new Epoll();
  const io = ways[way]!(epoll);
  cleanup.push(() => rmSync(dir, { recursive: true }), () => closeSync(fd), () => epoll.close(), () => io.close());
  const device = new BlockDevice({ name: "disk0", readonly, serial: "vol-1", backing: { fd, bytes: content.length } }, io);
  return new Disk(path, device, epoll).start() as Disk;
}

const pattern = (length: number, seed = 7) => Uint8Array.from({ length }, (_, i) => (i * seed + (i >> 9)) & 0xff);

describe.each(Object.keys(ways))("BlockDevice on %s", (way) => {
  test("reads what the file holds, into several buffers", () => {
    const content = pattern(1 << 20);
    const d = disk(way, content);
    expect(d.read(24, 4096)).toEqual(content.slice(12288, 12288 + 4096));
    const a = d.alloc(512), b = d.alloc(3584);
    expect(d.do(IN, 8, [{ gpa: a, length: 512, write: true }, { gpa: b, length: 3584, write: true }]).status).toBe(OK);
    expect(d.bytes.slice(a, a + 512)).toEqual(content.slice(4096, 4608));
    expect(d.bytes.slice(b, b + 3584)).toEqual(content.slice(4608, 8192));
    expect(d.platform.took(100)).toBe(true);
  });

  test("writes, flushes, and the file holds it", () => {
    const d = disk(way, new Uint8Array(1 << 20));
    const data = pattern(8192, 13);
    const gpa = d.put(data);
    expect(d.do(OUT, 96, [{ gpa, length: 8192 }])).toEqual({ status: OK, length: 1 });
    expect(d.do(FLUSH, 0).status).toBe(OK);
    expect(Uint8Array.from(readFileSync(d.path)).slice(49152, 49152 + 8192)).toEqual(data);
  });

  test("completes 200 requests given at once, indirect ones too", () => {
    const content = pattern(4 << 20);
    const d = disk(way, content);
    const wanted: { gpa: number; sector: number; status: number }[] = [];
    for (let round = 0; round < 5; round++) {
      for (let i = 0; i < 200; i++) {
        const gpa = d.alloc(4096), sector = ((i * 37 + round) % 1000) * 8;
        wanted.push({ gpa, sector, status: d.request(IN, sector, [{ gpa, length: 4096, write: true }], d.alloc(48)) });
      }
      d.queues[0]!.kick();
      let done = 0;
      d.run(() => (done += d.queues[0]!.takeUsed().length) === 200);
    }
    for (const w of wanted) {
      expect(d.bytes[w.status]).toBe(OK);
      expect(Bun.hash(d.bytes.subarray(w.gpa, w.gpa + 4096))).toBe(Bun.hash(content.subarray(w.sector * 512, w.sector * 512 + 4096)));
    }
  });

  test("tells its serial number", () => {
    const d = disk(way, new Uint8Array(4096));
    const gpa = d.alloc(20);
    expect(d.do(GET_ID, 0, [{ gpa, length: 20, write: true }])).toEqual({ status: OK, length: 21 });
    expect(Buffer.from(d.bytes.slice(gpa, gpa + 20)).toString()).toBe("vol-1".padEnd(20, "\0"));
  });

  test("discards and zeroes", () => {
    const d = disk(way, pattern(1 << 20));
    const range = (sector: number, sectors: number, flags: number) => {
      const v = new DataView(new ArrayBuffer(16));
      v.setBigUint64(0, BigInt(sector), true);
      v.setUint32(8, sectors, true);
      v.setUint32(12, flags, true);
      return [{ gpa: d.put(new Uint8Array(v.buffer)), length: 16 }];
    };
    expect(d.do(DISCARD, 0, range(8, 8, 0)).status).toBe(OK);
    expect(d.do(ZEROES, 0, range(16, 8, 0)).status).toBe(OK);
    expect(d.do(ZEROES, 0, range(24, 8, 1)).status).toBe(OK);
    expect(d.read(8, 3 * 4096)).toEqual(new Uint8Array(3 * 4096));
    expect(d.do(DISCARD, 0, range(8, 8, 1)).status).toBe(UNSUPP);
    expect(d.do(ZEROES, 0, range(2047, 8, 0)).status).toBe(IOERR);
    expect(d.do(DISCARD, 0, range(0, 0xffff_ffff, 0)).status).toBe(IOERR);
  });

  test("refuses what does not fit, and unknown requests", () => {
    const d = disk(way, new Uint8Array(8192));
    const gpa = d.alloc(4096);
    expect(d.do(IN, 16, [{ gpa, length: 512, write: true }]).status).toBe(IOERR);
    expect(d.do(IN, 2 ** 52, [{ gpa, length: 512, write: true }]).status).toBe(IOERR);
    expect(d.do(IN, 15, [{ gpa, length: 1024, write: true }]).status).toBe(IOERR);
    expect(d.do(IN, 0, [{ gpa, length: 100, write: true }]).status).toBe(IOERR);
    expect(d.do(77, 0).status).toBe(UNSUPP);
    expect(d.do(OUT, 0).status).toBe(OK);
  });

  test("a disk that is written is addressed in blocks of 4 KiB, one that is only read in sectors", () => {
    const d = disk(way, pattern(1 << 16));
    expect(d.device.config.getUint32(virtio_blk_config.at.blk_size, true)).toBe(4096);
    const gpa = d.alloc(4096), range = new DataView(new ArrayBuffer(16));
    range.setBigUint64(0, 8n, true);
    range.setUint32(8, 4, true);
    expect(d.do(IN, 1, [{ gpa, length: 4096, write: true }]).status).toBe(IOERR);
    expect(d.do(OUT, 8, [{ gpa, length: 512 }]).status).toBe(IOERR);
    expect(d.do(DISCARD, 0, [{ gpa: d.put(new Uint8Array(range.buffer)), length: 16 }]).status).toBe(IOERR);
    expect(Uint8Array.from(readFileSync(d.path))).toEqual(pattern(1 << 16));
    const io = ways[way]!(d.epoll);
    cleanup.push(() => io.close());
    const small = new BlockDevice({ name: "disk0", readonly: false, serial: "", block: 512 }, io);
    expect(small.config.getUint32(virtio_blk_config.at.blk_size, true)).toBe(512);
    const shown = disk(way, pattern(1 << 16), true);
    expect(shown.device.config.getUint32(virtio_blk_config.at.blk_size, true)).toBe(512);
    expect(shown.read(3, 512)).toEqual(pattern(1 << 16).slice(1536, 2048));
  });

  test("does not write to a read-only disk", () => {
    const content = pattern(8192);
    const d = disk(way, content, true);
    expect(d.offered & (1n << 5n)).toBe(1n << 5n);
    expect(d.do(OUT, 0, [{ gpa: d.put(new Uint8Array(512)), length: 512 }]).status).toBe(IOERR);
    expect(d.do(FLUSH, 0).status).toBe(OK);
    expect(Uint8Array.from(readFileSync(d.path))).toEqual(content);
  });

  test("reports a file that is shorter than it should be as an error", () => {
    const d = disk(way, new Uint8Array(8192));
    const fd = openSync(d.path, "r+");
    ftruncateSync(fd, 2048);
    closeSync(fd);
    expect(d.do(IN, 0, [{ gpa: d.alloc(4096), length: 4096, write: true }]).status).toBe(IOERR);
    expect((d.device as BlockDevice).stats.errors).toBe(1);
  });

  test("a shut gate holds writes, discards and flushes in order, and lets reads pass", () => {
    const d = disk(way, pattern(1 << 20)), device = d.device as BlockDevice;
    device.shut();
    const first = d.put(pattern(4096, 3)), second = d.put(pattern(4096, 5)), gpa = d.alloc(4096);
    const range = new DataView(new ArrayBuffer(16));
    range.setBigUint64(0, 64n, true);
    range.setUint32(8, 8, true);
    const held = [
      d.request(OUT, 0, [{ gpa: first, length: 4096 }]), d.request(OUT, 0, [{ gpa: second, length: 4096 }]),
      d.request(DISCARD, 0, [{ gpa: d.put(new Uint8Array(range.buffer)), length: 16 }]), d.request(FLUSH, 0),
    ];
    const read = d.request(IN, 0, [{ gpa, length: 4096, write: true }]);
    d.queues[0]!.kick();
    d.run(() => d.bytes[read] === OK);
    d.settle();
    expect(held.map((status) => d.bytes[status])).toEqual([0xff, 0xff, 0xff, 0xff]);
    expect(d.bytes.slice(gpa, gpa + 4096)).toEqual(pattern(4096));
    expect(Uint8Array.from(readFileSync(d.path))).toEqual(pattern(1 << 20));
    device.open();
    d.answered(held.length + 1);
    expect(held.map((status) => d.bytes[status])).toEqual([OK, OK, OK, OK]);
    if (way === "worker") expect(d.read(0, 4096)).toEqual(pattern(4096, 5)); // io_uring may do them in any order, as for any guest
    expect(d.read(64, 4096)).toEqual(new Uint8Array(4096));
  });

  test("quiesce() finishes what is in flight and takes nothing new until resume()", () => {
    const d = disk(way, new Uint8Array(8 << 20)), device = d.device as BlockDevice;
    for (let i = 0; i < 60; i++) d.request(OUT, i * 128, [{ gpa: d.alloc(65536), length: 65536 }]);
    d.queues[0]!.kick();
    d.epoll.poll(1000);
    let idle = 0;
    device.quiesce(() => void idle++);
    d.run(() => idle > 0);
    expect(device.inFlight).toBe(0);
    const before = d.queues[0]!.takeUsed().length;
    const late = d.request(IN, 0, [{ gpa: d.alloc(4096), length: 4096, write: true }]);
    d.queues[0]!.kick();
    d.settle();
    expect({ idle, late: d.bytes[late] }).toEqual({ idle: 1, late: 0xff });
    device.resume();
    let done = before;
    d.run(() => (done += d.queues[0]!.takeUsed().length) === 61);
    expect(d.bytes[late]).toBe(OK);
  });

  test("reset() waits for requests in flight and forgets them", () => {
    const d = disk(way, new Uint8Array(8 << 20));
    for (let i = 0; i < 60; i++) d.request(OUT, i * 128, [{ gpa: d.alloc(65536), length: 65536 }]);
    d.queues[0]!.kick();
    d.epoll.poll(1000);
    d.status = 0;
    d.run(() => d.status === 0);
    expect((d.device as BlockDevice).inFlight).toBe(0);
    d.start();
    expect(d.read(0, 4096)).toEqual(new Uint8Array(4096));
  });
});

test("a request without room for its status makes the device ask for a reset", () => {
  const d = disk("io_uring", new Uint8Array(4096));
  d.queues[0]!.add([{ gpa: d.put(new Uint8Array(16)), length: 16 }]);
  d.queues[0]!.kick();
  d.run(() => (d.status & 0x40) !== 0);
  expect(d.platform.took(101)).toBe(true);
  expect(d.log).toHaveLength(1);
});

test("a spare device gets its file later", () => {
  const epoll = new Epoll();
  const io = UringIo.create(epoll)!;
  const dir = mkdtempSync(join(tmpdir(), "dormouse-block-"));
  writeFileSync(join(dir, "volume"), pattern(1 << 16));
  const fd = openSync(join(dir, "volume"), "r+");
  cleanup.push(() => rmSync(dir, { recursive: true }), () => closeSync(fd), () => epoll.close(), () => io.close());
  const device = new BlockDevice({ name: "disk2", readonly: false, serial: "" }, io);
  const d = new Disk("", device, epoll).start() as Disk;
  expect(d.do(IN, 0, [{ gpa: d.alloc(512), length: 512, write: true }]).status).toBe(IOERR);
  const generation = d.readCommon("config_generation");
  device.setBacking(fd, 1 << 16);
  expect(d.platform.took(101)).toBe(true);
  expect(d.readCommon("config_generation")).not.toBe(generation);
  expect(device.config.getBigUint64(virtio_blk_config.at.capacity, true)).toBe(128n);
  expect(d.read(0, 4096)).toEqual(pattern(4096));
});

test("a bucket holds requests back until it has credit again", () => {
  const d = disk("io_uring", new Uint8Array(1 << 20));
  const device = d.device as BlockDevice;
  let seconds = 0, asked = 0;
  device.bucket = new TokenBucket(4096, 4096, d.epoll, () => (asked++, device.wake()), () => seconds * 1e9);
  for (let i = 0; i < 4; i++) d.request(IN, 0, [{ gpa: d.alloc(4096), length: 4096, write: true }]);
  d.queues[0]!.kick();
  let done = 0;
  for (; seconds < 4; seconds++) {
    // It asks again, and gets no more than one each second.
    const before = asked;
    d.run(() => (done += d.queues[0]!.takeUsed().length) > seconds && asked > before + 1 || done === 4);
    expect(done).toBe(seconds + 1);
  }
  expect(device.stats.readBytes).toBe(4 * 4096);
});

test("no space on the host is an error to the guest, counted, and told ever more seldom", () => {
  const full = openSync("/dev/full", "r+");
  const epoll = new Epoll();
  const io = UringIo.create(epoll)!;
  cleanup.push(() => closeSync(full), () => epoll.close(), () => io.close());
  const device = new BlockDevice({ name: "disk0", readonly: false, serial: "", backing: { fd: full, bytes: 1 << 20 } }, io);
  const d = new Disk("", device, epoll).start() as Disk;
  const heard: number[] = [];
  device.stats.onFailure = (errno) => void heard.push(errno, device.stats.errors);
  for (let i = 0; i < 5; i++) expect(d.do(OUT, 0, [{ gpa: d.alloc(4096), length: 4096 }]).status).toBe(IOERR);
  expect(device.stats).toMatchObject({ errors: 5, noSpace: 5 });
  expect(heard).toEqual([E.ENOSPC, 1, E.ENOSPC, 2, E.ENOSPC, 4]);
});
