import { expect, test } from "bun:test";
import { engineOptions, spawnVmm } from "../../../src/host/vmm/spawn.ts";
import { logPaths } from "../../../src/host/vmm/files.ts";
import { TempDir } from "../../support/paths.ts";
import { until } from "../../support/until.ts";

/** What the engine says to it; empty where it runs. */
async function refusal(env: Readonly<Record<string, string>>): Promise<string> {
  const child = Bun.spawn([process.execPath, "-e", "0"], { env, stdin: "ignore", stdout: "ignore", stderr: "pipe" });
  const [words, status] = await Promise.all([new Response(child.stderr).text(), child.exited]);
  return status === 0 ? "" : words.trim();
}

// After an update of Bun: an option that its engine has no more has to go from engineOptions(), or no monitor starts.
test("the engine knows every option that monitors are started with, and refuses one that it doesn't know", async () => {
  const refusals = await Promise.all([...Object.entries(engineOptions(0)), ...Object.entries(engineOptions(2 ** 40))].map(async ([name, value]) => ({ name, refusal: await refusal({ [name]: value }) })));
  expect(refusals.filter((one) => one.refusal !== "")).toEqual([]);
  expect(await refusal({ BUN_JSC_noSuchOption: "1" })).toContain("BUN_JSC_noSuchOption");
});

test("a monitor that ends at once has said why in the vmm log of its folder", async () => {
  using temp = new TempDir("spawn");
  const [log] = logPaths(temp.path, "vmm");
  // It may have ended by the time that it is looked at.
  const spawned = spawnVmm(["/usr/bin/env", "BUN_JSC_noSuchOption=1", process.execPath, "-e", "0"], temp.path);
  if (spawned.isErr()) expect(spawned.error.message).toBe(`Cannot start the monitor: it ended at once; ${log} may say why`);
  await until("its last words", async () => (await Bun.file(log).text()).includes("BUN_JSC_noSuchOption"));
});
