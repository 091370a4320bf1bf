import { expect, test } from "bun:test";
import { closeSync, openSync, readdirSync, readFileSync, readSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { FAILURE, failing } from "../../../support/failing.ts";
import { TempDir } from "../../../support/paths.ts";
import { decodeMachine, PAGE_BYTES } from "../../../../src/machine-state/saved-machine.ts";
import type { Step } from "../../../../src/host/snapshots/merging/merger.ts";
import { PAGES, randomFrom, World, type Random } from "./world.ts";

async function inWorld(use: (world: World) => Promise<void>): Promise<void> {
  using dir = new TempDir("merging");
  const world = new World(dir.path);
  try {
    await use(world);
    expect(world.failures).toEqual([]);
  } finally {
    await world.close();
  }
}

/** Random generations over one another, and somebody on some of them; the rest goes. */
function populate(world: World, random: Random): void {
  const ids: string[] = [];
  for (let n = 4 + random(12); n > 0; n--) {
    // Mostly over the newest, so that chains get long.
    const base = ids.length === 0 || random(12) === 0 ? null : random(3) > 0 ? ids.at(-1)! : ids[random(ids.length)]!;
    ids.push(...world.chain(1, random, base));
  }
  for (let n = 1 + random(5); n > 0; n--) world.need((["saved", "saved", "snapshot", "live"] as const)[random(4)]!, ids[ids.length - 1 - random(Math.min(ids.length, 6))]!);
  world.generations.sweep();
}

test("whoever needs a generation finds the same memory in it, however chains are shared; and nothing else is left", async () => {
  const random = randomFrom(Number(process.env["SEED"] ?? 3));
  let merged = 0;
  const rounds = Number(process.env["ROUNDS"] ?? 25);
  for (let round = 0; round < rounds; round++)
    await inWorld(async (world) => {
      populate(world, random);
      const { db } = world.store, before = new Map(world.ids().map((id) => [id, world.content(id)]));
      const needed = db.query<{ id: string }, []>("SELECT saved_generation AS id FROM instances UNION SELECT live_generation FROM instances UNION SELECT generation_id FROM snapshots").all().map(({ id }) => id).filter((id) => id !== null);
      const live = db.query<{ id: string }, []>("SELECT live_generation AS id FROM instances WHERE live_generation IS NOT NULL").all().flatMap(({ id }) => world.generations.chainIds(id));
      const untouched = live.map((id) => world.generations.paths(id).dir);
      world.merger.look();
      await world.merger.idle();
      for (const id of needed) expect(world.ids()).toContain(id);
      for (const id of world.ids()) {
        expect(world.content(id)).toBe(before.get(id)!);
        expect(world.depth(id)).toBe(world.generations.chainIds(id).length);
      }
      expect(live.map((id) => world.generations.paths(id).dir)).toEqual(untouched);
      const { known, found } = world.folders();
      expect(found).toEqual(known);
      merged += before.size - world.ids().length;
      world.generations.sweep();
      expect(world.folders()).toEqual({ known, found });
    });
  expect(merged).toBeGreaterThan(rounds / 2);
}, 120_000);

test("a long chain becomes one, sparse, with what the newest was; a short one stays", () => inWorld(async (world) => {
  const random = randomFrom(1), short = world.chain(3, random), long = world.chain(8, random);
  world.need("saved", short[0]!);
  world.need("saved", long[0]!);
  world.merger.look();
  world.merger.want(short[0]!);
  await world.merger.idle();
  expect(world.ids().toSorted()).toEqual([...short, long[0]!].toSorted());
  expect(world.generations.find(long[0]!)).toMatchObject({ baseId: null, depth: 1 });
  const paths = world.generations.paths(long[0]!), map = decodeMachine(readFileSync(paths.machine)).pages;
  const data = map.reduce((sum, { pages, content }) => sum + (content === "data" ? pages : 0), 0);
  expect(map.every(({ content }) => content === "data")).toBe(true); // zero over nothing needs no word
  expect(world.generations.find(long[0]!)!.dataBytes).toBe(data * PAGE_BYTES);
  const { size, blocks } = statSync(paths.memory);
  expect(size).toBe(PAGES * PAGE_BYTES);
  expect(blocks * 512 - data * PAGE_BYTES).toBeLessThan(2 ** 16); // the file system's own map of it
  // The next one is saved over it.
  expect(world.depth(world.save(long[0]!, []))).toBe(2);
}));

test("an instance and a snapshot asleep on the same one, and a fork over it, keep it", () => inWorld(async (world) => {
  const random = randomFrom(2), [top] = world.chain(5, random) as [string], [child] = world.chain(1, random, top) as [string];
  for (const how of ["saved", "snapshot"] as const) world.need(how, top);
  world.need("saved", child);
  const before = [top, child].map((id) => world.content(id));
  world.merger.look();
  await world.merger.idle();
  expect(world.ids().toSorted()).toEqual([top, child].toSorted());
  expect([top, child].map((id) => world.content(id))).toEqual(before);
  expect([world.depth(top), world.depth(child)]).toEqual([1, 2]);
}));

test("what somebody else needs is where it ends; where little is left below the limit, two are enough", () => inWorld(async (world) => {
  const random = randomFrom(5), shared = world.chain(4, random), own = world.chain(2, random, shared[0]!);
  world.need("live", shared[0]!);
  world.need("saved", own[0]!);
  const before = world.content(own[0]!);
  world.merger.look();
  await world.merger.idle();
  expect(world.generations.find(own[0]!)).toMatchObject({ baseId: shared[0]!, depth: 5 });
  expect(world.content(own[0]!)).toBe(before);
  expect(world.ids()).toHaveLength(5);
}));

for (const step of ["begun", "written", "synced"] as const satisfies Step[])
  for (const how of ["hold", "gone"] as const)
    test(`called off by ${how} at "${step}": nothing is left of it`, () => inWorld(async (world) => {
      const ids = world.chain(5, randomFrom(4)), user = world.need("saved", ids[0]!), before = world.content(ids[0]!), gate = world.gate(step);
      world.merger.look();
      await gate.reached;
      const letGo = how === "hold" ? world.merger.hold(ids[0]!) : () => {};
      if (how === "gone") {
        world.store.db.query("DELETE FROM instances WHERE id = ?").run(user);
        world.generations.sweep();
        expect(world.ids()).toEqual([]);
      }
      // Whoever wakes it does not wait: the files are there, and stay.
      const files = how === "hold" ? world.chainPaths(ids[0]!) : [];
      gate.open();
      await world.merger.idle();
      expect(world.steps).not.toContain("recorded");
      expect(world.folders().found).toEqual(world.folders().known);
      if (how === "gone") return;
      expect(files.map(({ dir }) => dir).toSorted()).toEqual(world.folders().known);
      world.merger.want(ids[0]!); // not now
      await world.merger.idle();
      expect(world.ids()).toHaveLength(5);
      letGo();
      letGo();
      await world.merger.idle();
      expect(world.ids()).toEqual([ids[0]!]);
      expect(world.content(ids[0]!)).toBe(before);
    }));

test("one that came to be used or needed meanwhile is left as it is; open files of a merged chain stay readable", () => inWorld(async (world) => {
  const ids = world.chain(5, randomFrom(6)), gate = world.gate("synced");
  const user = world.need("saved", ids[0]!);
  world.merger.look();
  await gate.reached;
  world.need("snapshot", ids[2]!);
  gate.open();
  await world.merger.idle();
  expect(world.ids()).toHaveLength(5);
  world.store.db.run("DELETE FROM snapshots");
  world.store.db.query("UPDATE instances SET live_generation = saved_generation, saved_generation = NULL WHERE id = ?").run(user);
  world.merger.want(ids[0]!);
  await world.merger.idle();
  expect(world.ids()).toHaveLength(5);
  world.store.db.query("UPDATE instances SET saved_generation = live_generation, live_generation = NULL WHERE id = ?").run(user);
  const fd = openSync(world.generations.paths(ids[4]!).memory, "r"), before = Buffer.alloc(PAGES * PAGE_BYTES), after = Buffer.alloc(before.length);
  readSync(fd, before, 0, before.length, 0);
  world.merger.want(ids[0]!);
  await world.merger.idle();
  expect(world.ids()).toHaveLength(1);
  readSync(fd, after, 0, after.length, 0);
  expect(after.equals(before)).toBe(true);
  closeSync(fd);
}));

test("it is merged first and compressed then; a compressed one is left alone until it is raw again", () => inWorld(async (world) => {
  const ids = world.chain(4, randomFrom(8)), top = ids[0]!, before = world.content(top), dirOf = (id: string) => world.generations.paths(id).dir;
  world.need("saved", top);
  const gate = world.gate("written");
  world.merger.want(top);
  world.compressor.schedule(top, dirOf(top), { enabled: true, algorithm: "zstd", level: 1 }, 0);
  await gate.reached;
  expect(readdirSync(dirOf(top)).toSorted()).toEqual(["machine", "memory"]);
  gate.open();
  await world.compressor.settled();
  expect(world.ids()).toEqual([top]);
  expect(readdirSync(dirOf(top)).toSorted()).toEqual(["machine", "memory.zstd"]);
  const more = world.chain(4, randomFrom(9), top);
  world.need("saved", more[0]!);
  world.merger.want(more[0]!);
  await world.merger.idle();
  expect(world.ids().toSorted()).toEqual([top, more[0]!].toSorted());
  (await world.compressor.ensureRaw(top, dirOf(top)))._unsafeUnwrap();
  expect(world.content(top)).toBe(before);
}));

test("a damaged one leaves the chain, and says why", async () => {
  using dir = new TempDir("merging");
  const world = new World(dir.path), ids = world.chain(4, randomFrom(8));
  world.need("saved", ids[0]!);
  const { machine } = world.generations.paths(ids[2]!), whole = readFileSync(machine);
  writeFileSync(machine, whole.subarray(0, 100));
  world.merger.look();
  await world.merger.idle();
  writeFileSync(machine, whole);
  rmSync(world.generations.paths(ids[3]!).machine);
  world.merger.look();
  await world.merger.idle();
  expect(world.failures).toEqual([
    expect.stringMatching(/^Cannot merge the saved machine .* with those below it: .*100 of \d+ bytes/),
    expect.stringMatching(/^Cannot merge the saved machine .* with those below it: .*ENOENT/),
  ]);
  expect(world.folders().found).toEqual(world.folders().known);
  expect(world.ids()).toHaveLength(4);
  await world.close();
});

test("close() ends it at once; the next daemon begins anew", async () => {
  using dir = new TempDir("merging");
  const first = new World(join(dir.path)), [top] = first.chain(4, randomFrom(1)), gate = first.gate("begun");
  first.need("saved", top!);
  first.merger.look();
  await gate.reached;
  const closed = first.close();
  gate.open();
  await closed;
  const next = new World(dir.path);
  expect(next.folders().found).toEqual(next.folders().known);
  expect(next.ids()).toHaveLength(4);
  next.merger.look();
  await next.merger.idle();
  expect(next.ids()).toEqual([top!]);
  await next.close();
});

test("a database that fails between two merges is told of, and what waited is looked at again when somebody lets go", async () => {
  using dir = new TempDir("merging");
  const world = new World(dir.path), random = randomFrom(5), chains = [world.chain(5, random), world.chain(5, random)];
  for (const [newest] of chains) world.need("saved", newest!);
  let down: Disposable | null = null;
  const gate = world.gate("removed");
  world.merger.look();
  await gate.reached;
  down = failing(world.store.db);
  gate.open();
  await world.merger.idle();
  world.merger.look();
  expect(world.failures).toEqual([
    expect.stringMatching(new RegExp(`^Cannot see what the saved machine (${chains.map(([newest]) => newest).join("|")}) stands on: ${FAILURE}$`)),
    `Cannot look for long chains of saved machines: ${FAILURE}`,
  ]);
  down[Symbol.dispose]();
  world.merger.hold(chains[0]![0]!)();
  await world.merger.idle();
  expect(chains.map(([newest]) => world.depth(newest!))).toEqual([1, 1]);
  await world.close();
});
