import { expect, test } from "bun:test";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openFd, O_RDONLY } from "../../../src/ffi/fd.ts";
import { MAP_NORESERVE, MAP_PRIVATE, Mapping, PAGE_SIZE, PROT_READ, PROT_WRITE } from "../../../src/ffi/memory.ts";
import { ownPages, zeroTester } from "../../../src/vmm/snapshot/pagemap.ts";

const PAGES = 20_000; // more than one batch

test("ownPages() finds what was written to fresh memory, and which of it is zero", () => {
  const ram = Mapping.anonymous(PAGES * PAGE_SIZE);
  const bytes = ram.bytes();
  for (const page of [0, 1, 9_000, PAGES - 1]) bytes[page * PAGE_SIZE + 5] = 1;
  bytes[4 * PAGE_SIZE] = 1;
  bytes[4 * PAGE_SIZE] = 0;
  expect(ownPages(openFd("/proc/self/pagemap", O_RDONLY), ram.address, PAGES, zeroTester(bytes))).toEqual([
    { page: 0, pages: 2, content: "data" },
    { page: 4, pages: 1, content: "zero" },
    { page: 9_000, pages: 1, content: "data" },
    { page: PAGES - 1, pages: 1, content: "data" },
  ]);
});

test("ownPages() tells pages that a private file mapping has only read from those that were changed", () => {
  const path = join(mkdtempSync(join(tmpdir(), "dormouse-pagemap-")), "memory");
  writeFileSync(path, Buffer.alloc(64 * PAGE_SIZE, 7));
  const ram = Mapping.file(openFd(path, O_RDONLY), 64 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);
  const bytes = ram.bytes();
  let sum = 0;
  for (let page = 0; page < 64; page++) sum += bytes[page * PAGE_SIZE]!;
  expect(sum).toBe(64 * 7);
  bytes[10 * PAGE_SIZE] = 8;
  bytes.fill(0, 20 * PAGE_SIZE, 21 * PAGE_SIZE);
  expect(ownPages(openFd("/proc/self/pagemap", O_RDONLY), ram.address, 64, zeroTester(bytes))).toEqual([
    { page: 10, pages: 1, content: "data" },
    { page: 20, pages: 1, content: "zero" },
  ]);
});
