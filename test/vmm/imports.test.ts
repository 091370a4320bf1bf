// Each guest has a monitor, so what one loads counts once a guest: `node:crypto` alone is 1.7 MiB.
import { expect, test } from "bun:test";
import { join } from "node:path";

test("a monitor imports nothing of Node, and no package", async () => {
  const { success, outputs } = await Bun.build({ entrypoints: [join(import.meta.dir, "../../src/vmm/main.ts")], target: "bun", format: "esm" });
  expect(success).toBe(true);
  const { imports } = new Bun.Transpiler({ loader: "js" }).scan(await outputs[0]!.text());
  expect([...new Set(imports.map(({ path }) => path))]).toEqual(["bun:ffi"]);
});
