// SIGKILL at every step and in the middle of the work: the next daemon reads the memory as it was, from whichever file is whole.
import { expect, test } from "bun:test";
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { command } from "../../../support/command.ts";
import { killedAt } from "../../../support/killed.ts";
import { TempDir } from "../../../support/paths.ts";
import { Compressor } from "../../../../src/host/snapshots/compression/compressor.ts";
import { sqliteRecords } from "../../../../src/host/snapshots/compression/records.ts";
import { digest, memoryLike, openTables, writeSparse } from "./harness.ts";
import { trashIn } from "../../../support/trash.ts";

const DRIVER = join(import.meta.dir, "driver.ts");
const SIZE = 64 << 20, DATA = [{ at: 1 << 20, data: memoryLike(6 << 20) }, { at: 40 << 20, data: memoryLike(9 << 20, 4) }];
type Work = "compress" | "decompress";

class World {
  private readonly temp = new TempDir("memory");
  readonly expected: string;
  constructor(readonly algorithm: "zstd" | "lz4", readonly level = algorithm === "zstd" ? 1 : 0) {
    mkdirSync(this.temp.join("g"));
    writeSparse(this.temp.join("g", "memory"), SIZE, DATA);
    this.expected = digest(this.temp.join("g", "memory"));
  }

  private argv(work: Work, step: string): string[] {
    return [process.execPath, DRIVER, this.temp.path, this.algorithm, String(this.level), work, step];
  }

  /** Lets the work be done; what was said. */
  finish(work: Work): Promise<string> {
    return command(this.argv(work, ""));
  }

  /** Kills the daemon as soon as it says `line`; true where it was not done by then. */
  kill(work: Work, line: string): Promise<boolean> {
    return killedAt(this.argv(work, line), line);
  }

  files(): string[] {
    return readdirSync(this.temp.join("g")).sort();
  }

  /** What the next daemon makes of it: its record, its files at rest, and the memory. */
  async recovered(): Promise<{ state: string; files: string[]; memory: string; filesAfter: string[]; stateAfter: string }> {
    const store = openTables(this.temp.join("db"));
    const compressor = new Compressor({ records: sqliteRecords(store.db), trash: trashIn(this.temp.path) });
    compressor.resume(() => this.temp.join("g"));
    await compressor.settled();
    const { state } = compressor.state("g"), files = this.files();
    (await compressor.ensureRaw("g", this.temp.join("g")))._unsafeUnwrap();
    const memory = digest(this.temp.join("g", "memory"));
    const result = { state, files, memory, filesAfter: this.files(), stateAfter: compressor.state("g").state };
    await compressor.close();
    store.close();
    return result;
  }

  [Symbol.dispose](): void { this.temp[Symbol.dispose](); }
}

const RAW = ["memory"];

for (const algorithm of ["zstd", "lz4"] as const) {
  const part = `memory.${algorithm}.part`, packed = `memory.${algorithm}`;
  const left: Record<string, string[]> = { begun: ["memory", part], synced: ["memory", part], renamed: ["memory", packed], recorded: ["memory", packed], removed: [packed] };
  for (const [step, files] of Object.entries(left))
    test(`killed at "${step}" of compressing with ${algorithm}: the next one finishes it`, async () => {
      using world = new World(algorithm);
      expect(await world.kill("compress", step)).toBe(true);
      expect(world.files()).toEqual(files);
      expect(await world.recovered()).toEqual({ state: "compressed", files: [packed], memory: world.expected, filesAfter: RAW, stateAfter: "none" });
    });

  const leftBack: Record<string, string[]> = { begun: ["memory.part", packed], synced: ["memory.part", packed], renamed: ["memory", packed], recorded: ["memory", packed], removed: RAW };
  for (const [step, files] of Object.entries(leftBack))
    test(`killed at "${step}" of decompressing ${algorithm}: nothing is lost`, async () => {
      using world = new World(algorithm);
      expect(await world.finish("compress")).toContain("removed");
      expect(await world.kill("decompress", step)).toBe(true);
      expect(world.files()).toEqual(files.toSorted());
      const { state, files: rest, ...after } = await world.recovered();
      // Before the record says "raw", the compressed file is what counts; after it, the raw one.
      expect([state, rest]).toEqual(step === "recorded" || step === "removed" ? ["none", step === "recorded" ? ["memory", packed] : RAW] : ["compressed", [packed]]);
      expect(after).toEqual({ memory: world.expected, filesAfter: RAW, stateAfter: "none" });
    });
}

test("killed again and again while it works, both ways", async () => {
  using world = new World("zstd", 9);
  const kills: boolean[] = [];
  for (let chunk = 1; chunk <= 6; chunk++) {
    kills.push(await world.kill("compress", `chunk ${chunk}`));
    kills.push(await world.kill("compress", "begun"));
  }
  await world.finish("compress");
  for (let chunk = 1; chunk <= 6; chunk++) {
    kills.push(await world.kill("decompress", `chunk ${chunk}`));
    // One daemon compresses what another had just decompressed, or does nothing where it had not.
    kills.push(await world.kill("compress", `chunk ${7 - chunk}`));
  }
  expect(kills).toContain(true);
  expect((await world.recovered()).memory).toBe(world.expected);
});
