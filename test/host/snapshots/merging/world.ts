// A data folder with generations in it, as saves leave them, and who needs them; and what each of them means, page by page.
import { closeSync, ftruncateSync, openSync, readdirSync, readFileSync, readSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { instanceMigrations } from "../../../../src/host/instances/instances.ts";
import { Compressor } from "../../../../src/host/snapshots/compression/compressor.ts";
import { sqliteRecords } from "../../../../src/host/snapshots/compression/records.ts";
import { Generations, type GenerationPaths } from "../../../../src/host/snapshots/generations.ts";
import { Merger, type Step } from "../../../../src/host/snapshots/merging/merger.ts";
import { Merges } from "../../../../src/host/snapshots/merging/plan.ts";
import { Snapshots } from "../../../../src/host/snapshots/snapshots.ts";
import { openStore } from "../../../../src/host/store/store.ts";
import { chainOf, ExtentBuilder, NOWHERE, type Content, type Extent } from "../../../../src/machine-state/extents.ts";
import { checkChain, decodeMachine, encodeMachine, PAGE_BYTES } from "../../../../src/machine-state/saved-machine.ts";
import { sampleMachine } from "../../../support/saved-machine.ts";
import { recordsOf, request } from "../../instances/fixture.ts";
import type { Trash } from "../../../../src/host/trash.ts";
import { trashIn } from "../../../support/trash.ts";

export const PAGES = 4096;

export class World {
  readonly store;
  readonly trash: Trash;
  readonly generations: Generations;
  readonly compressor: Compressor;
  readonly merger: Merger;
  readonly failures: string[] = [];
  readonly steps: Step[] = [];
  private count = 0;
  private readonly gates = new Map<Step, { readonly reached: () => void; readonly until: Promise<void> }>();

  /** `onStep` beside the gates. */
  constructor(readonly path: string, onStep: (step: Step) => void | Promise<void> = () => {}) {
    this.trash = trashIn(path);
    this.store = openStore(join(path, "db"), instanceMigrations)._unsafeUnwrap();
    const { db } = this.store;
    this.compressor = new Compressor({ records: sqliteRecords(db), trash: this.trash });
    this.generations = new Generations(db, join(path, "memory"), this.trash, {
      going: (id) => (void this.compressor.cancel(id), this.merger.gone(id)), left: (error) => void this.failures.push(String(error)),
    });
    this.merger = new Merger({
      generations: this.generations, merges: new Merges(db), compression: this.compressor, failed: (_, { message }) => void this.failures.push(message),
      onStep: async (step) => {
        this.steps.push(step);
        await onStep(step);
        const gate = this.gates.get(step);
        gate?.reached();
        await gate?.until;
      },
    });
    this.compressor.before = (gid) => this.merger.settled(gid);
  }

  gate(step: Step): { readonly reached: Promise<void>; readonly open: () => void } {
    const reached = Promise.withResolvers<void>(), until = Promise.withResolvers<void>();
    this.gates.set(step, { reached: reached.resolve, until: until.promise });
    return { reached: reached.promise, open: () => (this.gates.delete(step), until.resolve()) };
  }

  async close(): Promise<void> {
    await this.merger.close();
    await this.compressor.close();
    this.store.close();
  }

  // --- making

  /** A generation over `base` that says `map`; every page of data is unlike any other. */
  save(base: string | null, map: readonly Extent[]): string {
    const { id, baseId } = this.generations.begin(base)._unsafeUnwrap(), paths = this.generations.paths(id), mark = ++this.count;
    writeFileSync(paths.machine, encodeMachine(sampleMachine({ id, base: baseId, pages: map, memoryBytes: PAGES * PAGE_BYTES, devices: [{ of: id }] })));
    const fd = openSync(paths.memory, "wx"), page = new Uint32Array(PAGE_BYTES / 4);
    ftruncateSync(fd, PAGES * PAGE_BYTES);
    for (const { page: first, pages, content } of map)
      for (let i = first; content === "data" && i < first + pages; i++) writeSync(fd, page.fill(mark * PAGES + i), 0, PAGE_BYTES, i * PAGE_BYTES);
    closeSync(fd);
    this.generations.ready(id, 0);
    return id;
  }

  /** `length` deltas over `base`, the newest first, with what `random` gives. */
  chain(length: number, random: Random, base: string | null = null): string[] {
    const ids: string[] = [];
    for (let i = 0; i < length; i++) ids.unshift(this.save(ids[0] ?? base, randomMap(random)));
    return ids;
  }

  /** An instance asleep on the generation, or running over it; or a snapshot of one. */
  need(how: "saved" | "live" | "snapshot", generation: string): string {
    const { db } = this.store, id = `user${++this.count}`, instance = recordsOf(db).insert(id, request(id, []), "sha256:0")._unsafeUnwrap();
    if (how === "snapshot") new Snapshots(db).insert(id, instance, { name: null, kind: "Standby", tags: {}, compression: null }, generation);
    else db.query(`UPDATE instances SET ${how}_generation = ? WHERE id = ?`).run(generation, id);
    return id;
  }

  // --- looking

  /** Newest first. */
  chainPaths(id: string): GenerationPaths[] { return this.generations.chainIds(id).map((one) => this.generations.paths(one)); }

  /** What each page of the generation's memory is, by a hash; its chain is checked as a restore does. */
  content(id: string): string {
    const ids = this.generations.chainIds(id), paths = this.chainPaths(id);
    const machines = paths.map((one) => decodeMachine(readFileSync(one.machine)));
    checkChain(machines, ids);
    const hash = new Bun.CryptoHasher("sha256"), page = Buffer.alloc(PAGE_BYTES), words = Array.from({ length: PAGES }, () => 0);
    const fds = paths.map(({ memory }) => openSync(memory, "r"));
    for (const { page: first, pages, content } of chainOf(machines.map((one) => one.pages)))
      for (let i = first; content !== NOWHERE && i < first + pages; i++) {
        readSync(fds[content]!, page, 0, PAGE_BYTES, i * PAGE_BYTES);
        words[i] = Number(Bun.hash.crc32(page));
      }
    fds.forEach((fd) => closeSync(fd));
    hash.update(JSON.stringify([words, machines[0]!.devices]));
    return hash.digest("hex");
  }

  ids(): string[] { return this.store.db.query<{ id: string }, []>("SELECT id FROM generations").all().map(({ id }) => id); }
  depth(id: string): number { return this.generations.find(id)!.depth; }
  /** Of those that are on record, and of those that are there. */
  folders(): { readonly known: string[]; readonly found: string[] } {
    return { known: this.ids().map((id) => this.generations.paths(id).dir).sort(), found: readdirSync(join(this.path, "memory")).map((name) => join(this.path, "memory", name)).sort() };
  }
}

export type Random = (n: number) => number;
export function randomFrom(seed: number): Random {
  return (n) => { seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0; return Math.floor((seed / 2 ** 32) * n); };
}

/** Runs of data, zero and nothing, more of nothing. */
export function randomMap(random: Random): Extent[] {
  const out = new ExtentBuilder<Content>();
  for (let page = 0; page < PAGES; ) {
    const pages = Math.min(1 + random(200), PAGES - page), what = random(5);
    if (what > 2) out.add(page, what === 3 ? Math.min(pages, 1 + random(40)) : pages, what === 3 ? "data" : "zero");
    page += pages;
  }
  return out.extents;
}
