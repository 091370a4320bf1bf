// SIGKILL at every step of a merge, and in the middle of the work: the next daemon finds the old chain or the new one, and nothing else.
import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { killedAt } from "../../../support/killed.ts";
import { TempDir } from "../../../support/paths.ts";
import type { Step } from "../../../../src/host/snapshots/merging/merger.ts";
import { randomFrom, World } from "./world.ts";

const DRIVER = join(import.meta.dir, "driver.ts");

/** Two users of a long chain with a shared one in it, at rest. */
async function prepared(path: string): Promise<{ readonly top: string; readonly low: string; readonly content: string[] }> {
  const world = new World(path), random = randomFrom(12), below = world.chain(4, random), above = world.chain(4, random, below[0]!);
  const top = above[0]!, low = below[0]!;
  world.need("saved", top);
  world.need("snapshot", low);
  const content = [top, low].map((id) => world.content(id));
  await world.close();
  return { top, low, content };
}

/** Kills the daemon as soon as it says `line`; true where it was not done by then. */
const kill = (path: string, line: string): Promise<boolean> => killedAt([process.execPath, DRIVER, path, line], line);

for (const [step, left] of [["begun", 8], ["written", 8], ["synced", 8], ["recorded", 5], ["removed", 5]] as const satisfies [Step, number][])
  test(`killed at "${step}"`, async () => {
    using dir = new TempDir("merging");
    const { top, low, content } = await prepared(dir.path);
    expect(await kill(dir.path, step)).toBe(true);
    const next = new World(dir.path);
    expect([top, low].map((id) => next.content(id))).toEqual(content);
    next.generations.recover();
    expect(next.ids()).toHaveLength(left);
    expect(next.folders().found).toEqual(next.folders().known);
    next.merger.look();
    await next.merger.idle();
    expect(next.ids().toSorted()).toEqual([top, low].toSorted());
    expect([top, low].map((id) => next.content(id))).toEqual(content);
    expect(next.folders().found).toEqual(next.folders().known);
    await next.trash.emptied();
    expect(readdirSync(dir.join("trash"))).toEqual([]);
    expect(next.failures).toEqual([]);
    await next.close();
  });

test("killed again and again while it copies", async () => {
  using dir = new TempDir("merging");
  const { top, low, content } = await prepared(dir.path), kills: boolean[] = [];
  for (const piece of [1, 40, 100, 2, 300]) kills.push(await kill(dir.path, `piece ${piece}`));
  expect(kills).toContain(true);
  const next = new World(dir.path);
  next.generations.recover();
  expect([top, low].map((id) => next.content(id))).toEqual(content);
  next.merger.look();
  await next.merger.idle();
  expect(next.ids().toSorted()).toEqual([top, low].toSorted());
  expect([top, low].map((id) => next.content(id))).toEqual(content);
  await next.close();
});
