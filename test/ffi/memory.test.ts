import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { HUGE_PAGE_SIZE, Mapping, PAGE_SIZE } from "../../src/ffi/memory.ts";

/** Whether the page at `address` is mapped. */
const mapped = (address: number): boolean =>
  readFileSync("/proc/self/maps", "utf8").split("\n").some((line) => {
    const [start, end] = line.split(" ")[0]!.split("-").map((part) => parseInt(part, 16));
    return start !== undefined && end !== undefined && address >= start && address < end;
  });

test("Mapping.aligned() gives whole memory at a huge page's address", () => {
  const mapping = Mapping.aligned(3 * HUGE_PAGE_SIZE + PAGE_SIZE);
  expect(mapping.address % HUGE_PAGE_SIZE).toBe(0);
  expect(mapping.length).toBe(3 * HUGE_PAGE_SIZE + PAGE_SIZE);
  const bytes = mapping.bytes();
  bytes[0] = 1;
  bytes[bytes.length - 1] = 2;
  expect([bytes[0], bytes[1], bytes.at(-1)]).toEqual([1, 0, 2]);
  expect([mapping.address, mapping.address + mapping.length - 1].map(mapped)).toEqual([true, true]);
  mapping.close();
});
