import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { openFd, O_RDONLY } from "../../../src/ffi/fd.ts";
import { MAP_NORESERVE, MAP_PRIVATE, Mapping, PAGE_SIZE, PROT_READ, PROT_WRITE } from "../../../src/ffi/memory.ts";
import { PageScan, zeroTester } from "../../../src/vmm/snapshot/pagemap.ts";
import { TempDir } from "../../support/paths.ts";

function ownPages(ram: Mapping, pages: number, pagemap = openFd("/proc/self/pagemap", O_RDONLY)) {
  const scan = new PageScan(pagemap, ram.address, pages, zeroTester([ram.bytes()], pages));
  while (scan.step());
  return scan.extents;
}

const PAGES = 20_000; // more than one batch

test("PageScan finds what was written to fresh memory, and which of it is zero", () => {
  const ram = Mapping.anonymous(PAGES * PAGE_SIZE);
  const bytes = ram.bytes();
  for (const page of [0, 1, 9_000, PAGES - 1]) bytes[page * PAGE_SIZE + 5] = 1;
  bytes[4 * PAGE_SIZE] = 1;
  bytes[4 * PAGE_SIZE] = 0;
  expect(ownPages(ram, PAGES)).toEqual([
    { page: 0, pages: 2, content: "data" },
    { page: 4, pages: 1, content: "zero" },
    { page: 9_000, pages: 1, content: "data" },
    { page: PAGES - 1, pages: 1, content: "data" },
  ]);
});

test("PageScan tells pages that a private file mapping has only read from those that were changed", () => {
  using temp = new TempDir("pagemap");
  const path = temp.join("memory");
  writeFileSync(path, Buffer.alloc(64 * PAGE_SIZE, 7));
  const ram = Mapping.file(openFd(path, O_RDONLY), 64 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);
  const bytes = ram.bytes();
  let sum = 0;
  for (let page = 0; page < 64; page++) sum += bytes[page * PAGE_SIZE]!;
  expect(sum).toBe(64 * 7);
  bytes[10 * PAGE_SIZE] = 8;
  bytes.fill(0, 20 * PAGE_SIZE, 21 * PAGE_SIZE);
  expect(ownPages(ram, 64)).toEqual([
    { page: 10, pages: 1, content: "data" },
    { page: 20, pages: 1, content: "zero" },
  ]);
});

test("PageScan without a pagemap takes every page for its own", () => {
  const ram = Mapping.anonymous(9_000 * PAGE_SIZE);
  ram.bytes()[8_999 * PAGE_SIZE] = 1;
  expect(ownPages(ram, 9_000, -1)).toEqual([{ page: 0, pages: 8_999, content: "zero" }, { page: 8_999, pages: 1, content: "data" }]);
});

test("zeroTester() looks into the right one of several views", () => {
  const views = [new Uint8Array(2 * PAGE_SIZE), new Uint8Array(2 * PAGE_SIZE)];
  views[1]![PAGE_SIZE + 7] = 1;
  expect([0, 1, 2, 3].map(zeroTester(views, 2))).toEqual([true, true, true, false]);
});
