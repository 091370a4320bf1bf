import { expect, test } from "bun:test";
import { mkdirSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { diskUsage } from "../../src/host/usage.ts";
import { TempDir } from "../support/paths.ts";

test("diskUsage() tells folders apart, counts what is allocated, and takes folders that are not there for empty", async () => {
  using dir = new TempDir("usage");
  for (const [folder, bytes] of [["instances/a", 8192], ["memory/g", 16384], ["volumes/v", 4096]] as const) {
    mkdirSync(join(dir.path, folder), { recursive: true });
    writeFileSync(join(dir.path, folder, "data"), new Uint8Array(bytes).fill(1));
    writeFileSync(join(dir.path, folder, "sparse"), "");
    truncateSync(join(dir.path, folder, "sparse"), 1 << 30);
  }
  const { instanceBytes, snapshotBytes, layerBytes, volumeBytes, memoryBytes, freeBytes } = await diskUsage(dir.path);
  expect({ instanceBytes, snapshotBytes, layerBytes, volumeBytes, memoryBytes }).toEqual({ instanceBytes: 8192, snapshotBytes: 0, layerBytes: 0, volumeBytes: 4096, memoryBytes: 16384 });
  expect(freeBytes).toBeGreaterThan(0);
});
