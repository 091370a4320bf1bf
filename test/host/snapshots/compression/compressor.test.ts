import { expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { command } from "../../../support/command.ts";
import { ManualClock } from "../../../support/clock.ts";
import { TempDir } from "../../../support/paths.ts";
import { until } from "../../../support/until.ts";
import { Compressor, type Step } from "../../../../src/host/snapshots/compression/compressor.ts";
import { packedPath } from "../../../../src/host/snapshots/compression/files.ts";
import { sqliteRecords } from "../../../../src/host/snapshots/compression/records.ts";
import type { Compression } from "../../../../src/host/snapshots/service.ts";
import { digest, memoryLike, openTables, packFile, writeSparse } from "./harness.ts";
import { trashIn } from "../../../support/trash.ts";

const ZSTD: Compression = { enabled: true, algorithm: "zstd", level: 1 };
const LZ4: Compression = { enabled: true, algorithm: "lz4", level: 0 };
const NONE = { state: "none", error: null, compressedBytes: null, uncompressedBytes: null } as const;

/** A folder with the memories of generations `g` and `h`, and a compressor that waits at a step where it is told to. */
class World {
  readonly temp = new TempDir("compressor");
  readonly clock = new ManualClock();
  readonly store = openTables(this.temp.join("db"));
  readonly said: string[] = [];
  private readonly gates = new Map<string, { readonly reached: () => void; readonly until: Promise<void> }>();
  readonly compressor = new Compressor({
    records: sqliteRecords(this.store.db), trash: trashIn(this.temp.path), clock: this.clock,
    onStep: async (work, step, gid) => {
      if (step !== "chunk") this.said.push(`${gid} ${work} ${step}`);
      const gate = this.gates.get(`${work} ${step}`);
      gate?.reached();
      await gate?.until;
    },
  });
  readonly digests: Record<string, string> = {};

  constructor(bytes = 5 << 20) {
    for (const gid of ["g", "h"]) {
      mkdirSync(this.dir(gid));
      writeSparse(join(this.dir(gid), "memory"), 32 << 20, [{ at: 1 << 20, data: memoryLike(bytes, gid.charCodeAt(0)) }]);
      this.digests[gid] = digest(join(this.dir(gid), "memory"));
    }
  }
  dir(gid: string): string { return this.temp.join(gid); }
  files(gid = "g"): string[] { return readdirSync(this.dir(gid)).sort(); }
  intact(gid = "g"): boolean { return digest(join(this.dir(gid), "memory")) === this.digests[gid]; }

  /** Makes the work stop at `step`: `reached` says when it is there, `open` lets it go on. */
  gate(step: `compress ${Step}` | `decompress ${Step}`): { reached: Promise<void>; open: () => void } {
    const reached = Promise.withResolvers<void>(), until = Promise.withResolvers<void>();
    this.gates.set(step, { reached: reached.resolve, until: until.promise });
    return { reached: reached.promise, open: () => { this.gates.delete(step); until.resolve(); } };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.compressor.close();
    this.store.close();
    this.temp[Symbol.dispose]();
  }
}

test("schedule() compresses after the delay, one at a time, the one that is due longest first", async () => {
  await using world = new World();
  world.compressor.schedule("g", world.dir("g"), ZSTD, 30_000);
  world.compressor.schedule("h", world.dir("h"), LZ4, 10_000);
  world.clock.advance(9_999);
  await world.compressor.settled();
  expect(world.said).toEqual([]);
  expect(world.compressor.state("g")).toEqual(NONE);
  world.clock.advance(30_000);
  await world.compressor.settled();
  expect(world.said).toEqual(["h", "g"].flatMap((gid) => ["begun", "synced", "renamed", "recorded", "removed"].map((step) => `${gid} compress ${step}`)));
  expect([world.files("g"), world.files("h")]).toEqual([["memory.zstd"], ["memory.lz4"]]);
  const state = world.compressor.state("g");
  expect(state).toEqual({ state: "compressed", error: null, uncompressedBytes: 5 << 20, compressedBytes: Bun.file(packedPath(world.dir("g"), "zstd")).size });
  expect((await world.compressor.ensureRaw("g", world.dir("g"))).isOk()).toBe(true);
  expect([world.files("g"), world.intact("g"), world.compressor.state("g")]).toEqual([["memory"], true, NONE]);
});

test("schedule() does nothing where compression is off, and replaces what was wanted before", async () => {
  await using world = new World();
  world.compressor.schedule("g", world.dir("g"), { enabled: false }, 0);
  world.compressor.schedule("h", world.dir("h"), ZSTD, 1_000);
  world.compressor.schedule("h", world.dir("h"), LZ4, 5_000);
  world.clock.advance(4_999);
  await world.compressor.settled();
  expect(world.said).toEqual([]);
  world.clock.advance(1);
  await world.compressor.settled();
  expect([world.files("g"), world.files("h")]).toEqual([["memory"], ["memory.lz4"]]);
});

test("cancel() of one that waits forgets it", async () => {
  await using world = new World();
  world.compressor.schedule("g", world.dir("g"), ZSTD, 1_000);
  await world.compressor.cancel("g");
  world.clock.advance(2_000);
  await world.compressor.settled();
  expect([world.said, world.files(), world.compressor.state("g")]).toEqual([[], ["memory"], NONE]);
});

for (const step of ["begun", "chunk", "synced", "renamed"] as const)
  test(`a restore that comes at "${step}" calls the compression off at once, and the raw file is there`, async () => {
    await using world = new World();
    const gate = world.gate(`compress ${step}`);
    world.compressor.schedule("g", world.dir("g"), ZSTD, 0);
    world.clock.advance(0);
    await gate.reached;
    // The compression is stopped at its gate all the while: nobody waits for it.
    expect((await world.compressor.ensureRaw("g", world.dir("g"))).isOk()).toBe(true);
    expect([existsSync(join(world.dir("g"), "memory")), world.intact(), world.compressor.state("g")]).toEqual([true, true, NONE]);
    gate.open();
    await world.compressor.settled();
    expect([world.files(), world.intact(), world.compressor.state("g")]).toEqual([["memory"], true, NONE]);
    // And again, now to the end.
    world.compressor.schedule("g", world.dir("g"), LZ4, 0);
    world.clock.advance(0);
    await world.compressor.settled();
    expect([world.files(), world.compressor.state("g").state]).toEqual([["memory.lz4"], "compressed"]);
  });

test("a restore that comes after the commit waits for its end and decompresses", async () => {
  await using world = new World();
  const gate = world.gate("compress recorded");
  world.compressor.schedule("g", world.dir("g"), ZSTD, 0);
  world.clock.advance(0);
  await gate.reached;
  const restored = world.compressor.ensureRaw("g", world.dir("g"));
  expect(world.files()).toEqual(["memory", "memory.zstd"]);
  gate.open();
  expect((await restored).isOk()).toBe(true);
  expect([world.files(), world.intact(), world.said.includes("g decompress renamed")]).toEqual([["memory"], true, true]);
});

test("what is wanted while one that was called off still ends comes after it", async () => {
  await using world = new World();
  const gate = world.gate("compress synced");
  world.compressor.schedule("g", world.dir("g"), ZSTD, 0);
  world.clock.advance(0);
  await gate.reached;
  await world.compressor.cancel("g");
  world.compressor.schedule("g", world.dir("g"), LZ4, 0);
  world.clock.advance(0);
  gate.open();
  await world.compressor.settled();
  expect([world.files(), world.compressor.state("g").state]).toEqual([["memory.lz4"], "compressed"]);
});

test("restores that come together are one", async () => {
  await using world = new World();
  world.compressor.schedule("g", world.dir("g"), LZ4, 0);
  world.clock.advance(0);
  await world.compressor.settled();
  const all = await Promise.all(Array.from({ length: 100 }, () => world.compressor.ensureRaw("g", world.dir("g"))));
  expect(all.every((one) => one.isOk())).toBe(true);
  expect(world.said.filter((line) => line === "g decompress renamed").length).toBe(1);
  expect(world.intact()).toBe(true);
});

test("a generation that goes while it is compressed harms nothing", async () => {
  await using world = new World();
  const gate = world.gate("compress synced");
  world.compressor.schedule("g", world.dir("g"), ZSTD, 0);
  world.compressor.schedule("h", world.dir("h"), ZSTD, 0);
  world.clock.advance(0);
  await gate.reached;
  world.store.db.run("DELETE FROM generations WHERE id = 'g'");
  rmSync(world.dir("g"), { recursive: true });
  gate.open();
  await world.compressor.settled();
  expect([existsSync(world.dir("g")), world.compressor.state("g"), world.compressor.state("h").state]).toEqual([false, NONE, "compressed"]);
});

test("ensureRaw() refuses what is damaged, newer or gone, and leaves it as it is", async () => {
  await using world = new World();
  const packed = packedPath(world.dir("g"), "zstd"), raw = join(world.dir("g"), "memory");
  await packFile(raw, packed, "zstd", 1);
  const bytes = Buffer.from(await Bun.file(packed).arrayBuffer());
  rmSync(raw);
  bytes[bytes.length >> 1]! ^= 1;
  writeFileSync(packed, bytes);
  expect((await world.compressor.ensureRaw("g", world.dir("g")))._unsafeUnwrapErr()).toMatchObject({ code: "snapshot.damaged", message: expect.stringMatching(/^Cannot decompress .*memory\.zstd: the checksum of chunk \d+ is wrong$/) });
  expect(world.files()).toEqual(["memory.zstd"]);
  rmSync(packed);
  expect((await world.compressor.ensureRaw("g", world.dir("g")))._unsafeUnwrapErr()).toMatchObject({ code: "snapshot.damaged", message: expect.stringContaining("is missing") });
});

test("a memory that can't be read leaves the state error with its reason", async () => {
  await using world = new World();
  rmSync(join(world.dir("g"), "memory"));
  world.compressor.schedule("g", world.dir("g"), ZSTD, 0);
  world.clock.advance(0);
  await world.compressor.settled();
  expect(world.compressor.state("g")).toMatchObject({ state: "error", error: expect.stringMatching(/^Cannot compress the memory: Cannot open .*ENOENT/) });
});

test("close() leaves what it was at to the next one, and what still waits", async () => {
  await using world = new World();
  const gate = world.gate("compress chunk");
  world.compressor.schedule("g", world.dir("g"), ZSTD, 0);
  world.compressor.schedule("h", world.dir("h"), LZ4, 60_000);
  world.clock.advance(0);
  await gate.reached;
  gate.open();
  await world.compressor.close();
  expect([world.files(), world.intact()]).toEqual([["memory"], true]);
  const next = new Compressor({ records: sqliteRecords(world.store.db), trash: trashIn(world.temp.path), clock: world.clock });
  next.resume((gid) => world.dir(gid));
  world.clock.advance(0);
  await next.settled();
  expect([world.files("g"), world.files("h")]).toEqual([["memory.zstd"], ["memory"]]);
  world.clock.advance(60_000);
  await next.settled();
  expect(world.files("h")).toEqual(["memory.lz4"]);
  await next.close();
});

const FULL = `
const { Compressor } = await import(${JSON.stringify(join(import.meta.dir, "../../../../src/host/snapshots/compression/compressor.ts"))});
const { sqliteRecords } = await import(${JSON.stringify(join(import.meta.dir, "../../../../src/host/snapshots/compression/records.ts"))});
const { openTables, writeSparse, memoryLike, noise, digest } = await import(${JSON.stringify(join(import.meta.dir, "harness.ts"))});
const { trashIn } = await import(${JSON.stringify(join(import.meta.dir, "../../../support/trash.ts"))});
const { readdirSync, mkdirSync } = await import("node:fs");
const [folder] = process.argv.slice(1);
mkdirSync(folder + "/disk/g");
const dir = folder + "/disk/g", store = openTables(folder + "/db"), compressor = new Compressor({ records: sqliteRecords(store.db), trash: trashIn(folder) });
const look = async (what) => { await compressor.settled(); console.log(JSON.stringify([what, readdirSync(dir), compressor.state("g")])); };
const want = () => compressor.schedule("g", dir, { enabled: true, algorithm: "zstd", level: 1 }, 0);
writeSparse(dir + "/memory", 20 << 20, [{ at: 0, data: noise(6 << 20) }]);
want();
await look("noise");
const before = [];
writeSparse(dir + "/memory", 20 << 20, [{ at: 0, data: memoryLike(6 << 20) }]);
want();
await look("program");
await Bun.write(folder + "/disk/filler", noise(6 << 20));
console.log(JSON.stringify(["full", (await compressor.ensureRaw("g", dir)).match(() => "raw", (error) => error.code + " " + error.message), readdirSync(dir)]));
await compressor.close();
store.close();
`;

test("a full disk leaves the raw file and the reason; and the compressed file where there is no room to restore it", async () => {
  using temp = new TempDir("full");
  mkdirSync(temp.join("disk"));
  const script = `mount -t tmpfs -o size=10m none "$1/disk" && exec "$2" -e "$3" "$1"`;
  const lines = (await command(["unshare", "-m", "sh", "-ec", script, "sh", temp.path, process.execPath, FULL])).trim().split("\n").map((line) => JSON.parse(line) as unknown[]);
  expect(lines).toEqual([
    ["noise", ["memory"], { state: "error", error: expect.stringMatching(/^Cannot compress the memory: the disk is full \(.*ENOSPC.*\); free some space$/), compressedBytes: null, uncompressedBytes: null }],
    ["program", ["memory.zstd"], expect.objectContaining({ state: "compressed" })],
    ["full", expect.stringMatching(/^host\.storage Cannot decompress .*memory\.zstd: the disk is full/), ["memory.zstd"]],
  ]);
});

test("where even that can't be written down, the raw file stays, and the next compression comes all the same", async () => {
  await using world = new World();
  const records = sqliteRecords(world.store.db), full = () => { throw new Error("database or disk is full"); };
  let begun = 0;
  const told: string[] = [];
  const compressor = new Compressor({ records: { ...records, begun: (id) => (begun++ === 0 ? full() : records.begun(id)), failed: full }, trash: trashIn(world.temp.path), failed: (what, error) => void told.push(`${what}: ${error}`) });
  compressor.schedule("g", world.dir("g"), ZSTD, 0);
  compressor.schedule("h", world.dir("h"), ZSTD, 0);
  await until("the second", () => compressor.state("h").state === "compressed");
  await compressor.close();
  expect([world.files("g"), world.intact("g"), world.files("h")]).toEqual([["memory"], true, ["memory.zstd"]]);
  expect(told).toEqual(["record that g was not compressed (Cannot compress the memory: database or disk is full): Error: database or disk is full"]);
});
