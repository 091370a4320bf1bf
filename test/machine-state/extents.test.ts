import { expect, test } from "bun:test";
import { chainOf, coalesce, dataRuns, decodeExtents, encodeExtents, ExtentBuilder, fit, NOWHERE, overlay, within, type Content, type Extent } from "../../src/machine-state/extents.ts";

const PAGES = 64;
let seed = 7;
const random = (n: number) => { seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0; return Math.floor((seed / 2 ** 32) * n); };

/** One content a page, null for nothing: what a map means. */
type Plain = (Content | null)[];
const plainOf = (extents: readonly Extent[]): Plain => {
  const plain: Plain = Array.from({ length: PAGES }, () => null);
  for (const { page, pages, content } of extents) plain.fill(content, page, page + pages);
  return plain;
};
function randomMap(): Extent[] {
  const out = new ExtentBuilder<Content>();
  for (let page = 0; page < PAGES; ) {
    const pages = 1 + random(6);
    const what = random(3);
    if (what > 0) out.add(page, Math.min(pages, PAGES - page), what === 1 ? "data" : "zero");
    page += pages;
  }
  return out.extents;
}

test("overlay() takes the newer map where it says something, else the older", () => {
  for (let round = 0; round < 500; round++) {
    const newer = randomMap(), older = randomMap();
    const expected = plainOf(newer).map((content, i) => content ?? plainOf(older)[i]!);
    const merged = overlay(newer, older);
    expect(plainOf(merged)).toEqual(expected);
    expect(decodeExtents(encodeExtents(merged), PAGES)).toEqual(merged);
  }
});

test("coalesce() keeps all data, adds only gaps, and stays within the limit", () => {
  for (let round = 0; round < 500; round++) {
    const map = randomMap(), limit = 1 + random(8);
    const fewer = coalesce(map, limit);
    expect(fewer.filter((extent) => extent.content === "data").length).toBeLessThanOrEqual(limit);
    plainOf(map).forEach((content, page) => {
      const now = plainOf(fewer)[page]!;
      if (content === "data") expect(now).toBe("data");
      if (content === "zero") expect(["zero", "data"]).toContain(now!);
    });
  }
});

test("coalesce() leaves a map that is small enough as it is", () => {
  const map = randomMap();
  expect(coalesce(map, PAGES)).toEqual(map);
});

test("decodeExtents() refuses what is no map", () => {
  const record = (page: number, pages: number, content: number) => new Uint8Array(new Uint32Array([page, pages, content]).buffer);
  expect(decodeExtents(record(0, 1, 1), 1)).toEqual([{ page: 0, pages: 1, content: "data" }]);
  for (const bad of [record(0, 0, 1), record(0, 2, 1), record(1, 1, 1), record(0, 1, 3), new Uint8Array(5), Buffer.concat([record(0, 1, 1), record(0, 1, 1)])])
    expect(decodeExtents(bad, 1)).toBeNull();
});

test("within() keeps what lies in the mask", () => {
  for (let round = 0; round < 500; round++) {
    const map = randomMap(), mask = randomMap();
    expect(plainOf(within(map, mask))).toEqual(plainOf(map).map((content, i) => (plainOf(mask)[i] === null ? null : content)));
  }
});

/** What each page holds: the number of the map that wrote it, 0 for zeroes. */
const contentOf = (maps: readonly (readonly Extent[])[]) => {
  const pages = Array.from({ length: PAGES }, () => 0);
  maps.toReversed().forEach((map, i) => plainOf(map).forEach((content, page) => { if (content !== null) pages[page] = content === "data" ? i + 1 : 0; }));
  return pages;
};

test("chainOf() says in which file each page is", () => {
  for (let round = 0; round < 300; round++) {
    const maps = [randomMap(), randomMap(), randomMap()];
    const pages = Array.from({ length: PAGES }, () => 0);
    for (const { page, pages: count, content } of chainOf(maps)) pages.fill(content === NOWHERE ? 0 : 3 - content, page, page + count);
    expect(pages).toEqual(contentOf(maps));
  }
});

test("fit() brings the whole chain within the limit, and every page that changed is in the delta", () => {
  for (let round = 0; round < 1000; round++) {
    const older = chainOf([randomMap(), randomMap()]), own = randomMap();
    const limit = Math.max(dataRuns(older).length, 1) + random(3);
    const delta = fit(own, older, PAGES, limit);
    expect(dataRuns(chainOf([delta])).length).toBeLessThanOrEqual(limit);
    const newest = delta.map((extent) => ({ ...extent, content: extent.content === "data" ? 99 : NOWHERE }));
    expect(dataRuns(overlay(newest, older)).length).toBeLessThanOrEqual(limit);
    plainOf(own).forEach((content, page) => {
      const now = plainOf(delta)[page]!;
      if (content === "data") expect(now).toBe("data");
      if (content === "zero") expect(now).not.toBeNull();
    });
    expect(decodeExtents(encodeExtents(delta), PAGES)).toEqual(delta);
  }
});
