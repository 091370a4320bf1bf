import { expect, test } from "bun:test";
import { createId } from "../../src/host/id.ts";

test("createId() draws ids of the contract's kind, each anew and from all signs", () => {
  const ids = Array.from({ length: 5000 }, createId);
  expect(ids.filter((id) => !/^[a-z][a-z0-9]{23}$/.test(id))).toEqual([]);
  expect(new Set(ids).size).toBe(ids.length);
  const drawn = (of: (id: string) => string) => new Set(ids.flatMap((id) => [...of(id)])).size;
  expect([drawn((id) => id.slice(0, 1)), drawn((id) => id.slice(1, 2)), drawn((id) => id.slice(-1))]).toEqual([26, 36, 36]);
});
