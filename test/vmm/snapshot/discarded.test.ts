// What a guest has given up: freed, zero in the next generation, and whatever is written there afterwards is data again.
import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { openFd, O_RDONLY } from "../../../src/ffi/fd.ts";
import { Mapping, PAGE_SIZE } from "../../../src/ffi/memory.ts";
import { overlay, type Content } from "../../../src/machine-state/extents.ts";
import { Discarded } from "../../../src/vmm/snapshot/discarded.ts";
import { PageScan, zeroTester } from "../../../src/vmm/snapshot/pagemap.ts";
import { chainFrom, planDelta, planWhole } from "../../../src/vmm/snapshot/plan.ts";
import { TempDir } from "../../support/paths.ts";

const PAGES = 64;
const at = (page: number) => page * PAGE_SIZE;

function own(ram: Mapping, discarded: Discarded) {
  const scan = new PageScan(openFd("/proc/self/pagemap", O_RDONLY), ram.address, PAGES, zeroTester([ram.bytes()], PAGES));
  while (scan.step());
  return overlay<Content>(scan.extents, discarded.extents);
}

test("memory that was never a file's is empty again", () => {
  const ram = Mapping.anonymous(at(PAGES)), bytes = ram.bytes();
  const discarded = new Discarded(ram, false);
  bytes.fill(1);
  discarded.discard(ram.address + at(8), at(40));
  expect([bytes[at(7)], bytes[at(8)], bytes[at(47)], bytes[at(48)]]).toEqual([1, 0, 0, 1]);
  bytes[at(20)] = 2;
  // Page 8 and 47 were looked at.
  expect(own(ram, discarded).filter(({ content }) => content === "data")).toEqual([{ page: 0, pages: 8, content: "data" }, { page: 20, pages: 1, content: "data" }, { page: 48, pages: 16, content: "data" }]);
  ram.close();
});

test("over a generation's file, given up pages are zero in the next one, delta or whole", () => {
  using dir = new TempDir("discarded");
  writeFileSync(dir.join("memory"), Buffer.alloc(at(PAGES), 7));
  const ram = Mapping.anonymous(at(PAGES)), bytes = ram.bytes();
  // The file has pages 16 to 47; what is around them never had anything.
  ram.replace(at(16), at(32), openFd(dir.join("memory"), O_RDONLY), at(16));
  const chain = chainFrom(["base"], [[{ page: 16, pages: 32, content: "data" }]]);
  const discarded = new Discarded(ram, true);
  bytes[at(20)] = 1; // changed, then given up
  bytes[at(50)] = 1;
  discarded.discard(ram.address + at(12), at(12));
  discarded.discard(ram.address + at(48), at(8));
  bytes[at(22)] = 9; // used anew
  expect([bytes[at(15)], bytes[at(23)], bytes[at(24)], bytes[at(50)]]).toEqual([0, 0, 7, 0]);
  discarded.discard(ram.address + at(12), at(4)); // once more
  expect(planDelta(own(ram, discarded), chain, PAGES)).toEqual([
    { page: 16, pages: 6, content: "zero" }, { page: 22, pages: 1, content: "data" }, { page: 23, pages: 1, content: "zero" },
  ]);
  expect(planWhole(own(ram, discarded), chain)).toEqual([{ page: 22, pages: 1, content: "data" }, { page: 24, pages: 24, content: "data" }]);
  ram.close();
});
